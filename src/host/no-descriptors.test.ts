// The limit of open files is lowered, so that only a few descriptors are free, and raised again.
import { expect, test } from '@jest/globals';
import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, openSync, readdirSync } from 'node:fs';
import { until } from '../../test/helpers/wait.js';
import { childrenOf, identify, isAlive, killTree, signalProcess, type ProcessIdentity } from './proc.js';
import { onProcessEnd } from './process-end.js';
import { run, runDetached } from './run.js';
import { pipe } from './syscalls.js';

/** Runs `work` while only `free` descriptors are free. */
async function withFree<T>(free: number, work: () => Promise<T>): Promise<T> {
  const [soft = ''] = limit('--noheadings', '--output=SOFT').split('\n');
  // Spare ones, since prlimit cannot be started without descriptors.
  const held = Array.from({ length: 30 }, () => openSync('/', 'r'));
  try {
    limit(`--nofile=${Math.max(...held) + 1}:`);
    // Lower numbers that are free are taken as well.
    for (let more = true; more;) more = take(held);
    for (let count = 0; count < free; count++) closeSync(held.pop() as number);
    return await work();
  } finally {
    for (const fd of held) closeSync(fd);
    limit(`--nofile=${soft.trim()}:`);
  }
}
function limit(...change: string[]): string {
  const what = change[0]?.startsWith('--nofile') ? [] : ['--nofile'];
  return execFileSync('prlimit', ['--pid', String(process.pid), ...what, ...change], { encoding: 'utf8' });
}
function take(held: number[]): boolean {
  try {
    held.push(openSync('/', 'r'));
    return true;
  } catch {
    return false;
  }
}
const open = (): number => readdirSync('/proc/self/fd').length;
/** The children that were not there before: those of other files may end meanwhile. */
const childrenSince = async (before: readonly number[]): Promise<number[]> =>
  (await childrenOf(process.pid)).filter((pid) => !before.includes(pid));

async function sleeping(): Promise<{ process: ProcessIdentity; end: () => Promise<void> }> {
  const child = spawn('sleep', ['1000']);
  await once(child, 'spawn');
  return {
    process: (await identify(child.pid ?? 0)) as ProcessIdentity,
    end: async () => {
      child.kill('SIGKILL');
      await once(child, 'exit');
    },
  };
}

// A pidfd, and for its socket a pipe: three.
test.each([0, 1, 2])('a program that cannot be watched, with %i descriptors, is ended', async (free) => {
  const [children, files] = [await childrenOf(process.pid), open()];
  await withFree(free, async () => {
    await expect(runDetached(['sleep', '1000'])).rejects.toMatchObject({ id: 'LimitReached' });
  });
  expect(await childrenSince(children)).toEqual([]);
  expect(open()).toBeLessThanOrEqual(files);
});

test.each([0, 1, 2, 3, 4, 5, 6])(
  'with %i descriptors, too few for its streams, none is lost',
  async (free) => {
    const [children, files] = [await childrenOf(process.pid), open()];
    await withFree(free, async () => {
      const ended = run(['sleep', '1000'], { timeoutMs: 20_000 });
      await expect(ended).rejects.toMatchObject({ id: 'LimitReached' });
    });
    expect(await childrenSince(children)).toEqual([]);
    await until(() => open() <= files);
  },
);

test('a process that cannot be opened is not told to have ended, and is not signalled', async () => {
  const { process, end } = await sleeping();
  try {
    await withFree(0, async () => {
      const refused = expect.objectContaining({ code: 'EMFILE' });
      expect(() => onProcessEnd(process, () => undefined)).toThrow(refused);
      await expect(signalProcess(process, 9)).rejects.toEqual(refused);
      await expect(killTree(process)).rejects.toEqual(refused);
      expect(pipe).toThrow(/^pipe2: /);
    });
    expect(await isAlive(process)).toBe(true);
  } finally {
    await end();
  }
});
