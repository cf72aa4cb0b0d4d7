// The tools are real: shells.
import { expect, test } from '@jest/globals';
import { patience } from '../../test/helpers/patience.js';
import { runTool } from './tool.js';

const timeoutMs = 20_000 * patience;
const sh = (script: string): [string, ...string[]] => ['sh', '-c', script];

test('returns what a tool writes', async () => {
  expect(await runTool(sh('echo out; echo err >&2'), { timeoutMs })).toMatchObject({
    exitCode: 0,
    stdout: 'out\n',
    stderr: 'err\n',
  });
});

test('gives a tool no input, and nothing of the environment but the mark of crisp', async () => {
  process.env['CRISP_SECRET'] = 'x';
  try {
    const { stdout } = await runTool(sh('cat; env'), { timeoutMs });
    expect(stdout).toContain('STARTED_BY=crisp\n');
    expect(stdout).not.toContain('CRISP_SECRET');
    expect(/^PATH=(.*)$/m.exec(stdout)?.[1]).toBe(
      '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin',
    );
  } finally {
    delete process.env['CRISP_SECRET'];
  }
});

test('a failure has the exit code, the output and the catalogue id of the caller', async () => {
  await expect(
    runTool(sh('echo why >&2; exit 3'), { timeoutMs, stage: 'copy', errorId: 'StorageFailed' }),
  ).rejects.toMatchObject({
    name: 'CommandError',
    id: 'StorageFailed',
    message: 'sh exited with 3',
    stage: 'copy',
    exitCode: 3,
    stderr: 'why\n',
  });
  await expect(runTool(sh('kill -USR1 $$'), { timeoutMs })).rejects.toMatchObject({
    id: 'RuntimeFailed',
    message: 'sh was ended by SIGUSR1',
  });
});

test('a tool that is not installed, or cannot be started', async () => {
  await expect(runTool(['no-such-tool'], { timeoutMs })).rejects.toMatchObject({
    id: 'ToolMissing',
    message: 'no-such-tool is not installed',
  });
  await expect(runTool(['/etc'], { timeoutMs })).rejects.toMatchObject({
    id: 'RuntimeFailed',
    message: '/etc cannot be started: EACCES',
  });
});

test.each([
  ['SIGTERM', 'exec sleep 1000'],
  ['SIGKILL', 'trap "" TERM; while :; do sleep 0.1; done'],
])('ends a tool at its timeout, by %s', async (signal, script) => {
  await expect(runTool(sh(script), { timeoutMs: 100 })).rejects.toMatchObject({ id: 'ToolTimeout', signal });
});
