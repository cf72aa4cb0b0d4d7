// Checkpoints, on hosts with criu and without it: with a stand-in for the search of programs, and a runtime that
// notes its arguments.
import { afterEach, beforeEach, expect, jest, test } from '@jest/globals';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { CrispError } from '../../errors.js';

const programs = new Set<string>();
jest.unstable_mockModule('../../host/programs.js', () => ({
  searchPath: '/usr/bin:/bin',
  findProgram: (name: string) =>
    programs.has(name)
      ? Promise.resolve(name)
      : Promise.reject(new CrispError('ToolMissing', `${name} is not installed`)),
}));
const { OciBackend } = await import('./backend.js');

let state: string;
let runtime: string;
beforeEach(() => {
  state = mkdtempSync(join(tmpdir(), 'crisp-checkpoint-'));
  runtime = join(state, 'runtime');
  writeFileSync(runtime, `#!/bin/sh\necho "$@" >>'${state}/calls'\n`, { mode: 0o755 });
  programs.clear();
  programs.add(runtime);
});
afterEach(() => rmSync(state, { recursive: true }));

const checkpoint = () =>
  new OciBackend({
    ...{
      name: 'fake',
      path: runtime,
      root: '/root',
      args: [],
      conmon: 'conmon',
      state,
      systemdCgroup: false,
    },
  }).checkpoint({ id: 'a', folder: '/bundle', logPath: '', state: undefined }, '/images', 20_000);

test('a checkpoint is written by the runtime, and the container goes on', async () => {
  programs.add('criu');
  await checkpoint();
  expect(readFileSync(join(state, 'calls'), 'utf8')).toBe(
    '--root=/root checkpoint --image-path /images --work-path /images --leave-running a\n',
  );
});

test('a host without criu has no checkpoints', async () => {
  await expect(checkpoint()).rejects.toMatchObject({ id: 'Unsupported', hint: 'install criu' });
});
