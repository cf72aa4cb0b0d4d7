// Exec and attach over both transports, with test clients that can also misbehave. For
// crictl see test/integration.
import { afterEach, describe, expect, jest, test } from '@jest/globals';
import { once } from 'node:events';
import { connect, createServer, type AddressInfo, type Socket } from 'node:net';
import { buffer, text } from 'node:stream/consumers';
import { setImmediate } from 'node:timers/promises';
import { WebSocket } from 'ws';
import { fakeTimeouts } from '../../test/helpers/services.js';
import { type ClientStream, SpdyClient } from '../../test/helpers/spdy-client.js';
import { difference } from '../../test/helpers/offenders.js';
import type { Io, TerminalSize } from '../shapes/io.js';
import { CrispError } from '../errors.js';
import { StreamingServer, type ExecRequest, type StreamingHandlers } from './server.js';
import { serveCommandOverSpdy } from './session.js';

type Exec = StreamingHandlers['exec'];
const request: ExecRequest = {
  kind: 'exec',
  sandboxId: 'p',
  containerId: 'c',
  cmd: ['x'],
  tty: false,
  stdin: true,
  stdout: true,
  stderr: true,
};
const server: { current?: StreamingServer } = {};
const clients: { terminate(): void }[] = [];
afterEach(async () => {
  jest.useRealTimers();
  for (const client of clients.splice(0)) client.terminate();
  await server.current?.close();
});

async function serve(exec: Exec): Promise<StreamingServer> {
  server.current = new StreamingServer({
    address: '127.0.0.1',
    port: 0,
    handlers: {
      exec,
      attach: async (attached, io, signal) => {
        await exec({ ...attached, kind: 'exec', cmd: [] }, io, signal);
      },
      portForward: async () => undefined,
    },
  });
  await server.current.start();
  return server.current;
}

interface SpdySession {
  client: SpdyClient;
  error: ClientStream;
  stdin: ClientStream;
  stdout: ClientStream;
  stderr: ClientStream;
}
async function openSpdy(url: string, protocol = 'v4.channel.k8s.io'): Promise<SpdySession> {
  const client = await SpdyClient.open(url, protocol);
  clients.push({ terminate: () => client.socket.destroy() });
  const [error, stdin, stdout, stderr] = [
    await client.createStream({ streamtype: 'error' }),
    await client.createStream({ streamtype: 'stdin' }),
    await client.createStream({ streamtype: 'stdout' }),
    await client.createStream({ streamtype: 'stderr' }),
  ];
  return { client, error, stdin, stdout, stderr };
}

/** What came on each channel, once the server has closed. */
interface WebSocketSession {
  socket: WebSocket;
  channels: string[];
  empty: number[];
  closed: Promise<number>;
}
async function openWebSocket(url: string, protocol: string): Promise<WebSocketSession> {
  const socket = protocol ? new WebSocket(url, [protocol]) : new WebSocket(url);
  clients.push(socket);
  const session: WebSocketSession = {
    socket,
    channels: ['', '', '', '', ''],
    empty: [],
    closed: once(socket, 'close').then(([code]) => code as number),
  };
  socket.on('message', (message: Buffer, binary: boolean) => {
    const base64 = protocol.includes('base64');
    if (binary === base64) throw new Error(`a ${binary ? 'binary' : 'text'} message`);
    const channel = (message[0] ?? 0) - (base64 ? 48 : 0);
    if (message.length === 1) session.empty.push(channel);
    session.channels[channel] += base64
      ? Buffer.from(message.toString().slice(1), 'base64').toString()
      : message.subarray(1).toString();
  });
  await once(socket, 'open');
  expect(socket.protocol).toBe(protocol);
  return session;
}
function channelMessage(protocol: string, channel: number, data: string): Buffer | string {
  return protocol.includes('base64')
    ? `${channel}${Buffer.from(data).toString('base64')}`
    : Buffer.from(`${String.fromCharCode(channel)}${data}`);
}

const talk: Exec = async (_request, io) => {
  io.stdout?.write(''); // no end, no nothing
  io.stdout?.write('out');
  io.stderr?.write('err');
  return { exitCode: 3 };
};
const exit3 = {
  status: 'Failure',
  reason: 'NonZeroExitCode',
  details: { causes: [{ reason: 'ExitCode', message: '3' }] },
};
const succeed: Exec = async () => ({ exitCode: 0 });
const fail: Exec = async () => {
  throw new CrispError('StartFailed', 'no such command');
};

describe('status and output', () => {
  const spdyProtocols = [
    'v5.channel.k8s.io',
    'v4.channel.k8s.io',
    'v3.channel.k8s.io',
    'v2.channel.k8s.io',
    'channel.k8s.io',
  ];
  test.each(spdyProtocols)('over SPDY %s', async (protocol) => {
    const json = /^v[45]/.test(protocol);
    const ask = async (exec: Exec): Promise<string[]> => {
      const session = await openSpdy((await serve(exec)).url(request), protocol);
      const output = await Promise.all(
        [session.stdout, session.stderr, session.error, session.stdin].map((stream) => text(stream.output)),
      );
      await session.client.closed;
      await server.current?.close();
      return output;
    };
    const [out, err, status, stdin] = await ask(talk);
    expect([out, err, stdin]).toEqual(['out', 'err', '']);
    if (json) expect(JSON.parse(status ?? '')).toMatchObject(exit3);
    else expect(status).toBe('command terminated with exit code 3');
    const [, , success] = await ask(succeed);
    expect(success).toBe(json ? '{"status":"Success"}' : '');
    const [, , failure = ''] = await ask(fail);
    expect(json ? (JSON.parse(failure) as { message: string }).message : failure).toMatch(
      /^error executing command in container: StartFailed: no such command; hint/,
    );
  });

  const webSocketProtocols = [
    'v5.channel.k8s.io',
    'v4.channel.k8s.io',
    'v4.base64.channel.k8s.io',
    'channel.k8s.io',
    'base64.channel.k8s.io',
    '',
  ];
  test.each(webSocketProtocols)('over WebSocket "%s"', async (protocol) => {
    const session = await openWebSocket((await serve(talk)).url(request), protocol);
    expect(await session.closed).toBe(1000);
    expect(session.channels.slice(0, 3)).toEqual(['', 'out', 'err']);
    expect(session.empty).toContain(1);
    if (/^v[45]/.test(protocol)) expect(JSON.parse(session.channels[3] ?? '')).toMatchObject(exit3);
    else expect(session.channels[3]).toBe('command terminated with exit code 3');
  });

  test('attach has no exit code', async () => {
    const session = await openSpdy((await serve(talk)).url({ ...request, kind: 'attach' }));
    expect(await Promise.all([text(session.stdout.output), text(session.error.output)])).toEqual([
      'out',
      '{"status":"Success"}',
    ]);
  });
});

describe('stdin', () => {
  const count: Exec = async (_request, io) => {
    io.stdout?.write(String((await buffer(io.stdin as NodeJS.ReadableStream)).length));
    return { exitCode: 0 };
  };

  test('ends by half-close over SPDY', async () => {
    const session = await openSpdy((await serve(count)).url(request));
    await session.stdin.write('12345');
    session.stdin.end();
    expect(await text(session.stdout.output)).toBe('5');
  });

  test('ends by the close signal over WebSocket v5', async () => {
    const session = await openWebSocket((await serve(count)).url(request), 'v5.channel.k8s.io');
    session.socket.send(channelMessage('v5', 0, '12345'));
    session.socket.send(Buffer.from([255, 0]));
    await session.closed;
    expect(session.channels[1]).toBe('5');
  });

  test('a close signal that names no channel is an error', async () => {
    const session = await openWebSocket((await serve(count)).url(request), 'v5.channel.k8s.io');
    session.socket.send(Buffer.from([255, 77]));
    expect(await session.closed).toBe(1002);
  });

  test.each(['v4.channel.k8s.io', 'base64.channel.k8s.io'])(
    'reaches the program over WebSocket %s, but not on an unknown channel',
    async (protocol) => {
      const first: Exec = async (_request, io) => {
        for await (const chunk of io.stdin ?? []) {
          io.stdout?.write(`got ${String(chunk)}`);
          break;
        }
        return { exitCode: 0 };
      };
      const session = await openWebSocket((await serve(first)).url(request), protocol);
      session.socket.send(channelMessage(protocol, 9, 'nobody'));
      session.socket.send(channelMessage(protocol, 1, 'nor stdout'));
      session.socket.send(protocol.includes('base64') ? '' : Buffer.alloc(0));
      session.socket.send(channelMessage(protocol, 0, 'hello'));
      await session.closed;
      expect(session.channels[1]).toBe('got hello');
    },
  );

  test('the largest frame is received whole', async () => {
    const session = await openSpdy((await serve(count)).url(request));
    await session.stdin.write(Buffer.alloc(0xffffff));
    session.stdin.end();
    expect(await text(session.stdout.output)).toBe(String(0xffffff));
  });

  test('a WebSocket message beyond 16 MiB ends the session', async () => {
    const session = await openWebSocket((await serve(count)).url(request), 'v5.channel.k8s.io');
    session.socket.send(Buffer.alloc((16 << 20) + 1));
    expect(await session.closed).toBe(1009);
  });
});

describe('a terminal', () => {
  const watch: Exec = (_request, io) =>
    new Promise((resolve) => {
      io.onResize?.(({ width, height }) => {
        io.stdout?.write(`${width}x${height} `);
        if (width === 1) resolve({ exitCode: 0 });
      });
    });
  const terminal: ExecRequest = { ...request, tty: true, stderr: false };

  test('receives its sizes over SPDY, however they are split, and ignores the rest', async () => {
    const client = await SpdyClient.open((await serve(watch)).url(terminal), 'v4.channel.k8s.io');
    await client.createStream({ streamtype: 'error' });
    await client.createStream({ streamtype: 'stdin' });
    const stdout = await client.createStream({ streamtype: 'stdout' });
    const resize = await client.createStream({ streamtype: 'resize' });
    for (const part of [
      '{"Width":80,"Hei',
      'ght":24}\n{"Width":81,"Height":25}',
      '{"Width":-1,"Height":3}{nonsense}[]',
      '{"Width":70000,"Height":1}',
      'x'.repeat(5_000),
      '{"Width":1,"Height":1}',
    ])
      await resize.write(part);
    expect(await text(stdout.output)).toBe('80x24 81x25 1x1 ');
  });

  test('receives its sizes over WebSocket; a late listener gets the present one', async () => {
    const late: Exec = async (_request, io) => {
      await once(io.stdin as NodeJS.ReadableStream, 'data');
      const size = await new Promise<TerminalSize>((resolve) => io.onResize?.(resolve));
      io.stdout?.write(JSON.stringify(size));
      return { exitCode: 0 };
    };
    const session = await openWebSocket((await serve(late)).url(terminal), 'v4.channel.k8s.io');
    session.socket.send(channelMessage('', 4, '{"Width":80,"Height":24}'));
    session.socket.send(channelMessage('', 4, '{"Width":100,"Height":40}'));
    session.socket.send(channelMessage('', 0, 'go'));
    await session.closed;
    expect(session.channels[1]).toBe('{"width":100,"height":40}');
  });

  test('a client without a resize stream has its session', async () => {
    const session = await openSpdy((await serve(talk)).url(terminal));
    expect(await text(session.stdout.output)).toBe('out');
    expect(await text(session.stderr.output)).toBe('');
  });
});

describe('a client that disconnects', () => {
  /** Resolves with the handler's end once its signal aborts. */
  function abortable(start: (io: Io) => void): {
    exec: Exec;
    started: Promise<void>;
    aborted: Promise<void>;
  } {
    let [begin, end] = [(): void => undefined, (): void => undefined];
    const started = new Promise<void>((resolve) => {
      begin = resolve;
    });
    const aborted = new Promise<void>((resolve) => {
      end = resolve;
    });
    return {
      started,
      aborted,
      exec: (_request, io, signal) =>
        new Promise((_, reject) => {
          signal.addEventListener('abort', () => {
            end();
            reject(new Error('aborted'));
          });
          start(io);
          begin();
        }),
    };
  }

  test.each(['SPDY', 'WebSocket'])('aborts an idle session over %s', async (transport) => {
    const { exec, started, aborted } = abortable(() => undefined);
    const url = (await serve(exec)).url(request);
    const vanish =
      transport === 'SPDY'
        ? await openSpdy(url).then((session) => () => session.client.socket.destroy())
        : await openWebSocket(url, 'v5.channel.k8s.io').then((session) => () => session.socket.terminate());
    await started;
    vanish();
    await aborted;
  });

  test.each(['SPDY', 'WebSocket'])(
    'aborts over %s even if the program does not read its input',
    async (transport) => {
      const { exec, started, aborted } = abortable(() => undefined);
      const url = (await serve(exec)).url(request);
      let [sent, vanish] = [(): boolean => false, (): void => undefined];
      if (transport === 'SPDY') {
        const session = await openSpdy(url);
        sent = () => session.client.sendData(session.stdin.id, Buffer.alloc(65_536), false);
        vanish = () => session.client.socket.destroy();
      } else {
        const session = await openWebSocket(url, 'v5.channel.k8s.io');
        sent = () => {
          session.socket.send(Buffer.alloc(65_536));
          return session.socket.bufferedAmount < 1 << 20;
        };
        vanish = () => session.socket.terminate();
      }
      await started;
      for (let megabytes = 0; megabytes < 16; megabytes += 1 / 16) {
        if (!sent()) await setImmediate();
      }
      vanish();
      await aborted;
    },
  );

  test('aborts a session whose output it does not read', async () => {
    let accepted = 0;
    const { exec, started, aborted } = abortable((io) => {
      const more = (): void => {
        while (io.stdout?.write(Buffer.alloc(65_536))) accepted += 65_536;
        io.stdout?.once('drain', more);
      };
      more();
    });
    const { client } = await openSpdy((await serve(exec)).url(request));
    client.socket.pause();
    await started;
    await new Promise((resolve) => setTimeout(resolve, 300)); // there is no event for the end of the reading
    expect(accepted).toBeLessThan(32 << 20);
    client.socket.resetAndDestroy();
    await aborted;
  });

  test.each([
    ['a frame of another version', Buffer.from('8002000600000004', 'hex')],
    ['a giant control frame', Buffer.from('8003000100ffffff', 'hex')],
    ['headers that do not inflate', Buffer.from('80030001000000110000000b00000000000041414141414141', 'hex')],
    ['a stream with an even id', Buffer.from('80030001000000120000000c000000000000', 'hex')],
    ['a truncated SYN_STREAM', Buffer.from('800300010000000100', 'hex')],
    ['an unexpected reply', Buffer.from('80030002000000040000000b', 'hex')],
    ['random bytes', Buffer.from('ffffffffffffffffffffffffffffffff', 'hex')],
  ])('by %s is disconnected, and the server continues', async (_, bytes) => {
    const { exec, started, aborted } = abortable(() => undefined);
    const { client } = await openSpdy((await serve(exec)).url(request));
    await started;
    client.socket.write(Buffer.concat([bytes, Buffer.alloc(16)]));
    await client.closed;
    await aborted;
    (
      await SpdyClient.open((server.current as StreamingServer).url(request), 'v4.channel.k8s.io')
    ).socket.destroy();
  });
});

describe('streams', () => {
  const timeoutMs = 50;
  async function withTimeout(ask: (client: SpdyClient) => Promise<void>): Promise<void> {
    const listener = createServer(
      (socket: Socket) =>
        void serveCommandOverSpdy(
          socket,
          { jsonStatus: true },
          request,
          { exec: talk, attach: async () => undefined, portForward: async () => undefined },
          timeoutMs,
        ),
    );
    listener.listen(0, '127.0.0.1');
    await once(listener, 'listening');
    const socket = connect((listener.address() as AddressInfo).port, '127.0.0.1');
    const closed = once(socket, 'close');
    try {
      await ask(new SpdyClient(socket));
      await closed;
    } finally {
      socket.destroy();
      listener.close();
    }
  }

  test('that do not arrive in time end the session, and the client gets their names', () =>
    withTimeout(async (client) => {
      fakeTimeouts();
      const error = await client.createStream({ streamtype: 'error' });
      await client.createStream({ streamtype: 'stdout' });
      jest.advanceTimersByTime(timeoutMs);
      expect(JSON.parse(await text(error.output))).toMatchObject({
        status: 'Failure',
        message: expect.stringContaining('stdin, stderr'),
      });
    }));

  test('that never arrive end the connection', () => withTimeout(async () => undefined));

  test('of an unknown or a repeated kind are reset, and the session continues', async () => {
    const client = await SpdyClient.open((await serve(talk)).url(request), 'v4.channel.k8s.io');
    const unknown = await client.createStream({ streamtype: 'bogus' });
    await client.createStream({ streamtype: 'error' });
    await client.createStream({ streamtype: 'stdin' });
    const repeated = await client.createStream({ streamtype: 'stdin' });
    const stdout = await client.createStream({ streamtype: 'stdout' });
    await Promise.all([unknown, repeated].map((stream) => text(stream.output)));
    expect([unknown.reset, repeated.reset, stdout.reset]).toEqual([true, true, false]);
    await client.createStream({ streamtype: 'stderr' });
    expect(await text(stdout.output)).toBe('out');
  });

  test('a PING is answered, settings and windows are ignored', async () => {
    const session = await openSpdy(
      (
        await serve(async (_request, io) => {
          await once(io.stdin as NodeJS.ReadableStream, 'data');
          return { exitCode: 0 };
        })
      ).url(request),
    );
    session.client.sendControl(4, Buffer.from('00000000', 'hex'));
    session.client.sendControl(9, Buffer.from('0000000000000001', 'hex'));
    session.client.sendControl(6, Buffer.from('00000001', 'hex'));
    session.client.sendControl(
      8,
      Buffer.concat([Buffer.from('00000003', 'hex'), await session.client.compress({ more: 'headers' })]),
    );
    await session.stdin.write('go');
    expect(await text(session.error.output)).toBe('{"status":"Success"}');
    expect(session.client.controls).toContain(6);
  });
});

describe('load', () => {
  const echo: Exec = async (_request, io) => {
    for await (const chunk of io.stdin ?? []) {
      if (io.stdout?.write(chunk) === false) await once(io.stdout, 'drain');
    }
    return { exitCode: 0 };
  };

  test('a program that ends while its client still sends: its output is complete', async () => {
    const output = Buffer.alloc(5_000_000, 'x');
    const session = await openSpdy(
      (
        await serve(async (_request, io) => {
          io.stdout?.end(output);
          return { exitCode: 0 };
        })
      ).url(request),
    );
    const done = Promise.all([buffer(session.stdout.output), text(session.error.output)]);
    let sending = true;
    const sender = (async () => {
      while (sending && !session.client.socket.destroyed) {
        session.client.sendData(session.stdin.id, Buffer.alloc(65_536), false);
        await setImmediate();
      }
    })();
    const [received, status] = await done;
    expect(difference(received, output)).toBe('');
    expect(status).toBe('{"status":"Success"}');
    sending = false;
    await sender;
    await session.client.closed;
  });

  test.each(['SPDY', 'WebSocket'])('50 sessions at once over %s', async (transport) => {
    const running = await serve(echo);
    await Promise.all(
      Array.from({ length: 50 }, async (_, number) => {
        const sent = Buffer.alloc(1_000_000, `session ${number} `);
        if (transport === 'SPDY') {
          const session = await openSpdy(running.url(request));
          const received = buffer(session.stdout.output);
          for (let offset = 0; offset < sent.length; offset += 50_000)
            await session.stdin.write(sent.subarray(offset, offset + 50_000));
          session.stdin.end();
          expect(difference(await received, sent)).toBe('');
        } else {
          const session = await openWebSocket(running.url(request), 'v5.channel.k8s.io');
          for (let offset = 0; offset < sent.length; offset += 50_000)
            session.socket.send(Buffer.concat([Buffer.from([0]), sent.subarray(offset, offset + 50_000)]));
          session.socket.send(Buffer.from([255, 0]));
          await session.closed;
          expect(session.channels[1] === sent.toString()).toBe(true);
        }
      }),
    );
  });
});
