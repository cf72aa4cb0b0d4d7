// relay.pl on terminals, as for execs in CTs. For execs in OCI containers see
// test/integration/streaming-hostile.test.ts.
import { afterEach, beforeEach, expect, test } from '@jest/globals';
import { mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { readFile, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { PassThrough, Writable } from 'node:stream';
import { setTimeout as sleep } from 'node:timers/promises';
import { childrenOf } from '../host/proc.js';
import { endRelay, runInTerminal, runOnConsole } from './relay.js';
import { until } from '../../test/helpers/wait.js';

let folder: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'crisp-relay-'));
});
afterEach(() => {
  rmSync(folder, { recursive: true });
});

/** Collects the output. */
class Screen extends Writable {
  text = '';
  override _write(chunk: Buffer, _encoding: BufferEncoding, done: () => void): void {
    this.text += chunk.toString();
    done();
  }
}
test('a large paste passes through: neither direction blocks the other', async () => {
  const [stdin, stdout] = [new PassThrough(), new Screen()];
  const running = await runInTerminal(['tr', 'x', 'y'], { terminal: true, stdin, stdout }, folder, {});
  stdin.write(`${'x'.repeat(127)}\n`.repeat(1024));
  stdin.end('the end\n');
  expect((await running.ended).exitCode).toBe(0); // by end of input on the terminal
  // The output is complete; the kernel drops echoes that are not read in time (n_tty.c, ECHO_DISCARD_WATERMARK).
  expect(stdout.text.replace(/[^y]/g, '')).toHaveLength(127 * 1024);
  expect(stdout.text).toContain('the end');
});

test('a program whose output is not read blocks, and can be ended', async () => {
  const stdout = new Writable({ highWaterMark: 1, write: () => undefined });
  const running = await runInTerminal(['yes'], { terminal: true, stdout }, folder, {});
  const children = (): Promise<number[]> => childrenOf(running.pid as number);
  await until(async () => (await children()).length > 0);
  await sleep(500);
  endRelay(running);
  stdout.destroy(); // the client has disconnected
  await running.ended;
});

test('the terminal gets the sizes in order; the exit code is that of the program', async () => {
  const [stdin, stdout] = [new PassThrough(), new Screen()];
  const running = await runInTerminal(
    ['sh', '-c', 'until [ "$(stty size)" = "24 5000" ]; do sleep 0.05; done; exit 7'],
    {
      terminal: true,
      stdin,
      stdout,
      onResize: (listener) => {
        for (let width = 1; width <= 5_000; width++) listener({ width, height: 24 });
      },
    },
    folder,
    {},
  );
  expect((await running.ended).exitCode).toBe(7);
  await until(() => readdirSync(folder).length === 0);
});

test('an OCI runtime has the requested oom_score_adj', async () => {
  const runtime = join(folder, 'runtime');
  await writeFile(runtime, '#!/bin/sh\ncat /proc/self/oom_score_adj >score; exit 1\n', { mode: 0o755 });
  const io = { terminal: true, stdin: undefined, stdout: new PassThrough() };
  const { ended } = await runOnConsole([runtime], io, folder, 10_000, new PassThrough(), {
    oomScoreAdj: 777,
  });
  await ended;
  expect(await readFile(join(folder, 'score'), 'utf8')).toBe('777\n');
});

test('an OCI runtime that hangs is ended after its time, and said to be late', async () => {
  const stderr = new Screen();
  const { ended } = await runOnConsole(['sleep', '1000'], { terminal: true }, folder, 50, stderr);
  await ended;
  expect(stderr.text).toBe('timeout\n');
});
