import { afterEach, beforeEach, expect, test } from '@jest/globals';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { checkConfig } from '../config/config.js';
import { flagSource } from '../config/source.js';
import { buildBackend } from './build.js';
import { OciBackend } from './oci/backend.js';
import { PctBackend } from './pct/backend.js';

let state: string;
beforeEach(() => {
  state = mkdtempSync(join(tmpdir(), 'crisp-build-'));
});
afterEach(() => rmSync(state, { recursive: true }));

function build(name: string, handler: object, runtime: object = {}) {
  const config = checkConfig([flagSource({ handlers: { [name]: handler }, runtime })]);
  const made = config.handlers[name];
  if (!made) throw new Error('no such handler');
  return buildBackend(config, name, made, state);
}

test('a handler of type oci runs its own binary with its own root', async () => {
  const made = build('mine', { type: 'oci', path: '/opt/crun', root: '/run/mine', args: ['--debug'] });
  expect(made).toBeInstanceOf(OciBackend);
  expect(made.name).toBe('mine');
  const { ociRuntime, runtime, exits } = made as OciBackend;
  expect(ociRuntime).toEqual({ path: '/opt/crun', args: ['--debug'] });
  expect(runtime.globalArgs).toEqual(['--debug', '--root=/run/mine']);
  expect(exits.folder).toBe(join(state, 'exits/mine'));
  await made.close();
});

test.each([
  ['systemd', true],
  ['cgroupfs', false],
])('with the cgroup driver %s its containers have scopes: %p', async (cgroup_driver, scopes) => {
  const made = build('crun', { type: 'oci' }, { cgroup_driver }) as OciBackend;
  expect(made.systemdCgroup).toBe(scopes);
  expect(made.runtime.globalArgs.includes('--systemd-cgroup')).toBe(scopes);
  await made.close();
});

test('a handler of type pct makes CTs', async () => {
  const made = build('lxc', { type: 'pct' }) as PctBackend;
  expect(made).toBeInstanceOf(PctBackend);
  expect([made.name, made.exits.folder]).toEqual(['lxc', join(state, 'exits/lxc')]);
  await made.close();
});
