// The streaming server with a real client: crictl, on both of its transports.
// Containers are local processes here, so that only the streaming is tested.
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { spawn, type ChildProcess } from 'node:child_process';
import { createHash } from 'node:crypto';
import { EventEmitter, once } from 'node:events';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { connect, createServer, type AddressInfo, type Server, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Duplex } from 'node:stream';
import { buffer, text } from 'node:stream/consumers';
import type { Io } from '../../src/shapes/io.js';
import { forwardPort } from '../../src/network/port-forward.js';
import type {
  AttachRequest,
  ExecRequest,
  PortForwardRequest,
  StreamingHandlers,
} from '../../src/streaming/server.js';
import { makeCertificate } from '../helpers/certificate.js';
import { startStreamingStub, type StreamingStub } from '../helpers/streaming-stub.js';

const crictl = process.env['CRICTL'] ?? 'crictl';
const megabytes = 100;

/** Runs a command as a container would: its exit code, or 128 plus the signal; killed when the client has gone. */
async function runLocally(
  cmd: readonly string[],
  io: Io,
  signal: AbortSignal,
): Promise<{ exitCode: number }> {
  const child = spawn(cmd[0] as string, cmd.slice(1), {
    stdio: [io.stdin ? 'pipe' : 'ignore', 'pipe', 'pipe'],
    signal,
  });
  child.on('error', () => undefined);
  if (io.stdin && child.stdin) io.stdin.pipe(child.stdin).on('error', () => undefined);
  if (io.stdout) child.stdout?.pipe(io.stdout, { end: false });
  if (io.stderr) child.stderr?.pipe(io.stderr, { end: false });
  const [code] = (await once(child, 'close')) as [number | null];
  return { exitCode: code ?? 137 };
}

/** Stands in for a program on a terminal: prints each size, and ends at "q". */
async function printSizes(io: Io, onSize: (text: string) => void): Promise<{ exitCode: number }> {
  io.onResize?.(({ width, height }) => {
    io.stdout?.write(`${width}x${height}\r\n`);
    onSize(`${width}x${height}`);
  });
  for await (const chunk of io.stdin ?? []) if (String(chunk).includes('q')) break;
  return { exitCode: 7 };
}

describe.each(['spdy', 'websocket'])('crictl over %s', (transport) => {
  let stub: StreamingStub;
  let folder: string;
  let onSize: (text: string) => void = () => undefined;
  /** Emits the id of a container whose exec was aborted. */
  const aborts = new EventEmitter();
  const children = new Set<ChildProcess>();

  const handlers: StreamingHandlers = {
    exec: async (request: ExecRequest, io: Io, signal: AbortSignal) => {
      signal.addEventListener('abort', () => aborts.emit(request.containerId));
      return request.cmd[0] === 'print-sizes' ? printSizes(io, onSize) : runLocally(request.cmd, io, signal);
    },
    attach: async (_request: AttachRequest, io: Io, signal: AbortSignal) => {
      await runLocally(['cat'], io, signal);
    },
    portForward: (_request: PortForwardRequest, port: number, stream: Duplex, signal: AbortSignal) =>
      forwardPort(undefined, port, stream, signal),
  };

  function run(
    args: readonly string[],
    launcher: (line: readonly string[]) => readonly string[] = (line) => line,
  ): ChildProcess & {
    stdin: NonNullable<ChildProcess['stdin']>;
    stdout: NonNullable<ChildProcess['stdout']>;
    stderr: NonNullable<ChildProcess['stderr']>;
  } {
    const [verb, ...rest] = args;
    const line = launcher([crictl, '-r', stub.endpoint, verb as string, '--transport', transport, ...rest]);
    const child = spawn(line[0] as string, line.slice(1), { stdio: 'pipe' });
    children.add(child);
    child.stdin.on('error', () => undefined);
    return child;
  }
  async function outcome(
    child: ReturnType<typeof run>,
  ): Promise<{ code: number; stdout: string; stderr: string }> {
    const exited = once(child, 'close');
    const [stdout, stderr, [code]] = await Promise.all([text(child.stdout), text(child.stderr), exited]);
    return { code: code as number, stdout, stderr };
  }

  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), 'crisp-streaming-'));
    stub = await startStreamingStub(handlers);
  });
  afterAll(async () => {
    for (const child of children) child.kill('SIGKILL');
    await stub.close();
    await rm(folder, { recursive: true, force: true });
  });

  test('exec: stdout and stderr are separate, and the exit code is returned', async () => {
    const { code, stdout, stderr } = await outcome(
      run(['exec', 'c', 'sh', '-c', 'echo out; echo err >&2; exit 3']),
    );
    expect(stdout).toBe('out\n');
    expect(stderr).toContain('err\n');
    expect(stderr).toContain('command terminated with exit code 3');
    expect(code).not.toBe(0);
  });

  test('exec: a command that succeeds', async () => {
    expect(await outcome(run(['exec', 'c', 'echo', 'hello']))).toMatchObject({ code: 0, stdout: 'hello\n' });
  });

  test('exec -i: the end of stdin reaches the command', async () => {
    const child = run(['exec', '-i', 'c', 'sh', '-c', 'wc -c; echo after']);
    child.stdin.end('x'.repeat(12345));
    expect(await outcome(child)).toMatchObject({ code: 0, stdout: '12345\nafter\n' });
  });

  test('exec -i: a command that ends while its client still sends', async () => {
    const child = run(['exec', '-i', 'c', 'sh', '-c', 'head -c 1000000 /dev/zero; exit 4']);
    const sending = setInterval(() => child.stdin.write(Buffer.alloc(65536)), 1);
    const [output, stderr] = await Promise.all([buffer(child.stdout), text(child.stderr)]);
    clearInterval(sending);
    expect(output.length).toBe(1_000_000);
    expect(stderr).toContain('exit code 4');
  });

  test(`exec -i: ${megabytes} MB there and back, byte for byte`, async () => {
    const digest = await roundTrip(run(['exec', '-i', 'c', 'cat']));
    expect(digest.received).toBe(digest.sent);
    expect(digest.bytes).toBe(megabytes * 1_000_000);
  });

  test('exec -it: the terminal has its size, follows it, and the exit code is returned', async () => {
    const ttyFile = join(folder, 'tty');
    onSize = (size) => {
      if (size !== '100x40') return;
      void readFile(ttyFile, 'utf8').then((tty) =>
        spawn('stty', ['-F', tty.trim(), 'rows', '50', 'cols', '120']),
      );
    };
    const child = run(['exec', '-it', 'c', 'print-sizes'], (line) => [
      'script',
      '-qec',
      `stty rows 40 cols 100; tty >${ttyFile}; exec ${line.join(' ')}`,
      '/dev/null',
    ]);
    let output = '';
    let quitting = false;
    for await (const chunk of child.stdout) {
      output += String(chunk);
      if (output.includes('120x50') && !quitting) quitting = child.stdin.write('q'); // once: the terminal may echo it
    }
    expect(output).toMatch(/100x40[^]*120x50/);
    expect(output).toContain('exit code 7');
  });

  test('attach -i: input and output, and the end of stdin ends it', async () => {
    const child = run(['attach', '-i', 'c']);
    child.stdin.end('hello there\n');
    expect(await outcome(child)).toMatchObject({ code: 0, stdout: 'hello there\n' });
  });

  test('exec -i over TLS', async () => {
    const tlsStub = await startStreamingStub(handlers, makeCertificate(folder));
    try {
      const child = run(['exec', '-i', 'c', 'sh', '-c', 'cat; exit 5'], (line) =>
        line.map((word) => (word === stub.endpoint ? tlsStub.endpoint : word)),
      );
      child.stdin.end('through TLS');
      const { stdout, stderr } = await outcome(child);
      expect([stdout, stderr]).toEqual(['through TLS', expect.stringContaining('exit code 5')]);
    } finally {
      await tlsStub.close();
    }
  });

  test('a client that disconnects aborts its session', async () => {
    const child = run(['exec', '-i', 'vanishing', 'sh', '-c', 'echo here; exec cat']);
    await once(child.stdout, 'data');
    const aborted = once(aborts, 'vanishing');
    child.kill('SIGKILL');
    await aborted;
  });

  describe('port-forward', () => {
    let servers: Server[] = [];
    afterAll(() => servers.forEach((server) => server.close()));

    async function listen(onConnection: (socket: Socket) => void): Promise<number> {
      const server = createServer({ allowHalfOpen: true }, onConnection).listen(0, '127.0.0.1');
      servers = [...servers, server];
      await once(server, 'listening');
      return (server.address() as AddressInfo).port;
    }
    /** crictl says which port it took. */
    async function forwarded(port: number): Promise<{ child: ReturnType<typeof run>; localPort: number }> {
      const child = run(['port-forward', 'p', `0:${port}`]);
      let output = '';
      for await (const chunk of child.stdout.iterator({ destroyOnReturn: false })) {
        output += String(chunk);
        const found = /Forwarding from 127\.0\.0\.1:(\d+)/.exec(output);
        if (found) return { child, localPort: Number(found[1]) };
      }
      throw new Error(`crictl port-forward said: ${output}`);
    }

    test(`${megabytes} MB there and back, byte for byte, and connections one after the other`, async () => {
      const port = await listen((socket) => socket.pipe(socket));
      const { child, localPort } = await forwarded(port);
      child.stdout.resume();
      const socket = connect({ port: localPort, host: '127.0.0.1', allowHalfOpen: true });
      const digest = await roundTrip({ stdin: socket, stdout: socket });
      expect(digest.received).toBe(digest.sent);
      for (let round = 0; round < 3; round++) {
        const small = connect({ port: localPort, host: '127.0.0.1', allowHalfOpen: true });
        small.end(`round ${round}`);
        expect(await text(small)).toBe(`round ${round}`);
      }
      child.kill('SIGTERM');
    });

    test('half-close: the server answers after the client has ended', async () => {
      const port = await listen((socket) => {
        let bytes = 0;
        socket
          .on('data', (chunk: Buffer) => {
            bytes += chunk.length;
          })
          .on('end', () => socket.end(`got ${bytes}`));
      });
      const { child, localPort } = await forwarded(port);
      child.stdout.resume();
      const socket = connect({ port: localPort, host: '127.0.0.1', allowHalfOpen: true });
      socket.end(Buffer.alloc(300_000));
      expect(await text(socket)).toBe('got 300000');
      child.kill('SIGTERM');
    });

    test('a refused port is reported with a message', async () => {
      const port = await listen(() => undefined);
      await new Promise((resolve) => servers.pop()?.close(resolve));
      const { child, localPort } = await forwarded(port);
      child.stdout.resume();
      connect({ port: localPort, host: '127.0.0.1' }).on('error', () => undefined);
      const { stderr } = await outcome(child);
      expect(stderr).toMatch(
        new RegExp(
          `failed to connect to localhost:${port} inside the pod: 127.0.0.1:${port}: Connection refused`,
        ),
      );
    });
  });
});

/** Sends pseudo-random bytes and compares what comes back. */
async function roundTrip({ stdin, stdout }: { stdin: NodeJS.WritableStream; stdout: NodeJS.ReadableStream }) {
  const block = createHash('sha512').update('seed').digest();
  const chunk = Buffer.concat(
    Array.from({ length: 1_000_000 / 64 }, (_, index) =>
      createHash('sha512').update(block).update(String(index)).digest(),
    ),
  );
  const sent = createHash('sha256');
  const received = createHash('sha256');
  let bytes = 0;
  const receiving = (async () => {
    for await (const part of stdout) {
      received.update(part as Buffer);
      bytes += (part as Buffer).length;
    }
  })();
  for (let index = 0; index < megabytes; index++) {
    sent.update(chunk);
    if (!stdin.write(chunk)) await once(stdin, 'drain');
  }
  stdin.end();
  await receiving;
  return { sent: sent.digest('hex'), received: received.digest('hex'), bytes };
}
