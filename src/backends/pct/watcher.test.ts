// The real watcher program, with a stand-in for lxc-monitord, a shell that writes
// into its FIFOs like lxc-start, and clients.
import { afterEach, beforeEach, expect, jest, test } from '@jest/globals';
import { execFileSync, spawn, type ChildProcess } from 'node:child_process';
import { getEventListeners, once } from 'node:events';
import {
  closeSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readFileSync,
  readlinkSync,
  rmSync,
  statSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { connect, createServer, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { PassThrough, Writable } from 'node:stream';
import { setTimeout as sleep } from 'node:timers/promises';
import { eventually } from '../../../test/helpers/wait.js';
import { linkLog } from '../log-file.js';
import { attach, monitorSocket, startWatcher, send, wakeWatcher } from './watcher.js';

const vmid = 900_001;
const size = 3_000_000;
let folder: string;
let container: { id: string; folder: string; logPath: string; state: undefined };
let monitor: ChildProcess;
let client: Socket | undefined;
let closeLog: () => void;

beforeEach(async () => {
  folder = mkdtempSync(join(tmpdir(), 'crisp-w'));
  container = { id: 'c', folder, logPath: join(folder, 'log'), state: undefined };
  // Each line on its stdin is a message: type, name, value.
  monitor = spawn(
    'perl',
    [
      '-MSocket',
      '-e',
      'socket(my $door, AF_UNIX, SOCK_STREAM, 0); bind($door, pack_sockaddr_un("\\0$ARGV[0]")) && listen($door, 1) or die $!; syswrite(STDOUT, "up"); accept(my $to, $door); while (<STDIN>) { syswrite($to, pack("iZ256i", split)) }',
      monitorSocket(folder),
    ],
    { stdio: ['pipe', 'pipe', 'inherit'] },
  );
  await once(monitor.stdout as NonNullable<ChildProcess['stdout']>, 'data');
  closeLog = linkLog(folder, container.logPath);
  await startWatcher({
    vmid,
    bundle: folder,
    lxcFolder: folder,
    uid: process.getuid?.() ?? 0,
    log: true,
    exitFile: join(folder, 'exits/c'),
    stdin: 'none',
    terminal: false,
  });
  writeFileSync(join(folder, 'output'), `${'x'.repeat(99)}\n`.repeat(size / 100));
});
afterEach(async () => {
  client?.destroy();
  await send(container, 'quit');
  monitor.kill('SIGKILL');
  closeLog();
  rmSync(folder, { recursive: true });
});

/** Writes the output into the FIFOs, and ends when the watcher has read it. */
function lxcStart(): ChildProcess {
  return spawn('sh', ['-c', 'exec cat output >stdout 2>stderr'], { cwd: folder, stdio: 'ignore' });
}
/** The messages of lxc-monitord after a CT has ended by itself. */
function exits(code: number): void {
  monitor.stdin?.write(`2 ${vmid} ${code << 8}\n0 ${vmid} 0\n`);
}
function exitFile(): string | undefined {
  try {
    return readFileSync(join(folder, 'exits/c'), 'utf8');
  } catch {
    return undefined;
  }
}
function logged(): number {
  return statSync(container.logPath).size;
}

/** The pid of the watcher with this file in its arguments. @throws if there is none */
function pidOf(file: string): number {
  const line = execFileSync('ps', ['-ww', '-eo', 'pid,args'], { encoding: 'utf8' })
    .split('\n')
    .find((text) => text.includes(file));
  if (!line) throw new Error(`no process names ${file}`);
  return Number.parseInt(line, 10);
}

/** A client that reads nothing, with output waiting for it. */
async function stalled(): Promise<ChildProcess> {
  client = connect(join(folder, 'watch')).on('error', () => undefined);
  client.write('attach\n');
  await once(client, 'data'); // "ok"
  client.pause();
  const writer = lxcStart();
  let before = -1;
  for (; before !== logged(); await sleep(500)) before = logged();
  return writer;
}

test('a client that does not read delays no command, and the log only for a limited time', async () => {
  const ended = once(await stalled(), 'exit');
  expect(logged()).toBeLessThan(size); // the watcher waits for the client
  expect(await send(container, 'reopen')).toBe(true);
  await ended;
  const head = '2026-11-25T13:39:39.187000000Z stdout F '.length;
  await eventually(() => expect(logged()).toBeGreaterThanOrEqual(size + (size / 100) * head));
  exits(3);
  await eventually(() => expect(exitFile()).toBe('3'));
});

test('nor does it delay the exit', async () => {
  const writer = await stalled();
  writer.kill('SIGKILL');
  exits(4);
  await eventually(() => expect(exitFile()).toBe('4'));
});

test('nor the quit command', async () => {
  const writer = await stalled();
  expect(await send(container, 'quit')).toBe(true);
  writer.kill('SIGKILL');
});

test('a slow client receives every byte, including the last output of the CT', async () => {
  const probe = 0x2e; // shows when the client is attached
  let received = 0;
  let isAttached = false;
  const stdout = new Writable({
    highWaterMark: 1,
    write(chunk: Buffer, _encoding, done) {
      isAttached = true;
      received += chunk.filter((byte) => byte !== probe).length;
      setTimeout(done, chunk.length / 2_000);
    },
  });
  const { signal } = new AbortController();
  const session = attach(container, { terminal: false, stdout }, signal);
  const output = openSync(join(folder, 'stdout'), 'w');
  for (; !isAttached; await sleep(20)) writeSync(output, new Uint8Array([probe]));
  await once(lxcStart(), 'exit');
  closeSync(output); // not earlier: when no writer is left, the watcher assumes the end of lxc-start
  exits(0);
  await session;
  expect(received).toBe(size);
  expect(getEventListeners(signal, 'abort')).toEqual([]);
}, 60_000);

test('a client whose stream breaks is not one that is too slow', async () => {
  const stdout = new Writable({
    highWaterMark: 1,
    write: (_chunk, _encoding, done) => void setImmediate(() => done(new Error('broken'))),
  });
  const session = attach(container, { terminal: false, stdout }, new AbortController().signal);
  const ended = expect(session).rejects.toThrow('broken');
  const output = openSync(join(folder, 'stdout'), 'w');
  for (; !stdout.errored; await sleep(20)) writeSync(output, 'x');
  closeSync(output);
  await ended;
});

test.each(['later', 'before it is connected', 'before it attaches'])(
  'a client that leaves %s ends its session, not the watcher',
  async (when) => {
    const leaving = new AbortController();
    if (when === 'before it attaches') leaving.abort();
    const stdout = new PassThrough();
    const session = attach(container, { terminal: false, stdout }, leaving.signal);
    if (when === 'before it is connected') leaving.abort();
    if (when === 'later') {
      const output = openSync(join(folder, 'stdout'), 'w');
      for (; stdout.readableLength === 0; await sleep(20)) writeSync(output, 'x');
      leaving.abort();
      closeSync(output);
    }
    await session;
    expect(await send(container, 'reopen')).toBe(true);
  },
);

test('with a terminal the watcher makes one, to which "console" leads', async () => {
  const bundle = join(folder, 'terminal');
  mkdirSync(bundle);
  await startWatcher({
    vmid,
    bundle,
    lxcFolder: folder,
    uid: process.getuid?.() ?? 0,
    log: false,
    exitFile: join(folder, 'exits/t'),
    stdin: 'open',
    terminal: true,
  });
  expect(readlinkSync(join(bundle, 'console'))).toMatch(/^\/dev\/pts\/\d+$/);
  expect(existsSync(join(folder, 'console'))).toBe(false);
  expect(await send({ folder: bundle }, 'quit')).toBe(true);
});

test.each([
  ['/var/lib/lxc', 'lxc/ad055575fe28ddd5//var/lib/lxc'],
  ['/srv/lxc3', 'lxc/0075d61adef4e4f0//srv/lxc3'],
])('the socket of lxc-monitord for %s has the name that liblxc gives it', (lxcFolder, name) => {
  expect(monitorSocket(lxcFolder)).toBe(name);
  expect(monitorSocket(`/${'x'.repeat(200)}`)).toHaveLength(106);
});

test('a waiting client is served after a SIGHUP, which may be repeated', async () => {
  const watcher = pidOf(join(folder, 'exits/c'));
  process.kill(watcher, 'SIGSTOP');
  client = connect(join(folder, 'watch'));
  await once(client, 'connect');
  client.write('attach\n');
  process.kill(watcher, 'SIGHUP');
  process.kill(watcher, 'SIGCONT');
  expect(String((await once(client, 'data'))[0])).toBe('ok\n');
});

test('a watcher whose socket was lost listens there again, if it is that of the CT and the container', async () => {
  rmSync(join(folder, 'watch'));
  expect(await send(container, 'reopen')).toBe(false);
  expect(await wakeWatcher(vmid + 1, container)).toBe(false);
  expect(await wakeWatcher(vmid, { ...container, id: 'd' })).toBe(false);
  expect(await send(container, 'reopen')).toBe(false);
  expect(await wakeWatcher(vmid, container)).toBe(true);
  expect(await send(container, 'reopen')).toBe(true);
});

test('a client that does not answer is dropped', async () => {
  const other = join(folder, 'other');
  mkdirSync(other);
  const deaf = createServer().listen(join(other, 'watch'));
  const asked = once(deaf, 'connection');
  jest.useFakeTimers({ doNotFake: ['nextTick', 'setImmediate', 'queueMicrotask', 'performance', 'Date'] });
  const answer = send({ folder: other }, 'quit');
  const [socket] = (await asked) as [Socket];
  await once(socket, 'data');
  jest.advanceTimersByTime(10_000);
  expect(await answer).toBe(false);
  jest.useRealTimers();
  deaf.close();
});

test('a watcher that ends while a client connects is no watcher', async () => {
  const other = join(folder, 'other');
  mkdirSync(other);
  // Ends its socket, with the connection in its queue, as soon as there is one.
  const ending = spawn(
    'perl',
    [
      '-MSocket',
      '-e',
      'while (1) { socket(my $door, AF_UNIX, SOCK_STREAM, 0); unlink "watch"; bind($door, pack_sockaddr_un("watch")) && listen($door, 1) or die $!; my $set = ""; vec($set, fileno($door), 1) = 1; select($set, undef, undef, undef) }',
    ],
    { cwd: other, stdio: ['ignore', 'ignore', 'inherit'] },
  );
  try {
    await eventually(() => expect(existsSync(join(other, 'watch'))).toBe(true));
    for (let round = 0; round < 200; round++) expect(await send({ folder: other }, 'quit')).toBe(false);
  } finally {
    ending.kill('SIGKILL');
  }
});

test('it leaves no process behind', async () => {
  await once(lxcStart(), 'exit');
  exits(0);
  await eventually(() => expect(exitFile()).toBe('0'));
  await eventually(() => expect(() => pidOf(join(folder, 'exits/c'))).toThrow('no process'));
});
