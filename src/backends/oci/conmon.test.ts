// conmon's arguments, answers and control FIFO, with a shell script as a stand-in.
import { afterEach, beforeEach, describe, expect, jest, test } from '@jest/globals';
import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, lstatSync, mkdtempSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { CrispError } from '../../errors.js';
import { monitor, monitorArgv, reopenLog, resize, type MonitorPlan } from './conmon.js';
import { present } from '../../../test/helpers/offenders.js';

let folder: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'crisp-conmon-'));
});
afterEach(() => rmSync(folder, { recursive: true }));

const plan = (more: Partial<MonitorPlan> = {}): MonitorPlan => ({
  conmon: '/usr/bin/conmon',
  runtime: '/usr/bin/crun',
  runtimeArgs: ['--root=/state', '--x'],
  id: 'the-id',
  bundle: folder,
  exitDir: '/exits',
  log: true,
  terminal: false,
  stdin: false,
  stdinOnce: false,
  ownStreams: false,
  ...more,
});

test('its arguments name the container, its folders, its runtime and its log', () => {
  expect(monitorArgv(plan())).toEqual([
    '/usr/bin/conmon',
    ...['--cid', 'the-id', '--cuuid', 'the-id', '--name', 'the-id'],
    ...['--runtime', '/usr/bin/crun', '--runtime-arg', '--root=/state', '--runtime-arg', '--x'],
    ...['--bundle', folder, '--persist-dir', folder, '--container-pidfile', join(folder, 'pid')],
    ...['--exit-dir', '/exits', '--log-path', 'k8s-file:logfile', '--log-level', 'error'],
    ...['--full-attach', '--no-sync-log'],
  ]);
});

test.each<[Partial<MonitorPlan>, string[]]>([
  [{ terminal: true }, ['--terminal']],
  [{ stdin: true }, ['--stdin', '--leave-stdin-open']],
  [{ stdin: true, stdinOnce: true }, ['--stdin']],
  [{ stdinOnce: true }, []],
])('receives %j for %j', (more, options) => {
  expect(monitorArgv(plan(more)).slice(monitorArgv(plan()).length)).toEqual(options);
});

test('a container without a log has none', () => {
  const argv = monitorArgv(plan({ log: false }));
  expect(argv[argv.indexOf('--log-path') + 1]).toBe('off:');
});

test.each<[Partial<MonitorPlan>, string]>([
  [{}, ' <<END\nEND'],
  [{ stdin: true }, ''],
  [{ terminal: true }, ' >&2 <<END\nEND'],
  [{ terminal: true, stdin: true }, ' >&2 <<END\nEND'],
])('with streams of its own, and %j, the runtime is run by a shell', (more, redirections) => {
  const argv = monitorArgv(plan({ ownStreams: true, ...more }));
  const runtime = argv.indexOf('--runtime');
  expect(argv.slice(runtime, runtime + 8)).toEqual([
    ...['--runtime', '/bin/sh', '--runtime-arg', '-c', '--runtime-arg', `exec "$0" "$@"${redirections}`],
    ...['--runtime-arg', '/usr/bin/crun'],
  ]);
});

describe('the answer', () => {
  const explain = (words: string) => new CrispError('StartFailed', words);
  const answered = (script: string) => {
    const conmon = join(folder, 'conmon');
    writeFileSync(conmon, `#!/bin/sh\npwd >cwd\n${script}\n`, { mode: 0o755 });
    return monitor(plan({ conmon }), explain);
  };

  test('is the pid of the first process; conmon runs in the bundle folder', async () => {
    expect(await answered(`echo '{"pid": 77}' >&$_OCI_SYNCPIPE`)).toBe(77);
    expect(readFileSync(join(folder, 'cwd'), 'utf8')).toBe(`${folder}\n`);
  });

  test.each([
    [`echo '{"pid": -1, "message": "it failed"}' >&3`, 'it failed'],
    [`echo '{"message": "it failed"}' >&3`, 'it failed'],
    [`echo '{"pid": 0}' >&3`, 'conmon answered 0'],
    ['exit 1', 'conmon ended without an answer'],
  ])('of %s is an error', async (script, message) => {
    await expect(answered(script)).rejects.toMatchObject({ id: 'StartFailed', message });
  });
});

describe('the control FIFO', () => {
  const fifo = () => join(folder, 'ctl');
  beforeEach(() => {
    execFileSync('mkfifo', [fifo()]);
  });

  /** Reads the first line that is written to the FIFO. */
  async function listening(): Promise<{ line: Promise<string>; end: () => void }> {
    const reader = spawn('sh', ['-c', 'exec 3<>"$0"; echo up; read -r line <&3; echo "$line"', fifo()], {
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    await once(reader.stdout, 'data');
    const line = once(reader.stdout, 'data').then(([data]) => String(data).trim());
    return { line, end: () => reader.kill('SIGKILL') };
  }

  test('takes the terminal size as height and width', async () => {
    const { line, end } = await listening();
    await resize(folder, { width: 80, height: 24 });
    expect(await line).toBe('1 24 80');
    end();
  });

  test('has no reader after the container has ended: no resize and no log reopen', async () => {
    await resize(folder, { width: 80, height: 24 });
    writeFileSync(join(folder, 'logfile'), '');
    const log = join(folder, 'new.log');
    await expect(reopenLog(folder, log)).rejects.toMatchObject({ id: 'WrongContainerState' });
    expect(present(join(folder, 'logfile.tmp'))).toEqual([]);
    rmSync(fifo());
    await expect(reopenLog(folder, log)).rejects.toMatchObject({ id: 'WrongContainerState' });
    writeFileSync(fifo(), 'no FIFO');
    await resize(folder, { width: 80, height: 24 });
  });

  test('reopens the log: conmon renames a new file over the link', async () => {
    writeFileSync(join(folder, 'logfile'), '');
    const log = join(folder, 'new.log');
    writeFileSync(log, 'rotated away by then');
    const { line, end } = await listening();
    let reopened = false;
    const done = reopenLog(folder, log).then(() => (reopened = true));
    expect(await line).toBe('2 0 0');
    expect(reopened).toBe(false);
    const link = join(folder, 'logfile.tmp');
    expect(lstatSync(link).isSymbolicLink()).toBe(true);
    writeFileSync(link, 'of conmon'); // through the link
    expect(readFileSync(log, 'utf8')).toBe('of conmon');
    renameSync(link, join(folder, 'logfile'));
    await done;
    end();
  });

  test('a conmon that is late is an error, and still finds the new file afterwards', async () => {
    writeFileSync(join(folder, 'logfile'), '');
    const log = join(folder, 'new.log');
    const { line, end } = await listening();
    const link = join(folder, 'logfile.tmp');
    jest.useFakeTimers({ doNotFake: ['nextTick', 'queueMicrotask', 'setImmediate', 'clearImmediate'] });
    try {
      let failure: unknown;
      reopenLog(folder, log).catch((error: unknown) => (failure = error));
      await line;
      const pass = async (ms: number): Promise<void> => {
        for (let at = 0; at < ms; at += 10, await nextTurn()) jest.advanceTimersByTime(10);
      };
      while (failure === undefined) await pass(10);
      expect(failure).toMatchObject({ id: 'ToolTimeout' });
      await pass(10_000);
      writeFileSync(link, 'of conmon'); // through the link
      expect(readFileSync(log, 'utf8')).toBe('of conmon');
      renameSync(link, join(folder, 'logfile'));
      while (existsSync(join(folder, 'logfile'))) await pass(10); // its end is closed then
    } finally {
      jest.useRealTimers();
      end();
    }
  });

  test('a conmon of an earlier version reopens its log by its path', async () => {
    const log = join(folder, 'logs', 'old.log');
    const { line, end } = await listening();
    const done = reopenLog(folder, log);
    expect(await line).toBe('2 0 0');
    writeFileSync(log, '');
    await done;
    end();
  });

  test('without a log there is nothing to reopen', async () => {
    await reopenLog(folder, '');
  });
});
