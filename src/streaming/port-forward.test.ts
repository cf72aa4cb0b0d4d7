// Port-forward sessions, with test clients. For crictl see test/integration.
import { afterEach, describe, expect, test } from '@jest/globals';
import { once } from 'node:events';
import { connect, createServer, type AddressInfo, type Socket } from 'node:net';
import { text } from 'node:stream/consumers';
import { finished } from 'node:stream/promises';
import { WebSocket } from 'ws';
import { SpdyClient, type ClientStream } from '../../test/helpers/spdy-client.js';
import { CrispError } from '../errors.js';
import { servePortForwardOverSpdy } from './port-forward.js';
import { StreamingServer, type PortForwardRequest, type StreamingHandlers } from './server.js';

type Forward = StreamingHandlers['portForward'];
const request: PortForwardRequest = { kind: 'portforward', sandboxId: 'pod', ports: [] };
let server: StreamingServer | undefined;
const clients: { terminate(): void }[] = [];
afterEach(async () => {
  for (const client of clients.splice(0)) client.terminate();
  await server?.close();
});

async function serve(portForward: Forward): Promise<StreamingServer> {
  server = new StreamingServer({
    address: '127.0.0.1',
    port: 0,
    handlers: { exec: async () => ({ exitCode: 0 }), attach: async () => undefined, portForward },
  });
  await server.start();
  return server;
}
async function open(portForward: Forward): Promise<SpdyClient> {
  const client = await SpdyClient.open((await serve(portForward)).url(request), 'portforward.k8s.io');
  clients.push({ terminate: () => client.socket.destroy() });
  return client;
}
/** As kubectl does: the error stream first, ended at once. */
async function pair(
  client: SpdyClient,
  port: number,
  requestid?: string,
): Promise<{ error: ClientStream; data: ClientStream }> {
  const headers = { port: String(port), ...(requestid === undefined ? {} : { requestid }) };
  const error = await client.createStream({ ...headers, streamtype: 'error' });
  error.end();
  return { error, data: await client.createStream({ ...headers, streamtype: 'data' }) };
}
/** Answers when its input has ended: each direction has its own end. */
const count: Forward = async (_request, port, stream) => {
  let bytes = 0;
  for await (const chunk of stream.iterator({ destroyOnReturn: false })) bytes += (chunk as Buffer).length;
  stream.end(`${port}: ${bytes}`);
  await finished(stream);
};

describe('over SPDY', () => {
  test('each pair of streams is a connection; half-close and end are exact', async () => {
    const client = await open(count);
    const [first, second, third] = [
      await pair(client, 80, '0'),
      await pair(client, 443, '1'),
      await pair(client, 80),
    ];
    await third.data.write('1');
    await second.data.write('22');
    await first.data.write('333');
    for (const { data } of [second, first, third]) data.end();
    expect(await Promise.all([first, second, third].map(({ data }) => text(data.output)))).toEqual([
      '80: 3',
      '443: 2',
      '80: 1',
    ]);
    expect(await Promise.all([first, second, third].map(({ error }) => text(error.output)))).toEqual([
      '',
      '',
      '',
    ]);
    expect([first, second, third].map(({ data, error }) => data.reset || error.reset)).toEqual([
      false,
      false,
      false,
    ]);
    const later = await pair(client, 8080, '3');
    later.data.end();
    expect(await text(later.data.output)).toBe('8080: 0');
  });

  test('the server may end first and still read', async () => {
    let heard: (words: string) => void;
    const late = new Promise<string>((resolve) => {
      heard = resolve;
    });
    const client = await open(async (_request, _port, stream) => {
      stream.end('early');
      heard(await text(stream));
    });
    const { data, error } = await pair(client, 80, '0');
    expect(await text(data.output)).toBe('early');
    expect(await text(error.output)).toBe(''); // what older clients wait for before they end their side
    await data.write('late');
    data.end();
    expect(await late).toBe('late');
  });

  test('a failure is a text on the error stream, and the connection continues', async () => {
    const client = await open(async (forwarded, port, stream) => {
      if (port === 81) throw new CrispError('PortRefused', 'nobody there');
      await count(forwarded, port, stream, AbortSignal.abort());
    });
    const { data, error } = await pair(client, 81, '0');
    expect(await text(error.output)).toMatch(
      /^error forwarding port 81 to pod pod: PortRefused: nobody there; hint/,
    );
    await text(data.output);
    expect(data.reset).toBe(true);
    const next = await pair(client, 80, '1');
    next.data.end();
    expect(await text(next.data.output)).toBe('80: 0');
  });

  test('a stream that the handler destroys is reset, which is not a failure', async () => {
    const client = await open(async (_request, _port, stream) => {
      stream.destroy();
    });
    const { data, error } = await pair(client, 80, '0');
    await text(data.output);
    expect([data.reset, await text(error.output)]).toEqual([true, '']);
  });

  test('a connection that is reset does not affect the others', async () => {
    const aborted: number[] = [];
    let heard = (): void => undefined;
    const client = await open(
      (_request, port, stream, signal) =>
        new Promise((_, reject) => {
          stream.resume();
          signal.addEventListener('abort', () => {
            aborted.push(port);
            heard();
            reject(new Error('aborted'));
          });
        }),
    );
    const [first, second] = [await pair(client, 1, '0'), await pair(client, 2, '1')];
    const firstAborted = new Promise<void>((resolve) => {
      heard = resolve;
    });
    first.data.abandon();
    await firstAborted;
    expect(await text(first.error.output)).toBe('');
    expect(aborted).toEqual([1]);
    const secondAborted = new Promise<void>((resolve) => {
      heard = resolve;
    });
    second.data.end();
    client.socket.destroy();
    await secondAborted;
    expect(aborted).toEqual([1, 2]);
  });

  test.each([
    [{ streamtype: 'data' }],
    [{ streamtype: 'data', port: '0' }],
    [{ streamtype: 'data', port: '65536' }],
    [{ streamtype: 'data', port: 'http' }],
    [{ streamtype: 'bogus', port: '80' }],
    [{ port: '80' }],
  ])('a stream with the headers %j is reset', async (headers) => {
    const client = await open(count);
    const stream = await client.createStream(headers);
    await text(stream.output);
    expect(stream.reset).toBe(true);
  });

  test('a second stream of the same kind is reset, and the pair is still made', async () => {
    const client = await open(count);
    await client.createStream({ streamtype: 'error', port: '80', requestid: '0' });
    const repeated = await client.createStream({ streamtype: 'error', port: '80', requestid: '0' });
    await text(repeated.output);
    const data = await client.createStream({ streamtype: 'data', port: '80', requestid: '0' });
    data.end();
    expect(await text(data.output)).toBe('80: 0');
  });

  test('half a pair is dropped after a time', async () => {
    const listener = createServer(
      (socket: Socket) =>
        void servePortForwardOverSpdy(
          socket,
          request,
          { exec: async () => ({ exitCode: 0 }), attach: async () => undefined, portForward: count },
          50,
        ),
    ).listen(0, '127.0.0.1');
    await once(listener, 'listening');
    const socket = connect((listener.address() as AddressInfo).port, '127.0.0.1');
    try {
      const client = new SpdyClient(socket);
      const error = await client.createStream({ streamtype: 'error', port: '80', requestid: '0' });
      const data = await client.createStream({ streamtype: 'data', port: '80', requestid: '1' });
      expect(await text(error.output)).toMatch(/timed out waiting for the data stream/);
      await text(data.output);
      expect(data.reset).toBe(true);
    } finally {
      socket.destroy();
      listener.close();
    }
  });

  test('many connections at once, in one session', async () => {
    const client = await open((_request, _port, stream) => finished(stream.pipe(stream)));
    await Promise.all(
      Array.from({ length: 50 }, async (_, number) => {
        const { data } = await pair(client, 80, String(number));
        const sent = `connection ${number} `.repeat(10_000);
        const received = text(data.output);
        await data.write(sent);
        data.end();
        expect((await received) === sent).toBe(true);
      }),
    );
  });
});

describe('over WebSocket', () => {
  test.each(['v4.channel.k8s.io', 'v4.base64.channel.k8s.io', ''])(
    '"%s": two channels a port, each begins with the port',
    async (protocol) => {
      const base64 = protocol.includes('base64');
      const greet: Forward = async (_request, port, stream) => {
        if (port === 81) throw new CrispError('PortRefused', 'nobody there');
        const [chunk] = (await once(stream, 'data')) as [Buffer];
        stream.write(`hello ${String(chunk)}`);
      };
      const url = (await serve(greet)).url({ ...request, ports: [8080, 81] });
      const socket = protocol ? new WebSocket(url, [protocol]) : new WebSocket(url);
      clients.push(socket);
      const channels = [0, 1, 2, 3].map(() => Buffer.alloc(0));
      socket.on('message', (message: Buffer) => {
        const channel = (message[0] ?? 0) - (base64 ? 48 : 0);
        const data = base64 ? Buffer.from(message.toString().slice(1), 'base64') : message.subarray(1);
        channels[channel] = Buffer.concat([channels[channel] ?? Buffer.alloc(0), data]);
      });
      await once(socket, 'open');
      socket.send(base64 ? `0${Buffer.from('you').toString('base64')}` : Buffer.from('\0you'));
      const [code] = await once(socket, 'close');
      expect(code).toBe(1000);
      expect(channels.map((channel) => channel.subarray(0, 2).readUInt16LE())).toEqual([8080, 8080, 81, 81]);
      expect(channels.map((channel) => channel.subarray(2).toString())).toEqual([
        'hello you',
        '',
        '',
        expect.stringMatching(/^error forwarding port 81 to pod pod: PortRefused/),
      ]);
    },
  );

  test('the end of the server ends a connection, since there is no half-close', async () => {
    const url = (
      await serve(async (_request, _port, stream) => {
        stream.end('bye');
        await text(stream);
      })
    ).url({ ...request, ports: [80] });
    const socket = new WebSocket(url, ['v4.channel.k8s.io']);
    clients.push(socket);
    const [code] = await once(socket, 'close');
    expect(code).toBe(1000);
  });

  test('a client that disconnects aborts its connections', async () => {
    let begin = (): void => undefined;
    const started = new Promise<void>((resolve) => {
      begin = resolve;
    });
    let end = (): void => undefined;
    const aborted = new Promise<void>((resolve) => {
      end = resolve;
    });
    const url = (
      await serve(
        (_request, _port, _stream, signal) =>
          new Promise((_, reject) => {
            signal.addEventListener('abort', () => {
              end();
              reject(new Error('aborted'));
            });
            begin();
          }),
      )
    ).url({ ...request, ports: [80] });
    const socket = new WebSocket(url, ['v4.channel.k8s.io']);
    await Promise.all([started, once(socket, 'open')]);
    socket.terminate();
    await aborted;
  });
});
