// Execs with a stand-in for the runtime: a shell that prints the files and arguments it gets.
import { afterEach, beforeEach, expect, test } from '@jest/globals';
import { mkdirSync, mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { PassThrough } from 'node:stream';
import { text } from 'node:stream/consumers';
import { CrispError } from '../../errors.js';
import type { Process } from '../../shapes/spec.js';
import type { ContainerRef, ExecPlan } from '../backend.js';
import { exec } from './exec.js';
import { Runtime } from './runtime.js';

let folder: string;
let mask: number;
beforeEach(() => {
  mask = process.umask(0); // so that file modes depend only on crisp
  folder = mkdtempSync(join(tmpdir(), 'crisp-exec-'));
  mkdirSync(join(folder, 'bundle'));
});
afterEach(() => {
  process.umask(mask);
  rmSync(folder, { recursive: true });
});

/** Runs this script as the runtime; $words is its log file, $process the file of the process. */
function runtime(script: string): Runtime {
  return {
    program: () => Promise.resolve(undefined),
    argvLogging: async (words: string, ...args: string[]) => [
      'env',
      `words=${words}`,
      `process=${args[args.indexOf('--process') + 1]}`,
      'sh',
      '-c',
      script,
      ...args,
    ],
    explain: (verb: string, words: string) =>
      /container/.test(words)
        ? new Runtime({ name: 'fake', path: '', args: [], root: '', systemdCgroup: false }).explain(
            verb,
            words,
          )
        : new CrispError('RuntimeFailed', `${verb}: ${words}`),
  } as unknown as Runtime;
}
const own = { args: ['own'], env: ['SECRET=word'], cwd: '/', user: { uid: 7, gid: 8 } } as unknown as Process;
const container = () => ({ id: 'c', folder: join(folder, 'bundle') }) as unknown as ContainerRef;
const run = async (script: string, terminal: boolean, more: Partial<ExecPlan> = {}) => {
  const stdout = new PassThrough();
  const said = text(stdout);
  const plan = { args: ['sh', '-c', 'x'], io: { terminal, stdout }, ...more } as ExecPlan;
  const { exitCode } = await exec(runtime(script), container(), own, plan, new AbortController().signal);
  stdout.end();
  return { exitCode, said: await said };
};

test('the files of an exec, which hold the environment, are accessible to root alone and are removed with it', async () => {
  const { exitCode, said } = await run('stat -c %a "$process"; cat "$process"; exit 7', false);
  const [mode, ...content] = said.split('\n');
  expect([exitCode, mode]).toEqual([7, '600']);
  expect(JSON.parse(content.join(''))).toEqual({
    ...own,
    args: ['sh', '-c', 'x'],
    env: ['SECRET=word'],
    terminal: false,
  });
  expect(readdirSync(join(folder, 'bundle'))).toEqual([]);
});

test('the files of an exec with a terminal and their folder are accessible to root alone as well', async () => {
  const look = 'stat -c %a "$process" "${process%/*}" "${process%/*/*}" >"$words"; cat "$process" >>"$words"';
  const failed = (await run(`${look}; exit 1`, true).catch((error: unknown) => error)) as CrispError;
  const [file, its, all, ...content] = failed.message.replace('exec: ', '').split('\n');
  expect([file, its, all]).toEqual(['600', '700', '700']);
  expect(JSON.parse(content.join(''))).toMatchObject({ env: ['SECRET=word', 'TERM=xterm'], terminal: true });
  expect(readdirSync(join(folder, 'bundle', 'execs'))).toEqual([]);
});

test('an exec with a terminal leaves the files of its runtime in a folder of its own', async () => {
  const failed = (await run('echo "$process" >"$words"; printf "%s\\n" "$@" >>"$words"; exit 1', true).catch(
    (error: unknown) => error,
  )) as CrispError;
  const [file = '', ...argv] = failed.message.replace('exec: ', '').trim().split('\n');
  const socket = argv[argv.indexOf('--console-socket') + 1];
  expect(argv).toEqual([
    ...['--detach', '--console-socket', socket],
    ...['--pid-file', join(dirname(file), 'pid'), '--process', file, 'c'],
  ]);
  expect(dirname(dirname(file))).toBe(join(folder, 'bundle', 'execs'));
});

test('an exec gets additional environment variables, and keeps a TERM that is set', async () => {
  const { said } = await run('cat "$process"', false, { env: ['A=b'] });
  expect((JSON.parse(said) as Process).env).toEqual(['SECRET=word', 'A=b']);
  const failed = (await run('cat "$process" >"$words"; exit 1', true, { env: ['TERM=vt100'] }).catch(
    (error: unknown) => error,
  )) as CrispError;
  expect(JSON.parse(failed.message.replace('exec: ', ''))).toMatchObject({
    env: ['SECRET=word', 'TERM=vt100'],
  });
});

test.each([
  ['exec sh: executable file not found in $PATH', 127],
  ['exec sh: permission denied', 126],
  ['something else', 1],
])('a runtime that says "%s" has the exit code %i', async (words, code) => {
  expect((await run(`echo '${words}' >"$words"; exit 1`, false)).exitCode).toBe(code);
});

test.each([
  ['2026-11-30T01:41:00.123456Z: the container `abc` is not running', 1, 'WrongContainerState'],
  ['time="…" level=error msg="exec failed: cannot exec in a stopped container"', 255, 'WrongContainerState'],
  ['time="…" level=error msg="container does not exist"', 1, 'ContainerNotFound'],
])('an exec fails if its container has ended: a runtime that says %s', async (words, code, id) => {
  const said = run(`cat >"$words" <<'END'\n${words}\nEND\nexit ${code}`, false);
  await expect(said).rejects.toMatchObject({ id });
});

test('a command that exits with 0 succeeds, whatever the runtime prints', async () => {
  expect((await run('echo "exec sh: permission denied" >"$words"', false)).exitCode).toBe(0);
});

test('a command that exceeds its timeout is killed', async () => {
  await expect(run('exec sleep 60', false, { timeoutMs: 50 })).rejects.toMatchObject({ id: 'ExecTimeout' });
});

test('a runtime that is killed is reported as killed', async () => {
  await expect(run('kill -9 $$', false)).rejects.toMatchObject({
    id: 'RuntimeFailed',
    message: expect.stringContaining('SIGKILL'),
  });
});

test('a runtime that says more than is kept is not held up by that', async () => {
  const failed = (await run('yes | head -c 1000000 >&2; exit 1', true).catch(
    (error: unknown) => error,
  )) as CrispError;
  expect(failed.message).toMatch(/^exec: (y\n){4096}$/);
});
