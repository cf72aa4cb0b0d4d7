// Copies of programs in memory, with the real crun.
import { afterAll, afterEach, beforeAll, describe, expect, test } from '@jest/globals';
import {
  appendFileSync,
  chmodSync,
  chownSync,
  closeSync,
  copyFileSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  statSync,
  truncateSync,
  utimesSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setImmediate } from 'node:timers/promises';
import { ownChildren } from './proc.js';
import { firstLine, run, runDetached } from './run.js';
import { sealedProgram } from './sealed-program.js';

const crun = '/usr/bin/crun';
const marker = '_LIBCONTAINER_CLONED_BINARY';
let folder: string;
let made: number | undefined;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'crisp-sealed-'));
});
afterAll(() => {
  rmSync(folder, { recursive: true });
});
afterEach(() => {
  if (made !== undefined) closeSync(made);
  made = undefined;
});

function sealed(path: string): number {
  made = sealedProgram(path);
  if (made === undefined) throw new Error(`${path} was not copied`);
  return made;
}

test('a copy of crun has its bytes, and not even root can change them', () => {
  const copy = sealed(crun);
  expect(readFileSync(`/proc/self/fd/${copy}`).equals(readFileSync(crun))).toBe(true);
  expect(() => writeSync(copy, 'x', 0)).toThrow(/EPERM/);
  expect(() => {
    appendFileSync(`/proc/self/fd/${copy}`, 'x');
  }).toThrow(/EPERM/);
  expect(() => {
    truncateSync(`/proc/self/fd/${copy}`);
  }).toThrow(/EPERM/);
});

test.each<[string, (path: string) => void]>([
  ['mode', (path) => chmodSync(path, 0)],
  ['owner', (path) => chownSync(path, 1, 1)],
  ['times', (path) => utimesSync(path, 1, 1)],
])('nor its %s, without which it could not be run, and root is not its owner', (_what, change) => {
  const path = `/proc/self/fd/${sealed(crun)}`;
  expect(() => change(path)).toThrow(/EPERM/);
  expect(statSync(path).uid).toBeGreaterThan(2 ** 31);
});

describe('is run', () => {
  test('under the name of its first argument, although a file of that name does not exist', async () => {
    const program = sealed(crun);
    const { stdout } = await run(['/none/crun', '--version'], { timeoutMs: 20_000, program });
    expect(stdout).toMatch(/^crun version /);
  });

  test('with the name of its file in the list of children', async () => {
    const [sleep, marked] = ['/bin/sleep', join(folder, 'sleeper')];
    copyFileSync(sleep, marked);
    appendFileSync(marked, marker);
    const stop = new AbortController();
    const ended = run(['sleep', '1000'], { timeoutMs: 0, program: sealed(marked), signal: stop.signal });
    const names = () => ownChildren().map(({ name }) => name);
    while (!names().includes('sleeper')) await setImmediate();
    expect(names()).not.toContain('3');
    stop.abort();
    await expect(ended).rejects.toMatchObject({ id: 'Cancelled' });
  });

  test('by a child that inherits it after its pipes', async () => {
    const { pipes, exited } = await runDetached(['/bin/sh', '-c', '/proc/self/fd/4 --version >&3'], {
      pipes: ['read'],
      inherited: sealed(crun),
    });
    const [answers] = pipes;
    if (!answers) throw new Error('no pipe');
    expect(await firstLine(answers, 20_000)).toMatch(/^crun version /);
    expect(await exited).toBe(0);
  });
});

describe('is not copied', () => {
  test.each<[string, string | Buffer]>([
    ['a script', `#!/bin/sh\n# ${marker}\n`],
    ['a program that does not run itself again', '\x7fELF'],
    ['a large program', Buffer.concat([Buffer.from(`\x7fELF${marker}`), Buffer.alloc(4 << 20)])],
  ])('%s', (_what, content) => {
    const path = join(folder, 'program');
    writeFileSync(path, content, { mode: 0o755 });
    expect(sealedProgram(path)).toBeUndefined();
  });

  test('a file that cannot be run or read', () => {
    const path = join(folder, 'locked');
    copyFileSync(crun, path);
    chmodSync(path, 0o644);
    for (const other of [path, folder, join(folder, 'none')]) expect(sealedProgram(other)).toBeUndefined();
  });

  test('but one with that text is', () => {
    const path = join(folder, 'program');
    copyFileSync('/bin/true', path);
    expect(sealedProgram(path)).toBeUndefined();
    appendFileSync(path, marker);
    expect(sealed(path)).toBeGreaterThan(2);
  });
});
