// One connection to a port of a pod, for `kubectl port-forward`. Called by
// cri/exec.ts for each connection that a client opens.
//
// A socket belongs to the network namespace in which it was made: it is made
// in the pod's namespace, by a thread that returns at once, and connected from
// here.
import { Socket, type SocketConstructorOpts } from 'node:net';
import type { Duplex } from 'node:stream';
import { CrispError } from '../errors.js';
import { inNamespaces } from '../host/enter.js';
import { openSocket, wordsOfErrno } from '../host/syscalls.js';

const stage = 'port-forward';
const connectTimeoutMs = 10_000;

/**
 * Connects `stream` to localhost:`port` in a network namespace (undefined: the
 * host's), IPv4 first. Each direction ends by itself. Resolves when both have
 * ended; a connection that breaks in between destroys `stream`, as a reset.
 * @throws PortRefused, before anything is read from `stream`; Cancelled
 */
export async function forwardPort(
  netns: string | undefined,
  port: number,
  stream: Duplex,
  signal: AbortSignal,
): Promise<void> {
  const socket = await connect(netns, port, signal);
  const end = (): void => {
    socket.destroy();
  };
  let broken = socket.errored !== null;
  socket.on('error', () => {
    broken = true;
  });
  signal.addEventListener('abort', end, { once: true });
  stream.once('close', end); // the client has disconnected
  const closed =
    socket.closed ||
    new Promise((resolve) => {
      socket.once('close', resolve);
    });
  if (signal.aborted || stream.destroyed) end();
  socket.setNoDelay();
  socket.pipe(stream);
  stream.pipe(socket);
  await closed;
  signal.removeEventListener('abort', end);
  stream.off('close', end).unpipe(socket);
  if (signal.aborted) throw new CrispError('Cancelled', 'the client disconnected', { stage });
  if (broken) stream.destroy();
}

/** IPv4 first; the socket stays in the namespace in which it is made. */
async function connect(netns: string | undefined, port: number, signal: AbortSignal): Promise<Socket> {
  const refused: string[] = [];
  for (const [family, host] of [
    ['inet', '127.0.0.1'],
    ['inet6', '::1'],
  ] as const) {
    try {
      const open = (): number => openSocket(family, 'stream');
      const fd = netns === undefined ? open() : inNamespaces({ network: netns }, open);
      // manualStart: otherwise it would be read before it is connected, which is an error (net.js of Node's
      // library).
      const socket = new Socket({ fd, manualStart: true, allowHalfOpen: true } as SocketConstructorOpts);
      return await connected(socket, host, port, signal);
    } catch (error) {
      if (error instanceof CrispError) throw error;
      const { errno, message, path } = error as NodeJS.ErrnoException;
      const shown = family === 'inet' ? host : `[${host}]`;
      const words = errno === undefined ? message : wordsOfErrno(-errno);
      refused.push(`${shown}:${port}: ${path === undefined ? '' : `${path}: `}${words}`);
    }
  }
  throw new CrispError(
    'PortRefused',
    `failed to connect to localhost:${port} inside the pod: ${refused.join(', ')}`,
    { stage },
  );
}

/** @throws the error of the connection; Cancelled; ToolTimeout */
function connected(socket: Socket, host: string, port: number, signal: AbortSignal): Promise<Socket> {
  return new Promise((resolve, reject) => {
    const give = (error: Error): void => {
      settle();
      reject(error);
      socket.destroy();
    };
    const take = (): void => {
      settle();
      resolve(socket);
    };
    const cancel = (): void => {
      give(new CrispError('Cancelled', 'the client disconnected', { stage }));
    };
    const timer = setTimeout(() => {
      give(
        new CrispError(
          'ToolTimeout',
          `port ${port} of the pod did not answer within ${connectTimeoutMs} ms`,
          {
            stage,
          },
        ),
      );
    }, connectTimeoutMs);
    const settle = (): void => {
      clearTimeout(timer);
      signal.removeEventListener('abort', cancel);
    };
    // Not removed: the socket is read from now on, and may fail before the caller has it (see
    // socket.errored).
    socket.on('error', (error: NodeJS.ErrnoException) => {
      if (error.code !== 'ECONNRESET') give(error);
      else take(); // accepted, but failed before this event
    });
    socket.connect({ host, port }, take);
    if (signal.aborted) cancel();
    else signal.addEventListener('abort', cancel, { once: true });
  });
}
