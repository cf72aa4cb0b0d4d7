// The watchdog: systemd is notified only while the daemon answers.
import { afterEach, beforeEach, expect, jest, test } from '@jest/globals';
import { Server, ServerCredentials } from '@grpc/grpc-js';
import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { gate } from '../test/helpers/services.js';
import { loadProto } from './cri/proto.js';
import { log } from './log.js';
import { limitMs, step } from './steps.js';
import { feedWatchdog, notifySystemd } from './systemd.js';

/** In place of systemd: a datagram socket, which Node lacks; prints one datagram per line. */
const listener = `use Socket; socket(my $s, AF_UNIX, SOCK_DGRAM, 0) or die; bind($s, pack_sockaddr_un($ARGV[0])) or die; $| = 1;
print "bound\\n"; while (defined recv($s, my $text, 4096, 0)) { $text =~ tr/\\n/;/; print "$text\\n" }`;

let folder: string;
let systemd: ChildProcess;
let heard: AsyncIterator<string>;
let stop: (() => void) | undefined;
let daemon: Server;
let answer: boolean;
let listen: string;

beforeEach(async () => {
  folder = mkdtempSync(join(tmpdir(), 'crisp-systemd-'));
  systemd = spawn('perl', ['-e', listener, join(folder, 'notify')], { stdio: ['ignore', 'pipe', 'inherit'] });
  heard = createInterface({ input: systemd.stdout! })[Symbol.asyncIterator]();
  expect((await heard.next()).value).toBe('bound');
  process.env['NOTIFY_SOCKET'] = join(folder, 'notify');
  process.env['WATCHDOG_USEC'] = '1000000';
  process.env['WATCHDOG_PID'] = String(process.pid);

  // In place of the daemon: a server of the same calls that can be made to stop answering.
  answer = true;
  listen = `unix://${join(folder, 'crisp.sock')}`;
  daemon = new Server();
  daemon.addService(loadProto().runtime.v1.RuntimeService.service, {
    Version: (_: unknown, done: (error: null, response: object) => void) => {
      if (answer) done(null, {});
    },
  });
  await new Promise<void>((resolve, reject) =>
    daemon.bindAsync(listen, ServerCredentials.createInsecure(), (error) =>
      error ? reject(error) : resolve(),
    ),
  );
});
afterEach(async () => {
  stop?.();
  stop = undefined;
  daemon.forceShutdown();
  for (const name of ['NOTIFY_SOCKET', 'WATCHDOG_USEC', 'WATCHDOG_PID']) delete process.env[name];
  systemd.kill();
  await once(systemd, 'exit');
  rmSync(folder, { recursive: true });
});

/** What systemd has heard until a mark that is sent now. */
async function heardUntilNow(): Promise<string[]> {
  notifySystemd('STATUS=mark');
  for (const lines: string[] = []; ;) {
    const { value } = (await heard.next()) as { value: string };
    if (value === 'STATUS=mark') return lines;
    lines.push(value);
  }
}

test('several states are sent in one datagram', async () => {
  notifySystemd('READY=1', 'STATUS=well');
  expect((await heard.next()).value).toBe('READY=1;STATUS=well');
});

test('the watchdog is fed while the daemon answers', async () => {
  stop = feedWatchdog(listen);
  for (let count = 0; count < 3; count++) expect((await heard.next()).value).toBe('WATCHDOG=1');
});

test('it is not fed while the daemon does not answer', async () => {
  stop = feedWatchdog(listen);
  expect((await heard.next()).value).toBe('WATCHDOG=1');
  answer = false;
  await new Promise((resolve) => setTimeout(resolve, 600)); // messages in transit
  await heardUntilNow();
  await new Promise((resolve) => setTimeout(resolve, 1500));
  expect(await heardUntilNow()).toEqual([]);
  answer = true;
  expect((await heard.next()).value).toBe('WATCHDOG=1');
});

test('it is not fed while a step is overdue', async () => {
  const told = jest.spyOn(log, 'error').mockImplementation(() => undefined);
  const { passed, open } = gate();
  const work = step('stop pod: network', () => passed);
  const now = performance.now.bind(performance);
  const clock = jest.spyOn(performance, 'now').mockImplementation(() => now() + limitMs + 1000);
  try {
    stop = feedWatchdog(listen);
    await new Promise((resolve) => setTimeout(resolve, 1500));
    expect(await heardUntilNow()).toEqual([]);
    expect(told.mock.calls[0]).toMatchObject([
      { stuck: [{ step: 'stop pod: network', isOverdue: true }] },
      expect.stringContaining('systemd will restart the daemon'),
    ]);
  } finally {
    open();
    await work;
    clock.mockRestore();
    told.mockRestore();
  }
  expect((await heard.next()).value).toBe('WATCHDOG=1');
});

test.each([
  ['no watchdog', { WATCHDOG_USEC: '0' }],
  ['the watchdog of another process', { WATCHDOG_PID: '1' }],
])('%s is not fed', async (_, variables) => {
  Object.assign(process.env, variables);
  stop = feedWatchdog(listen);
  await new Promise((resolve) => setTimeout(resolve, 1000));
  expect(await heardUntilNow()).toEqual([]);
});
