// One connection to a port of a pod, for `kubectl port-forward`. Called by
// cri/exec.ts for each connection that a client opens.
//
// Node cannot enter a network namespace, so nsenter and socat do it, with one
// process per connection.
import { PassThrough, Writable, type Duplex } from 'node:stream';
import { CrispError } from '../errors.js';
import { runStreaming } from '../host/run.js';

/** socat's time limit between the ends of the two directions: none of ours, the client decides. */
const halfCloseSeconds = 10 * 365 * 86_400;
/** What socat moves at once: with smaller blocks, 100 MB take half as long again. */
const blockBytes = 1 << 20;
const stage = 'port-forward';

/**
 * Connects `stream` to localhost:`port` in a network namespace (undefined: the
 * host's), IPv4 first. Each direction ends by itself. Resolves when both have
 * ended; a connection that breaks in between destroys `stream`, as a reset.
 * @throws PortRefused, before anything is read from `stream`; Cancelled
 */
export async function forwardPort(netns: string | undefined, port: number, stream: Duplex, signal: AbortSignal): Promise<void> {
  const refusals: string[] = [];
  for (const address of [`TCP4:127.0.0.1:${port}`, `TCP6:[::1]:${port}`]) {
    const refusal = await carry(netns, address, stream, signal);
    if (refusal === undefined) return;
    refusals.push(`${address.slice(address.indexOf(':') + 1)}: ${refusal}`);
  }
  throw new CrispError('PortRefused', `failed to connect to localhost:${port} inside the pod: ${refusals.join(', ')}`, { stage });
}

/** @returns why it could not connect; undefined when it could, and all is over */
async function carry(netns: string | undefined, address: string, stream: Duplex, signal: AbortSignal): Promise<string | undefined> {
  const input = new PassThrough();
  const broken = new AbortController();
  let connected = false;
  let outputOver = false;
  const output = new Writable({
    write: (chunk: Buffer, _encoding, done) => {
      if (stream.write(chunk)) return done(); // the next one is read while this one is sent
      const go = (): void => { stream.off('drain', go).off('close', go); done(); };
      stream.on('drain', go).on('close', go);
    },
    final: (done) => {
      outputOver = true;
      if (connected) stream.end();
      done();
    },
  });
  const notices = new Notices((line) => {
    // socat takes a connection that is reset for one that has ended, and waits for the other direction.
    if (connected && line.endsWith('is in error')) broken.abort();
    // Not before: a refused connection must leave the client's first bytes, and its stream, to the next address.
    if (connected || !line.includes('starting data transfer loop')) return;
    connected = true;
    if (outputOver) stream.end();
    stream.pipe(input);
  });
  // shut-close: socat would hold its stdout open until both directions have ended.
  const socat = ['socat', '-d', '-d', '-t', String(halfCloseSeconds), '-b', String(blockBytes), '-,shut-close', address] as const;
  const running = runStreaming(
    ['setpriv', '--pdeathsig', 'TERM', ...(netns === undefined ? socat : ['nsenter', `--net=${netns}`, '--', ...socat])], // it has nobody to serve without us
    { stdin: input, stdout: output, stderr: notices, endStdout: true },
    { timeoutMs: 0, signal: AbortSignal.any([signal, broken.signal]), okExitCodes: 'any', stage },
  );
  const exitCode = await running.ended.then((result) => result.exitCode, (error: unknown) => {
    if (!broken.signal.aborted) throw error;
    return undefined;
  }).finally(() => stream.unpipe(input));
  if (!connected) return notices.failure();
  if (exitCode === 0) stream.end();
  else stream.destroy();
  return undefined;
}

/** Reads what socat says of its progress: "DATE TIME socat[PID] LEVEL TEXT" a line, E for errors. */
class Notices extends Writable {
  private text = '';
  private last = '';

  constructor(private readonly onLine: (line: string) => void) { super(); }

  override _write(chunk: Buffer, _encoding: BufferEncoding, done: () => void): void {
    const lines = (this.text + chunk.toString('utf8')).split('\n');
    this.text = lines.pop() ?? '';
    for (const line of lines) {
      if (!/ [NIWD] /.test(line)) this.last = line;
      this.onLine(line);
    }
    done();
  }

  /** The error, without what stands before it: "Connection refused". */
  failure(): string {
    return this.last.replace(/^.*\): /, '') || 'socat said nothing';
  }
}
