// Real sockets in a real network namespace.
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { execFileSync, spawn, type ChildProcess } from 'node:child_process';
import { getEventListeners, once } from 'node:events';
import { createInterface } from 'node:readline';
import { duplexPair, type Duplex } from 'node:stream';
import { text } from 'node:stream/consumers';
import { forwardPort } from './port-forward.js';

let holder: ChildProcess;
let netns: string;
const servers: ChildProcess[] = [];

beforeAll(async () => {
  holder = spawn('unshare', ['--net', 'sh', '-c', 'ip link set lo up && echo up && exec sleep 600'], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  await once(holder.stdout as NodeJS.ReadableStream, 'data');
  netns = `/proc/${holder.pid}/ns/net`;
});
afterAll(() => {
  for (const server of servers) server.kill('SIGKILL');
  holder.kill('SIGKILL');
});

/** Runs `onConnection` (source text, with `socket`) for each connection, in the namespace; say() gives a line to lines. */
async function listen(
  address: string,
  onConnection: string,
): Promise<{ port: number; lines: AsyncIterator<string> }> {
  const source = `
    const say = (line) => process.stdout.write(line + '\\n');
    const server = require('node:net').createServer({ allowHalfOpen: true }, (socket) => { socket.on('error', () => {}); ${onConnection} });
    server.listen({ port: 0, host: '${address}', ipv6Only: true }, () => say(server.address().port));`;
  const server = spawn('nsenter', [`--net=${netns}`, process.execPath, '-e', source], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  servers.push(server);
  const lines = createInterface({ input: server.stdout as NodeJS.ReadableStream })[Symbol.asyncIterator]();
  return { port: Number((await lines.next()).value), lines };
}
function forward(
  port: number,
  signal = new AbortController().signal,
): { client: Duplex; pod: Duplex; done: Promise<void> } {
  const [client, pod] = duplexPair();
  return { client, pod, done: forwardPort(netns, port, pod, signal) };
}

test('the client may end first: the server still answers', async () => {
  const { port } = await listen(
    '127.0.0.1',
    `let bytes = 0; socket.on('data', (chunk) => { bytes += chunk.length; }).on('end', () => socket.end('got ' + bytes));`,
  );
  const { client, done } = forward(port);
  client.end(Buffer.alloc(1_000_000));
  expect(await text(client)).toBe('got 1000000');
  await done;
});

test('the server may end first: it still receives from the client', async () => {
  const { port, lines } = await listen(
    '127.0.0.1',
    `socket.end('bye'); let bytes = 0; socket.on('data', (chunk) => { bytes += chunk.length; }).on('end', () => say(bytes));`,
  );
  const { client, done } = forward(port);
  expect(await text(client.iterator({ destroyOnReturn: false }))).toBe('bye');
  client.end(Buffer.alloc(1_000_000));
  expect((await lines.next()).value).toBe('1000000');
  await done;
});

test('a server that does not read for a while blocks only this connection', async () => {
  // It reads from its first client when the second one has come.
  const { port, lines } = await listen(
    '127.0.0.1',
    `if (globalThis.first) { socket.end('second'); first.pipe(first); } else { globalThis.first = socket.pause(); say('held'); }`,
  );
  const held = forward(port);
  held.client.end(Buffer.alloc(50_000_000));
  expect((await lines.next()).value).toBe('held');
  const other = forward(port);
  other.client.end();
  expect(await text(other.client)).toBe('second');
  expect((await text(held.client)).length).toBe(50_000_000);
  await Promise.all([held.done, other.done]);
});

test('a server on IPv6 only receives all data of the client, including the first bytes', async () => {
  const { port } = await listen('::1', 'socket.pipe(socket);');
  const { client, done } = forward(port);
  client.end('first words');
  expect(await text(client)).toBe('first words');
  await done;
});

test('a port without a listener is refused with a message, and the stream is untouched', async () => {
  const [client, pod] = duplexPair();
  client.write('unread');
  await expect(forwardPort(netns, 1, pod, new AbortController().signal)).rejects.toMatchObject({
    id: 'PortRefused',
    message:
      'failed to connect to localhost:1 inside the pod: 127.0.0.1:1: Connection refused, [::1]:1: Connection refused',
  });
  expect([pod.destroyed, pod.writableEnded, String(pod.read())]).toEqual([false, false, 'unread']);
});

test('a missing namespace is reported with a message', async () => {
  const [, pod] = duplexPair();
  await expect(forwardPort('/nonexistent/net', 80, pod, new AbortController().signal)).rejects.toThrow(
    /\/nonexistent\/net.*No such file/,
  );
});

test('a connection that the server resets resets the stream, and is not a failure', async () => {
  const { port } = await listen('127.0.0.1', `socket.once('data', () => socket.resetAndDestroy());`);
  const { client, pod, done } = forward(port);
  client.write('x');
  await done;
  expect(pod.destroyed).toBe(true);
});

test('the same if it is reset at once', async () => {
  const { port } = await listen('127.0.0.1', 'socket.resetAndDestroy();');
  for (let round = 0; round < 5; round++) {
    const { pod, done } = forward(port);
    await done;
    expect(pod.destroyed).toBe(true);
  }
});

test('an abort ends the process', async () => {
  const { port, lines } = await listen(
    '127.0.0.1',
    `socket.resume().on('close', () => say('closed')).on('end', () => socket.end()); say('open');`,
  );
  const controller = new AbortController();
  const { done } = forward(port, controller.signal);
  expect((await lines.next()).value).toBe('open');
  controller.abort();
  await expect(done).rejects.toMatchObject({ id: 'Cancelled' });
  expect((await lines.next()).value).toBe('closed');
});

test('without a namespace the host is used', async () => {
  const [, pod] = duplexPair();
  const inHost = execFileSync('readlink', ['/proc/self/ns/net']).toString();
  expect(inHost).not.toBe(execFileSync('readlink', [netns]).toString());
  await expect(forwardPort(undefined, 1, pod, new AbortController().signal)).rejects.toMatchObject({
    id: 'PortRefused',
  });
});

test('a client that has gone already gets no connection, and its stream is untouched', async () => {
  const { port, lines } = await listen(
    '127.0.0.1',
    `socket.resume().on('end', () => socket.end()).on('close', () => say('closed'));`,
  );
  const [client, pod] = duplexPair();
  client.write('unread');
  await expect(forwardPort(netns, port, pod, AbortSignal.abort())).rejects.toMatchObject({ id: 'Cancelled' });
  expect([pod.destroyed, String(pod.read())]).toEqual([false, 'unread']);
  // A stream that is gone is no failure: the connection is closed at once.
  const gone = duplexPair()[1].destroy();
  await forwardPort(netns, port, gone, new AbortController().signal);
  expect((await lines.next()).value).toBe('closed');
});

test('nothing listens to the client or its stream any more when it is over', async () => {
  const { port } = await listen('127.0.0.1', 'socket.pipe(socket);');
  const { signal } = new AbortController();
  const { client, pod, done } = forward(port, signal);
  const before = duplexPair()[1];
  client.end('x');
  expect(await text(client)).toBe('x');
  await done;
  expect(getEventListeners(signal, 'abort')).toEqual([]);
  expect(pod.listenerCount('close')).toBe(before.listenerCount('close'));
});
