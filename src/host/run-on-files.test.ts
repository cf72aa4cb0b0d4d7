// A tool with its output in files: the same result, and no pipe to crisp.
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { existsSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { until } from '../../test/helpers/wait.js';
import { run } from './run.js';

let folder: string;
let outputFolder: string;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'crisp-run-'));
  outputFolder = mkdtempSync(join(tmpdir(), 'crisp-run-'));
});
afterAll(() => {
  expect(readdirSync(outputFolder)).toEqual([]);
  for (const each of [folder, outputFolder]) rmSync(each, { recursive: true });
});

const options = { timeoutMs: 20_000 };

test('returns the output and the exit code, and starts a session without pipes', async () => {
  const script = 'echo out; echo err >&2; ps -o sid= -p $$; readlink /proc/$$/fd/1; echo $$; exit 3';
  const found = await run(['sh', '-c', script], { ...options, outputFolder, okExitCodes: [3] });
  const [out, session, target, pid] = found.stdout.split('\n').map((line) => line.trim());
  expect({ ...found, out, session }).toMatchObject({
    exitCode: 3,
    stderr: 'err\n',
    out: 'out',
    session: pid,
  });
  expect(target).toContain(outputFolder);
});

test('its files have no name, and are accessible to root alone', async () => {
  const mask = process.umask(0); // so that the mode depends only on crisp
  try {
    const found = await run(
      ['sh', '-c', 'stat -Lc %a /proc/$$/fd/1 /proc/$$/fd/2; ls -A "$0"', outputFolder],
      {
        ...options,
        outputFolder,
      },
    );
    expect(found.stdout).toBe('600\n600\n');
  } finally {
    process.umask(mask);
  }
});

test('fails as with pipes', async () => {
  const failing = run(['sh', '-c', 'echo why >&2; exit 1'], { ...options, outputFolder });
  await expect(failing).rejects.toMatchObject({ id: 'RuntimeFailed', stderr: 'why\n', exitCode: 1 });
  await expect(run(['/none'], { ...options, outputFolder })).rejects.toMatchObject({ id: 'ToolMissing' });
  await expect(run(['sleep', '60'], { timeoutMs: 50, outputFolder })).rejects.toMatchObject({
    id: 'ToolTimeout',
  });
});

test('that is stopped early leaves its children alone: they may have to finish', async () => {
  const [up, go, answer] = ['up', 'go', 'answer'].map((name) => join(folder, name)) as [
    string,
    string,
    string,
  ];
  const script = `(touch ${up}; until [ -e ${go} ]; do sleep 0.01; done; touch ${answer}) & wait`;
  const stop = new AbortController();
  const running = run(['sh', '-c', script], { ...options, outputFolder, signal: stop.signal });
  await until(() => existsSync(up));
  stop.abort();
  await expect(running).rejects.toMatchObject({ id: 'Cancelled' });
  writeFileSync(go, '');
  await until(() => existsSync(answer));
});
