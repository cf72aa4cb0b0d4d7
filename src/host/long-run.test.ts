// The tools are real: shells.
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { patience } from '../../test/helpers/patience.js';
import { runLong } from './long-run.js';
import { withOomScoreAdj } from './proc.js';
import { run } from './run.js';
import { close, pipe, programFile } from './syscalls.js';

const timeoutMs = 20_000 * patience;
const sh = (script: string): [string, ...string[]] => ['sh', '-c', script];

let folder: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'crisp-long-run-'));
});
afterEach(() => rmSync(folder, { recursive: true }));

describe('runLong', () => {
  test('returns what a tool writes', async () => {
    expect(await runLong(sh('echo out; echo err >&2'), { timeoutMs })).toMatchObject({
      exitCode: 0,
      signal: undefined,
      stdout: 'out\n',
      stderr: 'err\n',
    });
  });

  test('gives a tool no input and nothing of its own environment but the mark of crisp', async () => {
    process.env['CRISP_SECRET'] = 'x';
    try {
      const { stdout } = await runLong(sh('cat; env | sort'), { timeoutMs, env: { GIVEN: 'y' } });
      expect(stdout).toContain('GIVEN=y\n');
      expect(stdout).toContain('STARTED_BY=crisp\n');
      expect(stdout).not.toContain('CRISP_SECRET');
      expect(stdout.match(/^PATH=(.*)$/m)?.[1]).toBe(
        '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin',
      );
    } finally {
      delete process.env['CRISP_SECRET'];
    }
  });

  test('gives a tool no descriptor but its standard streams', async () => {
    const held = [...Object.values(pipe()), programFile('x')];
    try {
      const { stdout } = await runLong(sh('echo /proc/self/fd/*'), { timeoutMs });
      const ours = held.map((fd) => `/proc/self/fd/${fd}`);
      expect(stdout).toContain('/proc/self/fd/2');
      expect(stdout.split(/\s/).filter((path) => ours.includes(path))).toEqual([]);
    } finally {
      for (const fd of held) close(fd);
    }
  });

  test('keeps the first bytes of a long output, and lets the tool end', async () => {
    const words = 'yes | head -c 3000000; echo end >&2';
    const { stdout, stderr } = await runLong(sh(words), { timeoutMs, maxOutputBytes: 10 });
    expect(stdout).toBe('y\n'.repeat(5));
    expect(stderr).toBe('end\n');
  });

  test('a failure has the exit code, the output and the catalogue id of the caller', async () => {
    await expect(
      runLong(sh('echo why >&2; exit 3'), { timeoutMs, stage: 'copy', errorId: 'StorageFailed' }),
    ).rejects.toMatchObject({
      name: 'CommandError',
      id: 'StorageFailed',
      message: 'sh exited with 3',
      stage: 'copy',
      exitCode: 3,
      stderr: 'why\n',
    });
    await expect(runLong(sh('kill -USR1 $$'), { timeoutMs })).rejects.toMatchObject({
      id: 'RuntimeFailed',
      message: 'sh was ended by SIGUSR1',
    });
  });

  test('a tool that is not installed, or cannot be started', async () => {
    await expect(runLong(['no-such-tool'], { timeoutMs })).rejects.toMatchObject({
      id: 'ToolMissing',
      message: 'no-such-tool is not installed',
    });
    await expect(runLong([folder], { timeoutMs })).rejects.toMatchObject({
      id: 'RuntimeFailed',
      message: `${folder} cannot be started: EACCES`,
    });
  });

  test('ends a tool at its timeout', async () => {
    await expect(runLong(['sleep', '1000'], { timeoutMs: 100 })).rejects.toMatchObject({
      id: 'ToolTimeout',
      signal: 'SIGTERM',
    });
  });

  test('ends a tool when the caller aborts, and tells when it has started', async () => {
    const stop = new AbortController();
    let pid = 0;
    await expect(
      runLong(['sleep', '1000'], {
        timeoutMs,
        signal: stop.signal,
        onStart: (started) => {
          pid = started;
          expect(readFileSync(`/proc/${pid}/cmdline`, 'utf8')).toBe('sleep\x001000\0');
          stop.abort();
        },
      }),
    ).rejects.toMatchObject({ id: 'Cancelled', signal: 'SIGTERM' });
    expect(pid).toBeGreaterThan(0);
    await expect(runLong(['true'], { timeoutMs, signal: stop.signal })).rejects.toMatchObject({
      id: 'Cancelled',
    });
  });

  test('a tool that does not end by SIGTERM is killed', async () => {
    await expect(
      runLong(sh('trap "" TERM; while :; do sleep 0.1; done'), { timeoutMs: 100 }),
    ).rejects.toMatchObject({ id: 'ToolTimeout', signal: 'SIGKILL' });
  });

  test('does not get the oom_score_adj that another program is being started with', async () => {
    const own = readFileSync('/proc/self/oom_score_adj', 'utf8');
    const wanted = Number(own) + 1;
    expect(
      await withOomScoreAdj(wanted, () => Promise.resolve(readFileSync('/proc/self/oom_score_adj', 'utf8'))),
    ).toBe(`${wanted}\n`); // it may be set here
    const cat: [string, ...string[]] = ['cat', '/proc/self/oom_score_adj'];
    const results = await Promise.all([
      run(cat, { timeoutMs, oomScoreAdj: wanted }),
      runLong(cat, { timeoutMs }),
      run(cat, { timeoutMs, oomScoreAdj: wanted }),
      runLong(cat, { timeoutMs }),
    ]);
    expect(results.map(({ stdout }) => stdout)).toEqual([`${wanted}\n`, own, `${wanted}\n`, own]);
  });
});
