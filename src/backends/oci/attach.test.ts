// Attach, with a Perl program in place of conmon at its socket: it sends the packets of its stdin, and writes
// those that it receives to its stdout.  The relay is real.
import { afterEach, beforeEach, expect, test } from '@jest/globals';
import { execFileSync, spawn, type ChildProcessWithoutNullStreams } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, constants, mkdtempSync, openSync, readSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { PassThrough } from 'node:stream';
import { until } from '../../../test/helpers/wait.js';
import type { Io, TerminalSize } from '../../shapes/io.js';
import { attach } from './attach.js';

const conmonProgram = `
use Socket; $| = 1;
socket(my $door, AF_UNIX, SOCK_SEQPACKET, 0); bind($door, pack_sockaddr_un("attach")) && listen($door, 1) or die $!;
syswrite(STDOUT, "up"); accept(my $to, $door); syswrite(STDOUT, "attached;");
if (fork) { while (<STDIN>) { my ($stream, $text) = /^(\\d) (.*)$/ or last; syswrite($to, chr($stream) . $text) } shutdown($to, 1); wait }
else { while (sysread($to, my $data, 65536)) { syswrite(STDOUT, $data) } syswrite(STDOUT, ";end") }
`;

let folder: string;
let conmon: ChildProcessWithoutNullStreams;
let received = '';
beforeEach(async () => {
  folder = mkdtempSync(join(tmpdir(), 'crisp-attach-'));
  conmon = spawn('perl', ['-e', conmonProgram], { cwd: folder });
  received = '';
  conmon.stderr.resume();
  conmon.stdout.on('data', (data: Buffer) => (received += data.toString()));
  await until(() => received === 'up');
});
afterEach(() => {
  conmon.stdout.removeAllListeners('data');
  conmon.kill('SIGKILL');
  rmSync(folder, { recursive: true });
});
const has = (words: string): Promise<void> => until(() => received.includes(words));

class Client {
  readonly stdin = new PassThrough();
  readonly stdout = new PassThrough();
  readonly stderr = new PassThrough();
  said = '';
  complained = '';
  private readonly gone = new AbortController();
  readonly ended: Promise<void>;

  constructor(io: Partial<Io> = {}) {
    this.stdout.on('data', (data: Buffer) => (this.said += data.toString()));
    this.stderr.on('data', (data: Buffer) => (this.complained += data.toString()));
    const streams = { stdin: this.stdin, stdout: this.stdout, stderr: this.stderr };
    this.ended = attach({ id: 'c', folder }, { terminal: false, ...streams, ...io }, this.gone.signal);
    this.ended.catch(() => undefined);
  }
  leave(): void {
    this.gone.abort();
  }
}

test('has each stream of the container, and its input', async () => {
  const client = new Client();
  await has('attached');
  conmon.stdin.write('2 out\n3 err\n2 put\n');
  client.stdin.write('to the container');
  await has('to the container');
  await until(() => client.said === 'output' && client.complained === 'err');
  conmon.stdin.end();
  await client.ended;
});

test('ends with the container, after its last output', async () => {
  const client = new Client();
  await has('attached');
  conmon.stdin.end('3 last\n');
  await client.ended;
  expect(client.complained).toBe('last');
});

test.each([
  ['ends', true],
  ['goes on', false],
])('with the end of its input a session %s', async (_, endsWithStdin) => {
  const client = new Client({ endsWithStdin });
  await has('attached');
  client.stdin.end('bye');
  if (endsWithStdin) await client.ended;
  await has('bye;end');
  if (endsWithStdin) return;
  conmon.stdin.end('2 more\n');
  await client.ended;
  expect(client.said).toBe('more');
});

test('a client that leaves cancels it', async () => {
  const client = new Client();
  await has('attached');
  client.leave();
  await expect(client.ended).rejects.toMatchObject({ id: 'Cancelled' });
});

test('streams that the client does not want are read all the same', async () => {
  const client = new Client({ stdout: undefined, stderr: undefined, stdin: undefined });
  await has('attached');
  conmon.stdin.write(`2 ${'x'.repeat(10_000)}\n`.repeat(200));
  conmon.stdin.end('3 y\n');
  await client.ended;
});

test('a client that takes nothing for a second, while 8 MiB wait for it, is ended and told so', async () => {
  const stuck = new PassThrough();
  const client = new Client({ stdout: stuck });
  await has('attached');
  conmon.stdin.on('error', () => undefined); // the relay leaves before all of it is sent
  conmon.stdin.write(`2 ${'x'.repeat(60_000)}\n`.repeat(200));
  await has(';end');
  stuck.resume();
  await expect(client.ended).rejects.toMatchObject({ id: 'ClientTooSlow', stage: 'attach' });
});

test('without its conmon it fails with the reason, which is no output of the container', async () => {
  conmon.kill('SIGKILL');
  await once(conmon, 'exit');
  const client = new Client();
  await expect(client.ended).rejects.toMatchObject({
    id: 'RuntimeFailed',
    message: expect.stringMatching(/^attach failed: connect: /),
    tool: 'conmon',
  });
  expect(client.complained).toBe('');
});

test('sizes of the terminal go to the control FIFO of conmon', async () => {
  execFileSync('mkfifo', [join(folder, 'ctl')]);
  const fifo = openSync(join(folder, 'ctl'), constants.O_RDWR | constants.O_NONBLOCK);
  let resize: (size: TerminalSize) => void = () => undefined;
  const client = new Client({ terminal: true, onResize: (listener) => (resize = listener) });
  await has('attached');
  resize({ width: 132, height: 43 });
  let line = '';
  await until(() => {
    const buffer = Buffer.alloc(100);
    try {
      line += buffer.toString('utf8', 0, readSync(fifo, buffer));
    } catch {
      return false;
    }
    return line !== '';
  });
  expect(line).toBe('1 43 132\n');
  closeSync(fifo);
  conmon.stdin.end();
  await client.ended;
});
