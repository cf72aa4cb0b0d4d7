// Real programs, mostly sh.
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { readFileSync } from 'node:fs';
import { chmod, mkdtemp, readdir, readFile, readlink, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { PassThrough, Writable } from 'node:stream';
import { text } from 'node:stream/consumers';
import { until } from '../../test/helpers/wait.js';
import { childrenOf, identify, isAlive, killTree, signalListed, type ProcessIdentity } from './proc.js';
import { firstLine, run, runDetached, runStreaming } from './run.js';

const timeoutMs = 20_000;
let folder: string;
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'crisp-run-'));
});
afterEach(async () => {
  await rm(folder, { recursive: true });
});

const sh = (script: string) => ['sh', '-c', script] as const;
const openFiles = async () => (await readdir('/proc/self/fd')).length;

/** The process that a script left behind: it writes its pid to a file. */
async function left(): Promise<ProcessIdentity | undefined> {
  const pid = Number(await readFile(join(folder, 'left'), 'utf8'));
  return identify(pid);
}
async function gone(process: ProcessIdentity): Promise<void> {
  while (await isAlive(process))
    await new Promise((resolve) => {
      setTimeout(resolve, 5);
    });
}

describe('run', () => {
  test('returns output, error output and exit code, and writes the input', async () => {
    const result = await run(sh('cat; echo err >&2; exit 3'), {
      timeoutMs,
      input: 'in'.repeat(100_000),
      okExitCodes: [3],
    });
    expect(result).toMatchObject({ exitCode: 3, signal: undefined, stderr: 'err\n' });
    expect(result.stdout).toBe('in'.repeat(100_000));
  });

  test('returns the signal that ended it', async () => {
    await expect(run(sh('kill -USR1 $$'), { timeoutMs })).rejects.toMatchObject({
      id: 'RuntimeFailed',
      signal: 'SIGUSR1',
      message: 'sh was ended by SIGUSR1',
    });
  });

  test('keeps a limited amount of the output, and discards the rest', async () => {
    const { stdout } = await run(sh('head -c 3000000 /dev/zero | tr "\\0" x; echo end >&2'), {
      timeoutMs,
      maxOutputBytes: 10,
    });
    expect(stdout).toBe('x'.repeat(10));
  });

  test('a missing program is reported as missing, also by path; one that cannot be run has a reason', async () => {
    await expect(run(['no-such-program'], { timeoutMs })).rejects.toMatchObject({ id: 'ToolMissing' });
    await expect(run(['/no/such/program'], { timeoutMs })).rejects.toMatchObject({ id: 'ToolMissing' });
    const path = join(folder, 'text');
    await writeFile(path, 'no program');
    await chmod(path, 0o755);
    await expect(run([path], { timeoutMs })).rejects.toMatchObject({
      id: 'RuntimeFailed',
      message: `${path} cannot be started: ENOEXEC`,
    });
  });

  test('an argument with a NUL byte is not truncated', async () => {
    await expect(run(['echo', 'a\0b'], { timeoutMs })).rejects.toMatchObject({ id: 'RuntimeFailed' });
  });

  test('the program has only the given environment, folder, signals and descriptors', async () => {
    const held = await readFile('/proc/self/stat', 'utf8'); // any open file of ours
    expect(held).not.toBe('');
    const { stdout } = await run(
      sh('env | sort; pwd; grep -E "^Sig(Ign|Blk)" /proc/self/status; ls /proc/self/fd | wc -l; umask'),
      { timeoutMs, cwd: folder, env: { X: 'with space' } },
    );
    expect(stdout.split('\n')).toEqual(
      expect.arrayContaining([
        'X=with space',
        'STARTED_BY=crisp',
        folder,
        'SigBlk:\t0000000000000000',
        'SigIgn:\t0000000000000000',
        '4', // 0, 1, 2 and the folder that ls reads
      ]),
    );
    expect(stdout).not.toMatch(/^HOME=/m);
  });

  test('no tool gets our environment, however it is started', async () => {
    const wanted = [
      'LANG=C.UTF-8',
      'PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin',
      'STARTED_BY=crisp',
      'X=y',
    ];
    const argv: [string, ...string[]] = ['env'];
    const env = { X: 'y' };
    const sorted = (text: string): string[] => text.trim().split('\n').sort();
    process.env['CRISP_TEST_SECRET'] = 'of the daemon';
    try {
      expect(sorted((await run(argv, { timeoutMs, env })).stdout)).toEqual(wanted);
      expect(sorted((await run(argv, { timeoutMs, env, outputFolder: folder })).stdout)).toEqual(wanted);
      let streamed = '';
      const stdout = new Writable({
        write: (chunk: Buffer, _, done) => {
          streamed += String(chunk);
          done();
        },
      });
      await (
        await runStreaming(argv, { stdout }, { timeoutMs, env })
      ).ended;
      expect(sorted(streamed)).toEqual(wanted);
      const file = join(folder, 'environment');
      await (
        await runDetached(['sh', '-c', 'env -u PWD -u SHLVL -u _ >"$0"', file], { env })
      ).exited;
      expect(sorted(await readFile(file, 'utf8'))).toEqual(wanted);
    } finally {
      delete process.env['CRISP_TEST_SECRET'];
    }
  });

  test('its standard streams are pipes or /dev/null, and can be opened by name', async () => {
    const { stdout, stderr } = await run(
      sh(
        'readlink /proc/self/fd/0 /proc/$$/fd/1; cat /dev/stdin; echo out >/dev/stdout; echo err >/dev/stderr',
      ),
      { timeoutMs, input: 'in\n' },
    );
    expect(stdout).toMatch(/^pipe:\[\d+\]\npipe:\[\d+\]\nin\nout\n$/);
    expect(stderr).toBe('err\n');
    expect((await run(['readlink', '/proc/self/fd/0'], { timeoutMs })).stdout).toBe('/dev/null\n');
  });

  test('is in our session, so that it ends with us at a terminal; a group is a session of its own', async () => {
    const session = (stat: string): string | undefined => stat.split(') ')[1]?.split(' ')[3];
    const ours = session(readFileSync('/proc/self/stat', 'utf8'));
    const read = sh('cat /proc/self/stat');
    expect(session((await run(read, { timeoutMs })).stdout)).toBe(ours);
    expect(session((await run(read, { timeoutMs, wholeGroup: true })).stdout)).not.toBe(ours);
  });

  test('is ended with TERM at its timeout, and at an abort', async () => {
    await expect(run(['sleep', '1000'], { timeoutMs: 50 })).rejects.toMatchObject({
      id: 'ToolTimeout',
      signal: 'SIGTERM',
    });
    await expect(run(['sleep', '1000'], { timeoutMs, signal: AbortSignal.abort() })).rejects.toMatchObject({
      id: 'Cancelled',
    });
  });

  test('the remaining processes of a stopped group are killed with it', async () => {
    const script = `sh -c 'trap "" TERM; echo $$ >${folder}/left; while :; do sleep 1; done' & while ! [ -s ${folder}/left ]; do sleep 0.01; done; echo up >&2; wait`;
    const stop = new AbortController();
    const stderr = new PassThrough();
    const running = await runStreaming(
      sh(script),
      { stderr },
      { timeoutMs, signal: stop.signal, wholeGroup: true },
    );
    await firstLine(stderr, timeoutMs);
    const process = await left();
    expect(process).toBeDefined();
    stop.abort();
    await expect(running.ended).rejects.toMatchObject({ id: 'Cancelled' });
    if (process) await gone(process);
  });

  test('leaves no descriptor, child or zombie, also if many end together', async () => {
    await run(['true'], { timeoutMs });
    const before = await openFiles();
    const results = await Promise.all(
      Array.from({ length: 60 }, (_, index) =>
        run(sh(`exit ${index}`), { timeoutMs, okExitCodes: 'any' }).then(({ exitCode }) => exitCode),
      ),
    );
    expect(results).toEqual(Array.from({ length: 60 }, (_, index) => index));
    await expect(run(['no-such-program'], { timeoutMs })).rejects.toThrow();
    expect(await openFiles()).toBeLessThanOrEqual(before);
    // Those of the tests before may still be ending.
    await until(async () => (await childrenOf(process.pid)).length === 0);
  });
});

test('a program has the requested oom_score_adj, and ours is unchanged', async () => {
  const own = (): string => readFileSync('/proc/self/oom_score_adj', 'utf8').trim();
  const before = own();
  const { stdout } = await run(['sh', '-c', 'cat /proc/self/oom_score_adj'], {
    timeoutMs: 10_000,
    oomScoreAdj: 777,
  });
  expect(stdout).toBe('777\n');
  expect(own()).toBe(before);
  const absent = { timeoutMs: 10_000, oomScoreAdj: 777, cwd: '/no/such/folder' };
  await expect(run(['true'], absent)).rejects.toMatchObject({ id: 'ToolMissing' });
  await expect(run(['true'], { ...absent, oomScoreAdj: 5_000 })).rejects.toMatchObject({ id: 'ToolMissing' }); // the kernel refuses the value
  expect(own()).toBe(before);
});

describe('a background process that keeps the output open', () => {
  const loop = (): string =>
    `(echo "$(exec sh -c 'echo $PPID')" >${folder}/left; while :; do echo x; sleep 0.05; done) & while ! [ -s ${folder}/left ]; do sleep 0.01; done; echo done; exit 7`;

  afterEach(async () => {
    const process = await left().catch(() => undefined);
    if (process) await killTree(process);
  });

  test.each(['run', 'runStreaming'])('%s is ended even if it writes continuously', async (how) => {
    const before = await openFiles();
    if (how === 'run') {
      const { exitCode, stdout } = await run(sh(loop()), { timeoutMs, okExitCodes: [7] });
      expect([exitCode, stdout.includes('done\n')]).toEqual([7, true]);
    } else {
      const stdout = new PassThrough();
      const said = text(stdout);
      const running = await runStreaming(
        sh(loop()),
        { stdout, endStdout: true },
        { timeoutMs: 0, okExitCodes: [7] },
      );
      expect((await running.ended).exitCode).toBe(7);
      expect(running.present()).toBe(false);
      expect(await said).toContain('done\n');
    }
    expect(await openFiles()).toBeLessThanOrEqual(before);
  });

  test('the output of the program itself is complete, even if it is read slowly', async () => {
    let bytes = 0;
    const stdout = new Writable({
      highWaterMark: 1,
      write: (chunk: Buffer, _encoding, done) => {
        bytes += chunk.length;
        setTimeout(done, 300);
      },
    });
    const script = `sleep 1000 & echo $! >${folder}/left; head -c 60000 /dev/zero`; // fits the pipe, so that it is gone at once
    const running = await runStreaming(sh(script), { stdout }, { timeoutMs: 0 });
    expect((await running.ended).exitCode).toBe(0);
    expect(bytes).toBe(60_000);
  });

  test('a closed reader ends it', async () => {
    const stdout = new PassThrough({ highWaterMark: 1 });
    const running = await runStreaming(
      sh(`sleep 1000 & echo $! >${folder}/left; head -c 60000 /dev/zero`),
      { stdout },
      { timeoutMs: 0 },
    );
    setTimeout(() => stdout.destroy(), 300);
    expect((await running.ended).exitCode).toBe(0);
  });
});

describe('the start of a program', () => {
  test('does not block the thread until the program runs', async () => {
    let hasStarted = false;
    const starting = runDetached(['true']).then(({ exited }) => {
      hasStarted = true;
      return exited;
    });
    for (let turn = 0; turn < 100; turn++) await Promise.resolve();
    expect(hasStarted).toBe(false);
    expect(await starting).toBe(0);
  });

  test('waits while hundreds are started at once', async () => {
    const all = await Promise.all(Array.from({ length: 400 }, () => run(['true'], { timeoutMs })));
    expect(all).toHaveLength(400);
  });

  test('with an oom_score_adj does not affect concurrent starts', async () => {
    const own = (await readFile('/proc/self/oom_score_adj', 'utf8')).trim();
    const scores = await Promise.all(
      Array.from({ length: 40 }, async (_, index) => {
        const oomScoreAdj = [undefined, 777, undefined, 888][index % 4];
        const { stdout } = await run(['cat', '/proc/self/oom_score_adj'], { timeoutMs, oomScoreAdj });
        return [stdout.trim(), String(oomScoreAdj ?? own)];
      }),
    );
    for (const [score, wanted] of scores) expect(score).toBe(wanted);
    expect((await readFile('/proc/self/oom_score_adj', 'utf8')).trim()).toBe(own);
  });
});

describe('a detached program', () => {
  test('leads its own session, with pipes in both directions, and reports its end', async () => {
    const { pid, pipes, exited } = await runDetached(
      sh('read word <&4; ps -o sid= -p $$ | tr -d " " >&3; echo $word >&3; exit 5'),
      {
        pipes: ['read', 'write'],
      },
    );
    const [answer, question] = pipes;
    question?.end('hello\n');
    expect(answer && (await text(answer))).toBe(`${pid}\nhello\n`);
    expect(await exited).toBe(5);
  });

  test('a missing program is reported at once', async () => {
    await expect(runDetached(['no-such-program'])).rejects.toMatchObject({ id: 'ToolMissing' });
  });
});

test('a signal for a list spares processes that have left it before the signal is sent', async () => {
  const [stays, leaves] = [await runDetached(['sleep', '1000']), await runDetached(['sleep', '1000'])];
  const lists = [[stays.pid, leaves.pid, 2 ** 22 + 1], [stays.pid]];
  expect(await signalListed(() => Promise.resolve(lists.shift() ?? []), 'SIGKILL')).toBe(1);
  await stays.exited;
  expect(await readlink(`/proc/${leaves.pid}/exe`)).toContain('sleep');
  leaves.kill();
  await leaves.exited;
});
