// The HTTP answers before there is a session. The sessions have their own tests.
import { afterEach, describe, expect, test } from '@jest/globals';
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { get as getTls } from 'node:https';
import { createServer, type AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setImmediate } from 'node:timers/promises';
import { makeCertificate } from '../../test/helpers/certificate.js';
import { RefusedUpgrade, SpdyClient, upgrade } from '../../test/helpers/spdy-client.js';
import {
  StreamingServer,
  type ExecRequest,
  type StreamingHandlers,
  type StreamingOptions,
} from './server.js';

const exec: ExecRequest = {
  kind: 'exec',
  sandboxId: 'p',
  containerId: 'c',
  cmd: ['true'],
  tty: false,
  stdin: false,
  stdout: true,
  stderr: false,
};
const handlers: StreamingHandlers = {
  exec: async () => ({ exitCode: 0 }),
  attach: async () => undefined,
  portForward: async () => undefined,
};

let server: StreamingServer | undefined;
afterEach(async () => {
  await server?.close();
});
async function start(options: Partial<StreamingOptions> = {}): Promise<StreamingServer> {
  server = new StreamingServer({ address: '127.0.0.1', port: 0, handlers, ...options });
  await server.start();
  return server;
}
const spdy = { 'x-stream-protocol-version': 'v4.channel.k8s.io' };
const webSocket = { 'sec-websocket-version': '13', 'sec-websocket-key': Buffer.alloc(16).toString('base64') };
function refusal(status: number, message: RegExp): object {
  return expect.objectContaining({ status, body: expect.stringMatching(message) });
}

describe.each([
  ['SPDY/3.1', spdy],
  ['websocket', { ...webSocket, 'sec-websocket-protocol': 'v4.channel.k8s.io' }],
] as const)('an upgrade to %s', (transport, headers) => {
  test('works once for a URL', async () => {
    const url = (await start()).url(exec);
    const { socket } = await upgrade(url, headers, 'GET', transport);
    socket.destroy();
    await expect(upgrade(url, headers, 'GET', transport)).rejects.toEqual(
      refusal(404, /never valid, has been used/),
    );
  });

  test.each(['exec/nonsense', 'exec/', 'attach', '', 'metrics', 'exec/a/b'])(
    'of /%s is refused with 404',
    async (path) => {
      const base = new URL((await start()).url(exec)).origin;
      await expect(upgrade(`${base}/${path}`, headers, 'GET', transport)).rejects.toEqual(
        refusal(404, /never valid/),
      );
    },
  );

  test('must be of the kind of the URL', async () => {
    const url = (await start()).url(exec);
    await expect(upgrade(url.replace('/exec/', '/attach/'), headers, 'GET', transport)).rejects.toEqual(
      refusal(404, /never valid/),
    );
  });

  test('accepts GET and POST only, and the ticket stays valid', async () => {
    const url = (await start()).url(exec);
    await expect(upgrade(url, headers, 'PUT', transport)).rejects.toEqual(refusal(405, /PUT/));
    (await upgrade(url, headers, 'GET', transport)).socket.destroy();
  });
});

test('a request without an upgrade gets an error that names what is missing', async () => {
  const url = (await start()).url(exec);
  const answer = await fetch(url);
  expect([answer.status, await answer.text()]).toEqual([400, expect.stringContaining('upgrade')]);
  expect((await fetch(url)).status).toBe(404);
  expect((await fetch(url, { method: 'DELETE' })).status).toBe(405);
});

test.each([
  ['another transport', {}, 'h2c', 400, /no upgrade to h2c/],
  ['SPDY without subprotocols', {}, 'SPDY/3.1', 400, /X-Stream-Protocol-Version is missing/],
  [
    'SPDY with unknown subprotocols',
    { 'x-stream-protocol-version': 'v9.channel.k8s.io, portforward.k8s.io' },
    'SPDY/3.1',
    403,
    /none of v9/,
  ],
  [
    'WebSocket with unknown subprotocols',
    { ...webSocket, 'sec-websocket-protocol': 'v9.channel.k8s.io' },
    'websocket',
    403,
    /none of v9/,
  ],
  ['WebSocket without a key', { 'sec-websocket-version': '13' }, 'websocket', 400, /Sec-WebSocket-Key/],
] as const)('%s is refused', async (_, headers, transport, status, message) => {
  const url = (await start()).url(exec);
  await expect(upgrade(url, headers, 'GET', transport)).rejects.toEqual(refusal(status, message));
});

test('a refusal lists the supported subprotocols', async () => {
  const url = (await start()).url(exec);
  const refused = await upgrade(url, { 'x-stream-protocol-version': 'v9' }).catch(
    (error: unknown) => error as RefusedUpgrade,
  );
  expect(refused).toBeInstanceOf(RefusedUpgrade);
  expect((refused as RefusedUpgrade).headers['x-accepted-stream-protocol-versions']).toContain(
    'v4.channel.k8s.io',
  );
});

test('the client chooses among the subprotocols', async () => {
  const url = (await start()).url(exec);
  const { socket, headers } = await upgrade(url, {
    'x-stream-protocol-version': 'v9, v3.channel.k8s.io, v4.channel.k8s.io',
  });
  expect(headers['x-stream-protocol-version']).toBe('v3.channel.k8s.io');
  socket.destroy();
});

test('serves IPv6 and TLS', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'crisp-streaming-'));
  try {
    const { cert, key } = makeCertificate(folder);
    const url = (await start({ address: '::1', tls: { cert, key } })).url(exec);
    expect(url).toMatch(/^https:\/\/\[::1\]:\d+\/exec\/[\w-]+$/);
    const status = await new Promise((resolve, reject) =>
      getTls(url, { rejectUnauthorized: false }, (answer) => resolve(answer.resume().statusCode)).on(
        'error',
        reject,
      ),
    );
    expect(status).toBe(400);
    await server?.close();
    await expect(start({ tls: { cert, key: join(folder, 'none') } })).rejects.toMatchObject({
      id: 'InvalidConfigFile',
      message: expect.stringContaining('none'),
    });
  } finally {
    rmSync(folder, { recursive: true });
  }
});

test('a port in use is reported at the start', async () => {
  const other = createServer().listen(0, '127.0.0.1');
  await once(other, 'listening');
  await expect(start({ port: (other.address() as AddressInfo).port })).rejects.toMatchObject({
    id: 'InvalidConfigFile',
    message: expect.stringContaining('EADDRINUSE'),
  });
  other.close();
});

test.each(['SPDY', 'WebSocket'])(
  'close ends the sessions over %s as if their clients had disconnected, and waits for their handlers',
  async (transport) => {
    let ended = false;
    let begin = (): void => undefined;
    const started = new Promise<void>((resolve) => {
      begin = resolve;
    });
    const running = await start({
      handlers: {
        ...handlers,
        exec: async (_request, _io, signal) => {
          begin();
          await once(signal, 'abort');
          await setImmediate();
          ended = true;
          return { exitCode: 0 };
        },
      },
    });
    if (transport === 'SPDY') {
      const client = await SpdyClient.open(running.url(exec), 'v4.channel.k8s.io');
      await client.createStream({ streamtype: 'error' });
      await client.createStream({ streamtype: 'stdout' });
    } else {
      await upgrade(running.url(exec), webSocket, 'GET', 'websocket');
    }
    await started;
    await running.close();
    expect(ended).toBe(true);
  },
);
