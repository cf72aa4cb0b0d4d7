// The demo, run to its end, and interrupted by Ctrl-C.
import { expect, test } from '@jest/globals';
import { spawn } from 'node:child_process';
import { readdirSync, readFileSync } from 'node:fs';
import { tmpdir } from 'node:os';

/** Runs it; at the first output that has `interruptAt`, its whole process group gets a SIGINT, as from a terminal. */
async function runDemo(interruptAt?: string): Promise<{ code: number | null; output: string }> {
  const demo = spawn('bash', ['deploy/demo.sh'], { detached: true, stdio: ['ignore', 'pipe', 'pipe'] });
  let output = '';
  for (const stream of [demo.stdout, demo.stderr]) {
    stream.on('data', (chunk: Buffer) => {
      const before = output;
      output += chunk.toString();
      if (interruptAt && output.includes(interruptAt) && !before.includes(interruptAt))
        process.kill(-(demo.pid ?? 0), 'SIGINT');
    });
  }
  return new Promise((resolve) => {
    demo.once('close', (code) => resolve({ code, output }));
  });
}

function leftOfDemos(): string[] {
  const processes = readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .flatMap((pid) => {
      try {
        const argv = readFileSync(`/proc/${pid}/cmdline`, 'utf8').replaceAll('\0', ' ');
        return argv.includes('/crisp-demo-') ? [argv] : [];
      } catch {
        return [];
      }
    });
  return [
    ...processes,
    ...readdirSync(tmpdir()).filter((name) => name.startsWith('crisp-demo-')),
    ...readdirSync('/sys/class/net').filter((name) => name.startsWith('crispdemo')),
  ];
}

test('shows the main job and leaves nothing behind', async () => {
  const { code, output } = await runDemo();
  expect(output).toContain('hello from web');
  expect(output).toContain('exit code 7');
  expect(output).toContain('nothing left behind');
  expect(code).toBe(0);
  expect(leftOfDemos()).toEqual([]);
}, 120_000);

test.each(['3. crisp starts', '4. A pod'])(
  'a Ctrl-C after "%s" leaves nothing behind either',
  async (step) => {
    const { code, output } = await runDemo(step);
    expect(output).toContain('Stopped; cleaning up.');
    expect(code).toBe(130);
    expect(leftOfDemos()).toEqual([]);
  },
  120_000,
);
