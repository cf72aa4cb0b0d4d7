import { afterEach, beforeEach, expect, test } from '@jest/globals';
import { chmodSync, mkdirSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { configSchema } from '../config/config.js';
import type { Backend, Probe } from './backend.js';
import { keptProbe, probeOnce, type ProbeInput } from './probe-once.js';

let folder: string;
let probes: number;
let recalled: Probe[];
let result: Probe;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'crisp-once-'));
  mkdirSync(join(folder, 'state'));
  mkdirSync(join(folder, 'root'));
  [probes, recalled] = [0, []];
  result = {
    ready: true,
    reason: '',
    version: 'fake 1',
    features: { recursiveReadOnlyMounts: true, userNamespaces: false },
    lacks: { userNamespaces: 'no' },
    found: { copies: 1 },
  };
});
afterEach(() => rmSync(folder, { recursive: true }));

const input = (change: Partial<ProbeInput> = {}): ProbeInput => ({
  config: configSchema.parse({
    state: join(folder, 'state'),
    root: join(folder, 'root'),
    default_container_type: 'fake',
    fallback: {},
    routing: { crun_name_patterns: [] },
    handlers: { fake: { type: 'oci', path: '/usr/bin/fake' }, other: { type: 'oci' } },
  }),
  state: join(folder, 'state'),
  name: 'fake',
  backend: {
    probe: () => {
      probes++;
      return Promise.resolve(result);
    },
    recall: (probe: Probe) => recalled.push(probe),
  } as unknown as Backend,
  fingerprint: 'f',
  ...change,
});
const file = (): string => join(folder, 'state/probed/fake.json');

test('a handler is probed once; from then on the result is recalled', async () => {
  expect(await keptProbe(input())).toBeUndefined();
  expect(await probeOnce(input())).toEqual(result);
  expect([probes, recalled]).toEqual([1, []]);
  expect(await probeOnce(input())).toEqual(result);
  expect(await keptProbe(input())).toEqual(result);
  expect([probes, recalled]).toEqual([1, [result, result]]);
  expect((statSync(join(folder, 'state/probed')).mode & 0o777).toString(8)).toBe('700');
});

test('a handler that is not ready is probed each time, and its earlier result is gone', async () => {
  await probeOnce(input());
  result = { ...result, ready: false, reason: 'it is broken' };
  expect(await probeOnce(input({ fingerprint: 'g' }))).toEqual(result);
  expect(await probeOnce(input({ fingerprint: 'f' }))).toEqual(result);
  expect(probes).toBe(3);
});

test.each<[string, () => Partial<ProbeInput>]>([
  ['the programs', () => ({ fingerprint: 'g' })],
  ['the handler', () => ({ config: { ...input().config, handlers: {} } })],
  [
    'the settings of the runtimes',
    () => ({
      config: {
        ...input().config,
        runtime: { ...input().config.runtime, conmon: '/x' },
      },
    }),
  ],
  [
    'the settings of CTs',
    () => ({ config: { ...input().config, lxc: { ...input().config.lxc, tag: 'x' } } }),
  ],
  [
    'the access to the state folder',
    () => {
      chmodSync(join(folder, 'state'), 0o711);
      return {};
    },
  ],
  [
    'the access to the root folder',
    () => {
      chmodSync(join(folder, 'root'), 0o711);
      return {};
    },
  ],
])('it is probed again after a change of %s', async (_, change) => {
  await probeOnce(input());
  expect(await keptProbe(input(change()))).toBeUndefined();
  await probeOnce(input(change()));
  expect(probes).toBe(2);
});

test('its result is that of this boot and of this limit of user namespaces', async () => {
  await probeOnce(input());
  const { key } = JSON.parse(readFileSync(file(), 'utf8')) as { key: string };
  for (const fact of ['random/boot_id', '../user/max_user_namespaces'])
    expect(key).toContain(readFileSync(join('/proc/sys/kernel', fact), 'utf8').trim());
});

test.each(['', '{', '{}', 'null', '{"key":1}'])('a result that is damaged is none: %j', async (text) => {
  await probeOnce(input());
  writeFileSync(file(), text);
  expect(await keptProbe(input())).toBeUndefined();
  await probeOnce(input());
  expect(probes).toBe(2);
  expect(JSON.parse(readFileSync(file(), 'utf8'))).toMatchObject({ probe: { version: 'fake 1' } });
});
