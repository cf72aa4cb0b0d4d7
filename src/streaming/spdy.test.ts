// The server side of a SPDY connection alone: the ids of streams, and streams opened
// with FIN.
import { afterEach, expect, test } from '@jest/globals';
import { once } from 'node:events';
import { connect, createServer, type AddressInfo, type Server } from 'node:net';
import { text } from 'node:stream/consumers';
import { SpdyClient } from '../../test/helpers/spdy-client.js';
import { SpdyConnection, type SpdyStream } from './spdy.js';

const synStream = 1;
const goAway = 7;
let server: Server;
let client: SpdyClient;
afterEach(async () => {
  client?.socket.destroy();
  server.close();
  await once(server, 'close');
});

/** A client, and the streams that the server has received. */
async function open(): Promise<SpdyStream[]> {
  const streams: SpdyStream[] = [];
  server = createServer((socket) => new SpdyConnection(socket, (stream) => streams.push(stream)));
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const socket = connect((server.address() as AddressInfo).port, '127.0.0.1');
  await once(socket, 'connect');
  client = new SpdyClient(socket);
  return streams;
}

/** Opens a stream with this id, instead of the next one of the client. */
async function syn(id: number, flags = 0): Promise<void> {
  const payload = Buffer.concat([Buffer.alloc(10), await client.compress({ streamtype: 'data' })]);
  payload.writeUInt32BE(id, 0);
  client.sendControl(synStream, payload, flags);
}

test.each([
  ['an even id', [1, 2]],
  ['the id of an open stream', [1, 3, 3]],
  ['a lower id than before', [5, 3]],
  ['the id 0', [0]],
])('a stream with %s ends the connection', async (_, ids) => {
  const streams = await open();
  const told: Buffer[] = [];
  client.socket.on('data', (chunk: Buffer) => told.push(chunk));
  for (const id of ids) await syn(id);
  await client.closed;
  expect(streams).toHaveLength(ids.length - 1);
  expect(streams.filter((stream) => !stream.destroyed)).toEqual([]);
  expect(client.controls.at(-1)).toBe(goAway);
  const [last, status] = [Buffer.concat(told).subarray(-8, -4), Buffer.concat(told).subarray(-4)];
  expect([last.readUInt32BE(0), status.readUInt32BE(0)]).toEqual([ids.at(-2) ?? 0, 1]);
});

test('the highest bit is not part of a stream id', async () => {
  const streams = await open();
  await syn(0x80000001);
  await syn(3);
  await until(() => streams.length === 2);
  client.sendData(1, Buffer.from('for the first'), true);
  expect(await text(streams[0] as SpdyStream)).toBe('for the first');
});

test('a stream opened with FIN has no input, but has its output', async () => {
  const streams = await open();
  await syn(1, 1);
  await until(() => streams.length === 1);
  const [stream] = streams as [SpdyStream];
  let input = 0;
  stream.on('data', (chunk: Buffer) => (input += chunk.length));
  await once(stream, 'end');
  expect(input).toBe(0);
  const answered = new Promise<Buffer>((resolve) => {
    let came = Buffer.alloc(0);
    client.socket.on('data', (chunk: Buffer) => {
      came = Buffer.concat([came, chunk]);
      if (came.includes('answer')) resolve(came);
    });
  });
  stream.write('answer');
  await answered;
  expect(stream.destroyed).toBe(false);
});

test('a stream opened without FIN keeps its input open', async () => {
  const streams = await open();
  await syn(1);
  await until(() => streams.length === 1);
  const [stream] = streams as [SpdyStream];
  const input = text(stream);
  client.sendData(1, Buffer.from('late'), true);
  expect(await input).toBe('late');
});

async function until(is: () => boolean): Promise<void> {
  while (!is()) await new Promise((resolve) => setImmediate(resolve));
}
