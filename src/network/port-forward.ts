// One connection to a port of a pod, for `kubectl port-forward`. Called by
// cri/exec.ts for each connection that a client opens.
//
// Node cannot enter a network namespace, so connect.pl connects there and hands
// us the socket: what flows then passes no other process (docs/adr/0009).
import type { Duplex } from 'node:stream';
import { perlProgram } from '../installed.js';
import { CrispError } from '../errors.js';
import { CommandError, runForSocket } from '../host/run.js';

const stage = 'port-forward';
const connectTimeoutMs = 10_000;

const connector = perlProgram('connect.pl');

/** Of Linux's system call tables; the newer architectures share one. */
const sendmsgNumber: Partial<Record<NodeJS.Architecture, number>> = {
  x64: 46,
  arm64: 211,
  riscv64: 211,
  loong64: 211,
  ppc64: 341,
  s390x: 370,
};

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
  stream.once('close', end); // the client has gone
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
  if (signal.aborted) throw new CrispError('Cancelled', 'the client went away', { stage });
  if (broken) stream.destroy();
}

async function connect(netns: string | undefined, port: number, signal: AbortSignal) {
  const sendmsg = sendmsgNumber[process.arch];
  if (sendmsg === undefined)
    throw new CrispError('Unsupported', `port-forward is not known to work on ${process.arch}`, { stage });
  const argv = ['perl', connector, String(port), String(sendmsg)] as const;
  try {
    return await runForSocket(netns === undefined ? argv : ['nsenter', `--net=${netns}`, '--', ...argv], {
      timeoutMs: connectTimeoutMs,
      signal,
      stage,
    });
  } catch (error) {
    if (!(error instanceof CommandError) || error.id !== 'RuntimeFailed') throw error;
    throw new CrispError(
      'PortRefused',
      `failed to connect to localhost:${port} inside the pod: ${error.stderr.trim()}`,
      { stage },
    );
  }
}
