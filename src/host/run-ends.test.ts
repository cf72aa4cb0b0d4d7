// How a program ends, is stopped, and what its streams are. Real programs.
import { afterEach, describe, expect, jest, test } from '@jest/globals';
import { mkdtempSync, readFileSync, rmSync, statSync, symlinkSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { PassThrough, Readable, Writable, type Duplex } from 'node:stream';
import { text } from 'node:stream/consumers';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { fakeTimeouts } from '../../test/helpers/services.js';
import { metrics } from '../metrics.js';
import { firstLine, run, runDetached, runStreaming, shown } from './run.js';

afterEach(() => {
  jest.useRealTimers();
});

const timeoutMs = 20_000;
const sh = (script: string) => ['sh', '-c', script] as const;

describe('the error of a program', () => {
  test('has its exit code, output, step and name, without its folder', async () => {
    await expect(
      run(['/bin/sh', '-c', 'echo out; echo err >&2; exit 3'], { timeoutMs, stage: 'try it' }),
    ).rejects.toMatchObject({
      id: 'RuntimeFailed',
      message: 'sh exited with 3',
      argv: ['/bin/sh', '-c', 'echo out; echo err >&2; exit 3'],
      exitCode: 3,
      signal: undefined,
      stdout: 'out\n',
      stderr: 'err\n',
      stage: 'try it',
      tool: 'sh',
      durationMs: expect.any(Number),
    });
  });

  test('is that of the caller, for an exit code that is not expected', async () => {
    const failing = { timeoutMs, errorId: 'CniFailed' as const };
    await expect(run(sh('exit 3'), failing)).rejects.toMatchObject({ id: 'CniFailed' });
    await expect(run(sh('exit 0'), { ...failing, okExitCodes: [3] })).rejects.toMatchObject({
      message: 'sh exited with 0',
    });
    for (const okExitCodes of [[3, 4], 'any'] as const)
      expect((await run(sh('exit 3'), { ...failing, okExitCodes })).exitCode).toBe(3);
    await expect(run(sh('kill -9 $$'), { ...failing, okExitCodes: 'any' })).rejects.toMatchObject({
      message: 'sh was ended by SIGKILL',
    });
  });

  test('names the signal, or its number', async () => {
    for (const [number, name] of [
      [12, 'SIGUSR2'],
      [35, 'signal 35'],
    ] as const)
      await expect(run(sh(`kill -${number} $$`), { timeoutMs })).rejects.toMatchObject({ signal: name });
  });

  test('that could not be started has no output', async () => {
    await expect(run(['/no/such/tool'], { timeoutMs })).rejects.toMatchObject({ stdout: '', stderr: '' });
  });

  test('after its limit or an abort says so, whatever its exit code', async () => {
    const exits = sh('trap "exit 0" TERM; echo up >&2; while :; do sleep 0.01; done');
    await expect(run(exits, { timeoutMs: 300, okExitCodes: 'any' })).rejects.toMatchObject({
      id: 'ToolTimeout',
      message: 'sh did not end within 300 ms',
      exitCode: 0,
    });
    const caller = new AbortController();
    const stderr = new PassThrough();
    const running = await runStreaming(
      exits,
      { stderr },
      { timeoutMs, signal: caller.signal, okExitCodes: 'any' },
    );
    await firstLine(stderr, timeoutMs);
    caller.abort();
    await expect(running.ended).rejects.toMatchObject({
      id: 'Cancelled',
      message: 'sh was stopped: the call was cancelled',
    });
  });
});

test('a program that ignores TERM is killed five seconds later', async () => {
  const stderr = new PassThrough();
  const caller = new AbortController();
  const running = await runStreaming(
    sh('trap "" TERM; echo up >&2; while :; do read line; done'),
    { stdin: new PassThrough(), stderr },
    { timeoutMs: 0, signal: caller.signal },
  );
  await firstLine(stderr, timeoutMs);
  fakeTimeouts();
  caller.abort();
  jest.advanceTimersByTime(4_999);
  expect(running.present()).toBe(true);
  jest.advanceTimersByTime(1);
  await expect(running.ended).rejects.toMatchObject({ id: 'Cancelled', signal: 'SIGKILL' });
  expect(running.present()).toBe(false);
});

describe('the result of a program', () => {
  test('has the time that it took, and no output that a stream has got', async () => {
    const outputFolder = mkdtempSync(join(tmpdir(), 'crisp-ends-'));
    const stderr = new PassThrough();
    try {
      for (const work of [
        () => run(['true'], { timeoutMs }),
        () => run(['true'], { timeoutMs, outputFolder }),
        async () => (await runStreaming(sh('echo err >&2'), { stderr }, { timeoutMs })).ended,
      ]) {
        const start = performance.now();
        const result = await work();
        expect(result).toMatchObject({ stdout: '', stderr: '' });
        expect(result.durationMs).toBeGreaterThan(0);
        expect(result.durationMs).toBeLessThanOrEqual(performance.now() - start);
      }
    } finally {
      rmSync(outputFolder, { recursive: true });
    }
  });

  test('is counted by its kind for each tool', async () => {
    const folder = mkdtempSync(join(tmpdir(), 'crisp-ends-'));
    const tool = join(folder, basename(folder)); // a name of its own
    symlinkSync('/bin/sleep', tool);
    try {
      await run([tool, '0'], { timeoutMs });
      await expect(run([tool, 'x'], { timeoutMs })).rejects.toMatchObject({ exitCode: 1 });
      await expect(run([tool, '1000'], { timeoutMs: 50 })).rejects.toMatchObject({ id: 'ToolTimeout' });
    } finally {
      rmSync(folder, { recursive: true });
    }
    const counts = metrics.tools
      .lines()
      .map((line) => /_count{tool="(.*?)",result="(.*?)"} (\d+)$/.exec(line)?.slice(1) ?? [])
      .filter(([name]) => name === basename(tool));
    expect(counts.map(([, ...count]) => count)).toEqual([
      ['ok', '1'],
      ['failed', '1'],
      ['timeout', '1'],
    ]);
  });
});

describe('output', () => {
  test('is kept up to a mebibyte by default, however it comes', async () => {
    const { stdout, stderr } = await run(sh('head -c 2000000 /dev/zero | tr "\\0" x; printf 12345 >&2'), {
      timeoutMs,
    });
    expect([stdout.length, stderr]).toEqual([1_048_576, '12345']);
    const pieces = await run(sh('printf abc; sleep 0.1; printf def; sleep 0.1; printf ghi'), {
      timeoutMs,
      maxOutputBytes: 5,
    });
    expect(pieces.stdout).toBe('abcde');
  });

  test('in files is kept up to its limit too', async () => {
    const outputFolder = mkdtempSync(join(tmpdir(), 'crisp-ends-'));
    try {
      const { stdout, stderr } = await run(sh('printf abcdef; printf 123 >&2'), {
        timeoutMs,
        outputFolder,
        maxOutputBytes: 4,
      });
      expect([stdout, stderr]).toEqual(['abcd', '123']);
    } finally {
      rmSync(outputFolder, { recursive: true });
    }
  });
});

describe('the reader of output that it does not take', () => {
  /** The program has ended, and the rest of its output, which the pipe holds, waits for `stdout`; whether that is still the case. */
  const waiting = async (stdout: Writable): Promise<() => Promise<boolean>> => {
    fakeTimeouts();
    const running = await runStreaming(sh('head -c 80000 /dev/zero'), { stdout }, { timeoutMs: 0 });
    let isWaiting = true;
    void running.ended.then(() => (isWaiting = false));
    for (; running.present(); await nextTurn()) jest.advanceTimersByTime(1);
    return async () => {
      for (let turn = 0; turn < 100; turn++) await nextTurn();
      return isWaiting;
    };
  };
  const stalled = (): Writable => new Writable({ highWaterMark: 1, write: () => undefined });

  test('keeps a program from being finished for ten seconds', async () => {
    const isWaiting = await waiting(stalled());
    jest.advanceTimersByTime(10_000);
    expect(await isWaiting()).toBe(true);
    jest.advanceTimersByTime(200); // the next look
    expect(await isWaiting()).toBe(false);
  });

  test('does not if it has failed, even if it stays open like process.stdout', async () => {
    const stdout = new Writable({
      autoDestroy: false,
      write: (_chunk, _encoding, done) => {
        done(new Error('EPIPE'));
      },
    });
    const isWaiting = await waiting(stdout);
    jest.advanceTimersByTime(400);
    expect([await isWaiting(), stdout.destroyed]).toEqual([false, false]);
  });
});

test('no timer is left, which would keep crisp running', async () => {
  fakeTimeouts();
  const patient = { timeoutMs: 1e9 };
  const over = async (work: Promise<unknown>): Promise<void> => {
    let isOver = false;
    void work.catch(() => undefined).then(() => (isOver = true));
    for (; !isOver; await nextTurn()) jest.advanceTimersByTime(1);
    expect(jest.getTimerCount()).toBe(0);
  };
  await over(run(['true'], patient));
  await over(run(['sleep', '1000'], { ...patient, signal: AbortSignal.abort() }));
  const background = run(sh('sleep 1000 2>/dev/null & echo $! >&2'), patient); // keeps its output open
  await over(background);
  process.kill(Number((await background).stderr), 'SIGKILL');
  await over(firstLine(Readable.from([Buffer.from('ready\n')]), timeoutMs));
});

describe('standard streams', () => {
  const look = 'readlink /proc/$$/fd/0; readlink /proc/$$/fd/2; stat -Lc %u /proc/$$/fd/1';
  const seen = async (options: object): Promise<string[]> => {
    const stdout = new PassThrough();
    const said = text(stdout);
    await (
      await runStreaming(sh(look), { stdout, endStdout: true }, { timeoutMs, ...options })
    ).ended;
    return (await said).trim().split('\n');
  };

  test('that are not used are the null device, or pipes for a tool that passes them on', async () => {
    expect(await seen({})).toEqual(['/dev/null', '/dev/null', '0']);
    const [stdin, stderr] = await seen({ ownStreams: true });
    expect([stdin, stderr]).toEqual([expect.stringMatching(/^pipe:/), expect.stringMatching(/^pipe:/)]);
  });

  test('belong to another user where the program becomes one', async () => {
    expect((await seen({ streamsOwner: 7 }))[2]).toBe('7');
  });

  test('of a program with an input of its own pipe: it is at its end', async () => {
    const running = await runStreaming(
      sh('read line; exit 4'),
      {},
      { timeoutMs, ownStreams: true, okExitCodes: [4] },
    );
    expect((await running.ended).exitCode).toBe(4);
  });

  test('of a detached program are the same', async () => {
    const folder = mkdtempSync(join(tmpdir(), 'crisp-ends-'));
    try {
      for (const ownStreams of [false, true]) {
        const { exited } = await runDetached(['sh', '-c', `readlink /proc/$$/fd/0 >'${folder}/seen'`], {
          ownStreams,
        });
        expect(await exited).toBe(0);
        expect(readFileSync(join(folder, 'seen'), 'utf8')).toMatch(ownStreams ? /^pipe:/ : /^\/dev\/null/);
      }
    } finally {
      rmSync(folder, { recursive: true });
    }
  });
});

describe('a running program', () => {
  test('is killed alone, without its children', async () => {
    const script = 'exec 3<&0; (echo up; read word <&3; echo $word >&2) & wait';
    const streams = { stdin: new PassThrough(), stdout: new PassThrough(), stderr: new PassThrough() };
    const running = await runStreaming(sh(script), streams, { timeoutMs: 0 });
    await firstLine(streams.stdout, timeoutMs);
    expect([running.present(), statSync(`/proc/${running.pid}`).isDirectory()]).toEqual([true, true]);
    running.kill();
    streams.stdin.end('there\n');
    expect(await firstLine(streams.stderr, timeoutMs)).toBe('there');
    await expect(running.ended).rejects.toMatchObject({ signal: 'SIGKILL' });
    running.kill();
  });

  test('that could not be started has no pid, and its end is the error', async () => {
    const running = await runStreaming(['/no/such/tool'], {}, { timeoutMs });
    expect([running.pid, running.present()]).toEqual([undefined, false]);
    running.kill();
    await expect(running.ended).rejects.toMatchObject({
      id: 'ToolMissing',
      message: '/no/such/tool is not installed',
    });
  });

  test('that is detached is killed alone too', async () => {
    const script = '(echo up >&3; read word <&4; echo $word >&5) & wait';
    const { pipes, exited, kill } = await runDetached(sh(script), { pipes: ['read', 'write', 'read'] });
    const [up, question, answer] = pipes as [Duplex, Duplex, Duplex];
    await firstLine(up, timeoutMs);
    kill();
    await exited;
    question.end('there\n');
    expect(await text(answer)).toBe('there\n');
  });

  test('that is detached has no exit code after a signal, and is in its folder', async () => {
    const { pid, exited, kill } = await runDetached(['sleep', '1000'], { cwd: '/proc' });
    expect(statSync(`/proc/${pid}/cwd/self`).isDirectory()).toBe(true);
    kill();
    expect(await exited).toBeUndefined();
    kill();
    await expect(runDetached(['sleep', '1\0'])).rejects.toMatchObject({
      id: 'RuntimeFailed',
      message: 'sleep cannot be started: EINVAL',
    });
  });
});

describe('the first line', () => {
  const of = (...pieces: string[]): Readable => Readable.from(pieces.map((piece) => Buffer.from(piece)));

  test('is that before a line break, also in pieces, and the stream is closed', async () => {
    const stream = of('re', 'ady\nmore');
    expect(await firstLine(stream, timeoutMs)).toBe('ready');
    expect(stream.destroyed).toBe(true);
  });

  test('of a stream that ends is what came; nothing is an empty one', async () => {
    expect(await firstLine(of('part'), timeoutMs)).toBe('part');
    expect(await firstLine(of(), timeoutMs)).toBe('');
    expect(
      await firstLine(
        new Readable({
          read() {
            this.destroy(new Error('broken'));
          },
        }),
        timeoutMs,
      ),
    ).toBe('');
  });

  test('that does not come in time is none', async () => {
    fakeTimeouts();
    const stream = new PassThrough();
    const line = firstLine(stream, 500);
    jest.advanceTimersByTime(500);
    expect(await line).toBeUndefined();
    expect(stream.destroyed).toBe(true);
  });
});

test('a command is shown as a shell reads it', async () => {
  const argv = ['printf', '%s|', 'plain-1.0/x', 'two words', "it's", '$HOME', '', 'a=b,c@d:e%f+g'] as const;
  expect(shown(argv)).toBe(`printf '%s|' plain-1.0/x 'two words' 'it'\\''s' '$HOME' '' a=b,c@d:e%f+g`);
  const { stdout } = await run(sh(shown(argv)), { timeoutMs });
  expect(stdout).toBe(`${argv.slice(2).join('|')}|`);
});
