// What a client can make the server keep: clients that flood, never read, never end, or
// violate the protocol. The limits are those of limits.ts.
import { afterEach, describe, expect, jest, test } from '@jest/globals';
import { once } from 'node:events';
import { mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { connect, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { PassThrough } from 'node:stream';
import { buffer } from 'node:stream/consumers';
import { setTimeout as sleep } from 'node:timers/promises';
import { WebSocket } from 'ws';
import { makeCertificate } from '../../test/helpers/certificate.js';
import { SpdyClient, upgrade, type ClientStream } from '../../test/helpers/spdy-client.js';
import type { Io } from '../shapes/io.js';
import {
  maxReadAheadBytes,
  maxSessionsPerPod,
  maxStreams,
  maxUnsentReplyBytes,
  readAheadBytes,
  takePatienceMs,
} from './limits.js';
import { StreamingServer, type ExecRequest, type PortForwardRequest } from './server.js';
import { untilTaken, WireStream, type Wire } from './wire-stream.js';
import { until } from '../../test/helpers/wait.js';

const request: ExecRequest = {
  kind: 'exec',
  sandboxId: 'p',
  containerId: 'c',
  cmd: ['x'],
  tty: true,
  stdin: true,
  stdout: true,
  stderr: false,
};
const forward: PortForwardRequest = { kind: 'portforward', sandboxId: 'p', ports: [80, 81] };

let server: StreamingServer;
const clients: { destroy(): unknown }[] = [];
afterEach(async () => {
  for (const client of clients.splice(0)) client.destroy();
  await server?.close();
});

/** A program that reads nothing, writes nothing and ends with its client. */
function idle(_request: unknown, _io: Io, signal: AbortSignal): Promise<never> {
  return new Promise((_, reject) => {
    signal.addEventListener('abort', () => reject(new Error('aborted')));
  });
}
async function serve(
  exec: typeof idle = idle,
  tls?: { cert: string; key: string },
): Promise<StreamingServer> {
  server = new StreamingServer({
    address: '127.0.0.1',
    port: 0,
    handlers: {
      exec,
      attach: async (attached, io, signal) => {
        await exec(attached, io, signal);
      },
      portForward: async (_request, _port, stream, signal) => {
        stream.resume();
        await new Promise<void>((resolve) => {
          stream.once('close', resolve);
          stream.once('end', resolve);
          signal.addEventListener('abort', () => resolve());
        });
      },
    },
    ...(tls ? { tls } : {}),
  });
  await server.start();
  return server;
}
/** The server's ends of the connections. */
function sockets(): readonly Socket[] {
  return [...server['sockets']];
}
function unsent(): number {
  return sockets().reduce((bytes, socket) => bytes + socket.writableLength, 0);
}
async function connectTo(url: string): Promise<Socket> {
  const { hostname, port } = new URL(url);
  const socket = connect(Number(port), hostname);
  socket.on('error', () => undefined);
  clients.push(socket);
  await once(socket, 'connect');
  return socket;
}
/** Sends the same data repeatedly until the server stops reading for a while. @returns the bytes sent */
async function flood(socket: Socket, data: Buffer, atMost: number): Promise<number> {
  for (let quiet = 0; quiet < 5 && socket.bytesWritten < atMost && !socket.destroyed;) {
    if (socket.writableLength < 1 << 20) {
      socket.write(data);
      quiet = 0;
      await new Promise(setImmediate);
    } else {
      quiet++;
      await sleep(100);
    }
  }
  return socket.bytesWritten - socket.writableLength;
}

describe('SPDY', () => {
  async function open(url: string, protocol: string): Promise<SpdyClient> {
    const client = await SpdyClient.open(url, protocol);
    clients.push(client.socket);
    return client;
  }

  /** A client that reads nothing: SpdyClient reads as it comes. */
  async function openDeaf(): Promise<Socket> {
    const { socket } = await upgrade(server.url(request), {
      'x-stream-protocol-version': 'v4.channel.k8s.io',
    });
    clients.push(socket.on('error', () => undefined));
    return socket.pause();
  }

  test('headers of 250 kB are not kept: the client gets GOAWAY', async () => {
    const client = await open((await serve()).url(forward), 'portforward.k8s.io');
    await client.createStream({ streamtype: 'error', port: '80', requestid: '0' });
    const block = await client.compress({ streamtype: 'data', port: '80', filler: 'x'.repeat(250_000) });
    expect(block.length).toBeLessThan(4_000);
    const payload = Buffer.concat([Buffer.alloc(10), block]);
    payload.writeUInt32BE(3, 0);
    client.sendControl(1, payload);
    await client.closed;
    expect(client.controls.at(-1)).toBe(7);
  });

  test('the streams of a connection are limited; the others are refused, and open ones continue', async () => {
    const client = await open((await serve()).url(forward), 'portforward.k8s.io');
    const asked = Array.from({ length: maxStreams + 100 }, (_, number) =>
      client.createStream({
        streamtype: number % 2 ? 'data' : 'error',
        port: '80',
        requestid: String(number >> 1),
      }),
    );
    const streams = await Promise.all(asked);
    expect(streams.filter((stream) => stream.reset)).toHaveLength(100);
    expect(client.controls.filter((type) => type === 3)).toHaveLength(100);
    // The end of one makes room for another.
    streams[1]?.end();
    streams[0]?.end();
    await Promise.all([streams[0], streams[1]].map((stream) => buffer((stream as ClientStream).output)));
    expect((await client.createStream({ streamtype: 'error', port: '80', requestid: 'x' })).reset).toBe(
      false,
    );
  });

  test('after unread answers to PINGs, no more PINGs are read', async () => {
    await serve();
    const socket = await openDeaf();
    const ping = Buffer.from('800300060000000400000001', 'hex');
    const all = 64 << 20;
    expect(await flood(socket, Buffer.alloc(ping.length << 13, ping), all)).toBeLessThan(all / 2);
    expect(unsent()).toBeLessThan(2 * maxUnsentReplyBytes);
  });

  test('a program that ends while its client does not read ends the session', async () => {
    jest.useFakeTimers({ doNotFake: [...notIntervals] });
    try {
      await serve(async (_request, io) => {
        io.stdout?.write(Buffer.alloc(16 << 20));
        return { exitCode: 0 } as never;
      });
      const socket = await openDeaf();
      for (const frame of await synStreams(['error', 'stdin', 'stdout'])) socket.write(frame);
      await until(() => unsent() > 1 << 20);
      await sleep(200);
      expect(server['sessions'].size).toBe(1); // it is given time
      jest.advanceTimersByTime(2 * takePatienceMs);
      await until(() => server['sessions'].size === 0);
    } finally {
      jest.useRealTimers();
    }
  });
});

const notIntervals = [
  'Date',
  'hrtime',
  'nextTick',
  'performance',
  'queueMicrotask',
  'setImmediate',
  'clearImmediate',
  'setTimeout',
  'clearTimeout',
] as const;

/** SYN_STREAM frames with streams of these types, one zlib stream in all. */
async function synStreams(types: readonly string[]): Promise<Buffer[]> {
  const compressor = new SpdyClient(new PassThrough() as never);
  const blocks = new Map<string, Buffer>();
  const frames: Buffer[] = [];
  for (const [index, streamtype] of types.entries()) {
    // From the third time on a repeated block repeats the second.
    const block = (index > 2 && blocks.get(streamtype)) || (await compressor.compress({ streamtype }));
    if (index > 0) blocks.set(streamtype, block);
    const frame = Buffer.concat([Buffer.alloc(18), block]);
    frame.writeUInt32BE(0x80030001, 0);
    frame.writeUIntBE(10 + block.length, 5, 3);
    frame.writeUInt32BE(2 * index + 1, 8);
    frames.push(frame);
  }
  compressor.socket.destroy();
  return frames;
}

describe('WebSocket', () => {
  test('unread PINGs are not answered', async () => {
    const { socket } = await upgrade(
      (await serve()).url(request),
      {
        'sec-websocket-version': '13',
        'sec-websocket-key': Buffer.alloc(16).toString('base64'),
        'sec-websocket-protocol': 'v5.channel.k8s.io',
      },
      'GET',
      'websocket',
    );
    clients.push(socket.on('error', () => undefined));
    socket.pause();
    const ping = Buffer.concat([Buffer.from([0x89, 0x80 + 125, 0, 0, 0, 0]), Buffer.alloc(125)]);
    await flood(socket, Buffer.alloc(ping.length << 11, ping), 64 << 20);
    expect(unsent()).toBeLessThan(2 * maxUnsentReplyBytes);
  });

  test('a message of very many fragments ends the session', async () => {
    const socket = new WebSocket((await serve()).url(request), ['v5.channel.k8s.io']);
    clients.push({ destroy: () => socket.terminate() });
    await once(socket, 'open');
    const closed = once(socket, 'close');
    for (let piece = 0; piece < 3_000; piece++) socket.send(Buffer.alloc(1), { fin: false });
    expect((await closed)[0]).toBe(1008);
  });
});

describe('data that waits for a reader', () => {
  function wire(): Wire & { reset: number } {
    return {
      readAhead: { bytes: 0 },
      reset: 0,
      send: (_id, _data, done) => done(),
      sendEnd: (_id, done) => done(),
      sendReset() {
        this.reset++;
      },
    };
  }

  test('is kept in blocks, whatever the size of the pieces', async () => {
    const stream = new WireStream(wire(), 1);
    const block = Buffer.alloc(65_536, 'x');
    for (let piece = 0; piece < 100_000; piece++)
      void stream.receive(block.subarray(piece % 1000, (piece % 1000) + 1));
    stream.receiveEnd();
    let [bytes, chunks] = [0, 0];
    for await (const chunk of stream) {
      bytes += (chunk as Buffer).length;
      chunks++;
    }
    expect([bytes, chunks < 20]).toEqual([100_000, true]);
  });

  test('is limited for a stream, and for all streams of a connection', async () => {
    const connection = wire();
    const streams = Array.from({ length: 100 }, (_, id) => new WireStream(connection, id));
    const data = Buffer.alloc(65_536);
    const [first] = streams as [WireStream];
    let held = 0;
    while (!first.receive(data)) held += data.length;
    expect(held).toBeLessThan(readAheadBytes);
    for (const stream of streams.slice(1)) for (let more = 0; more < 4; more++) void stream.receive(data);
    const busy = first.receive(data);
    expect(connection.readAhead.bytes).toBeGreaterThan(maxReadAheadBytes);
    const refused = streams[99]?.receive(Buffer.alloc(1));
    expect(refused).toBeInstanceOf(Promise);
    for (const stream of streams) stream.resume();
    await Promise.all([busy, refused]);
    for (const stream of streams) stream.destroy();
    expect(connection.readAhead.bytes).toBe(0);
  });

  test('final output that is not read ends the connection', async () => {
    let end = (): void => undefined;
    const work = new Promise<string>((resolve) => {
      end = () => resolve('ended');
    });
    expect(await untilTaken({ unsentBytes: 1, destroy: () => end() }, work, 300)).toBe('ended');
  });

  test('output that is read slowly does not', async () => {
    let left = 10;
    const connection = {
      get unsentBytes() {
        return left--;
      },
      destroy: () => {
        throw new Error('hung up on');
      },
    };
    await untilTaken(connection, sleep(800), 300);
  });
});

test('the sessions of a pod are limited', async () => {
  await serve();
  const open = async (sandboxId: string): Promise<void> => {
    const { socket } = await upgrade(server.url({ ...request, sandboxId }), {
      'x-stream-protocol-version': 'v4.channel.k8s.io',
    });
    clients.push(socket);
  };
  for (let session = 0; session < maxSessionsPerPod; session++) await open('greedy');
  await expect(open('greedy')).rejects.toMatchObject({
    status: 503,
    body: expect.stringContaining('200 sessions of this pod') as unknown,
  });
  await open('modest');
  clients[0]?.destroy();
  await until(() => server['sessions'].size === maxSessionsPerPod);
  await open('greedy');
});

describe('connections without a session', () => {
  test('that send nothing or half a request are closed, also during the TLS handshake', async () => {
    const folder = mkdtempSync(join(tmpdir(), 'crisp-tls-'));
    const plain = await serve();
    try {
      const withTls = await serve(idle, makeCertificate(folder));
      const [silent, half, body] = [
        await connectTo(plain['baseUrl']),
        await connectTo(plain['baseUrl']),
        await connectTo(plain['baseUrl']),
      ];
      half.write('GET /exec/x HTTP/1.1\r\nhost: x\r\n');
      body.write('POST /exec/x HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\nhalf');
      const unshaken = await connectTo(withTls['baseUrl']);
      await Promise.all([silent, half, body, unshaken].map((socket) => once(socket.resume(), 'close')));
      await until(() => sockets().length === 0 && plain['sockets'].size === 0);
    } finally {
      await plain.close();
      rmSync(folder, { recursive: true });
    }
  }, 60_000);

  test('that were refused and stay open are closed', async () => {
    const socket = await connectTo((await serve()).url(request));
    socket.pause();
    socket.write('GET /exec/x HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: SPDY/3.1\r\n\r\n');
    await until(() => sockets().length === 1);
    await until(() => sockets().length === 0);
  });

  test('have headers of a limited size', async () => {
    const socket = await connectTo((await serve()).url(request));
    let answer = '';
    socket.on('data', (chunk: Buffer) => {
      answer += chunk.toString();
    });
    socket.write(`GET /exec/x HTTP/1.1\r\nhost: x\r\nfiller: ${'x'.repeat(20_000)}\r\n\r\n`);
    await once(socket, 'close');
    expect(answer).toMatch(/^HTTP\/1.1 431 /);
  });
});

describe('mutated', () => {
  /** mulberry32: the same sequence on every run. */
  function random(seed: number): (below: number) => number {
    let state = seed;
    return (below) => {
      state = (state + 0x6d2b79f5) | 0;
      let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
      mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
      return ((mixed ^ (mixed >>> 14)) >>> 0) % below;
    };
  }
  /** Some of the parts, in some order, some of them damaged. */
  function mutate(parts: readonly Buffer[], next: (below: number) => number): Buffer {
    const chosen = Array.from({ length: 20 + next(40) }, () => {
      const part = Buffer.from(parts[next(parts.length)] as Buffer);
      switch (next(8)) {
        case 0: // bits
          for (let flips = 1 + next(4); flips > 0 && part.length; flips--) {
            const at = next(part.length);
            part[at] = (part[at] ?? 0) ^ (1 << next(8));
          }
          return part;
        case 1: // the end is missing
          return part.subarray(0, next(part.length + 1));
        case 2: // random bytes
          return Buffer.from(Array.from({ length: next(40) }, () => next(256)));
        case 3: // a random length or id
          if (part.length >= 8)
            part.writeUInt32BE([0, 1, 0x7fffffff, 0xffffffff, next(1 << 16)][next(5)] ?? 0, 4 * next(2));
          return part;
        default:
          return part;
      }
    });
    return Buffer.concat(chosen);
  }
  /** Sends each in a separate session, and waits for its end. */
  async function run(cases: readonly { readonly head: string; readonly data: Buffer }[]): Promise<void> {
    const files = readdirSync('/proc/self/fd').length;
    const queue = [...cases];
    const worker = async (): Promise<void> => {
      for (let one = queue.pop(); one; one = queue.pop()) {
        const socket = await connectTo(server['baseUrl']);
        const closed = once(socket.resume(), 'close');
        socket.write(one.head);
        socket.end(one.data);
        await closed;
      }
    };
    await Promise.all(Array.from({ length: 20 }, worker));
    await until(() => sockets().length === 0 && server['sessions'].size === 0);
    expect(readdirSync('/proc/self/fd').length).toBeLessThanOrEqual(files);
    // And it serves on.
    const client = await SpdyClient.open(server.url(request), 'v4.channel.k8s.io');
    expect((await client.createStream({ streamtype: 'error' })).reset).toBe(false);
    client.socket.destroy();
  }
  function path(target: ExecRequest | PortForwardRequest): string {
    return new URL(server.url({ ...target, sandboxId: String(Math.floor(tickets++ / 50)) })).pathname;
  }
  let tickets = 0;
  /** Reads a bit of its input, writes, and ends by itself or with its client. */
  async function lively(_request: unknown, io: Io, signal: AbortSignal): Promise<never> {
    io.onResize?.(() => undefined);
    io.stdin?.resume();
    io.stdout?.write('x'.repeat(1000));
    await Promise.race([io.stdin ? once(io.stdin, 'close') : sleep(5), sleep(50, undefined, { ref: false })]);
    if (signal.aborted) throw new Error('aborted');
    return { exitCode: 0 } as never;
  }

  test.each([1, 2])(
    'SPDY frames are withstood (seed %i)',
    async (seed) => {
      const next = random(seed);
      await serve(lively);
      const client = await SpdyClient.open(server.url(request), 'v4.channel.k8s.io');
      const blocks: Buffer[] = [];
      for (const streamtype of ['error', 'stdin', 'stdout', 'resize', 'data'])
        blocks.push(await client.compress({ streamtype, port: '80', requestid: '1' }));
      client.socket.destroy();
      const frame = (first: number, flags: number, payload: Buffer): Buffer => {
        const head = Buffer.alloc(8);
        head.writeUInt32BE(first, 0);
        head.writeUInt32BE(flags * 0x1000000 + payload.length, 4);
        return Buffer.concat([head, payload]);
      };
      const word = (number: number): Buffer => Buffer.from([0, 0, number >> 8, number & 0xff]);
      const opened = blocks.map((block, index) =>
        frame(0x80030001, 0, Buffer.concat([word(2 * index + 1), Buffer.alloc(6), block])),
      );
      const frames = [
        ...opened,
        ...[1, 3, 5, 7, 9].map((id) =>
          frame(id, next(2), Buffer.alloc(next(3000), '{"Width":80,"Height":24}')),
        ),
        frame(0x80030006, 0, word(1)),
        frame(0x80030003, 0, Buffer.concat([word(3), word(5)])),
        frame(0x80030004, 0, Buffer.concat([word(1), word(4), word(100)])),
        frame(0x80030007, 0, Buffer.concat([word(0), word(0)])),
        frame(0x80030008, 0, Buffer.concat([word(1), blocks[0] ?? Buffer.alloc(0)])),
        frame(0x80030009, 0, Buffer.concat([word(1), word(100)])),
      ];
      const cases = Array.from({ length: 300 }, (_, number) => {
        const [target, protocol] =
          number % 2 ? [request, 'v4.channel.k8s.io'] : [forward, 'portforward.k8s.io'];
        return {
          head: `POST ${path(target)} HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: SPDY/3.1\r\nx-stream-protocol-version: ${protocol}\r\n\r\n`,
          // The headers as they should be, mostly: what comes after would not be looked at else.
          data: Buffer.concat([...(next(4) ? opened : []), mutate(frames, next)]),
        };
      });
      await run(cases);
    },
    120_000,
  );

  test.each([3, 4])(
    'WebSocket messages are withstood (seed %i)',
    async (seed) => {
      const next = random(seed);
      await serve(lively);
      const frame = (first: number, payload: Buffer): Buffer =>
        Buffer.concat([
          payload.length < 126
            ? Buffer.from([first, 0x80 + payload.length])
            : Buffer.from([first, 0x80 + 126, payload.length >> 8, payload.length & 0xff]),
          Buffer.alloc(4), // the mask
          payload,
        ]);
      const frames = [
        ...[0, 1, 2, 3, 4, 5, 255].map((channel) => frame(0x82, Buffer.from([channel, 1, 2, 3]))),
        ...[0, 4, 255].map((channel) => frame(0x82, Buffer.from([255, channel]))),
        frame(0x82, Buffer.concat([Buffer.from([0]), Buffer.alloc(next(60_000))])),
        frame(0x82, Buffer.from('\x04{"Width":80,"Height":24}')),
        frame(0x02, Buffer.from([0, 1])),
        frame(0x00, Buffer.from([1])),
        frame(0x80, Buffer.from([1])),
        frame(0x81, Buffer.from('0aGVsbG8=')),
        frame(0x89, Buffer.from('ping')),
        frame(0x8a, Buffer.from('pong')),
        frame(0x88, Buffer.from([3, 232])),
      ];
      const protocols = ['v5.channel.k8s.io', 'v4.base64.channel.k8s.io', 'SPDY/3.1+portforward.k8s.io'];
      const cases = Array.from({ length: 300 }, (_, number) => ({
        head: `GET ${path(number % 3 === 2 ? forward : request)} HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\nsec-websocket-protocol: ${protocols[number % 3]}\r\n\r\n`,
        data: mutate(frames, next),
      }));
      await run(cases);
    },
    120_000,
  );

  test.each([5, 6])(
    'HTTP requests are withstood (seed %i)',
    async (seed) => {
      const next = random(seed);
      await serve(lively);
      const cases = Array.from({ length: 300 }, () => {
        const lines = [
          `GET ${path(request)} HTTP/1.1\r\n`,
          `POST ${path(forward)} HTTP/1.1\r\n`,
          'host: x\r\n',
          'connection: upgrade\r\n',
          'upgrade: SPDY/3.1\r\n',
          'upgrade: websocket, h2c\r\n',
          'x-stream-protocol-version: v4.channel.k8s.io, portforward.k8s.io\r\n',
          'sec-websocket-version: 13\r\n',
          'sec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n',
          'sec-websocket-protocol: v5.channel.k8s.io,,\u0000\r\n',
          'expect: 100-continue\r\n',
          'transfer-encoding: chunked\r\n',
          'content-length: 5\r\n',
          '\r\n',
          '5\r\nhello\r\n0\r\n\r\n',
          'CONNECT x:1 HTTP/1.1\r\nhost: x\r\n\r\n',
        ].map((line) => Buffer.from(line));
        return { head: next(4) ? String(lines[next(2)]) : '', data: mutate(lines.slice(next(3)), next) };
      });
      await run(cases);
    },
    120_000,
  );
});
