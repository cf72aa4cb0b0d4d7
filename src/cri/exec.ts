// ExecSync, Exec, Attach and PortForward.  ExecSync and Exec use the same
// function with different streams: Exec's ticket later runs execIn() as well.
import { Writable, type Duplex } from 'node:stream';
import type { Io } from '../shapes/io.js';
import { CrispError } from '../errors.js';
import { forwardPort } from '../network/port-forward.js';
import { containerState, type SandboxRecord } from '../records/records.js';
import type { AttachRequest, ExecRequest, PortForwardRequest } from '../streaming/server.js';
import type { AttachRequest__Output } from './generated/runtime/v1/AttachRequest.js';
import type { AttachResponse } from './generated/runtime/v1/AttachResponse.js';
import type { ExecRequest__Output } from './generated/runtime/v1/ExecRequest.js';
import type { ExecResponse } from './generated/runtime/v1/ExecResponse.js';
import type { ExecSyncRequest__Output } from './generated/runtime/v1/ExecSyncRequest.js';
import type { ExecSyncResponse } from './generated/runtime/v1/ExecSyncResponse.js';
import type { PortForwardRequest__Output } from './generated/runtime/v1/PortForwardRequest.js';
import type { PortForwardResponse } from './generated/runtime/v1/PortForwardResponse.js';
import { backendOf, readySandboxOf, refOf, runningContainerOf } from './lookup.js';
import type { Call, Services } from './services.js';

/** What these calls use. */
type Used = Pick<Services, 'store' | 'creations' | 'handlers' | 'events' | 'streaming'>;

/**
 * Bytes that ExecSync keeps of both streams together: the kubelet and crictl accept 16 MiB for a whole message
 * (maxMsgSize of Kubernetes' cri-client), of which its other fields take less than the rest.
 */
const maxOutputBytes = (16 << 20) - 1024;
/** The range of a timer: 24 days. */
const longestTimeoutMs = 2 ** 31 - 1;

/** A WebSocket has 256 channels, and each port needs two of them. */
const maxPorts = 128;

/**
 * ExecSync: at most 16 MiB of output, the rest is dropped; timeout in seconds, 0 is none.
 * @throws ExecTimeout, InvalidArgument, WrongContainerState
 */
export async function execSync(
  services: Used,
  request: ExecSyncRequest__Output,
  call: Call,
): Promise<ExecSyncResponse> {
  const timeoutSeconds = Number(request.timeout);
  if (timeoutSeconds < 0)
    throw new CrispError('InvalidArgument', `timeout is ${request.timeout} s: it must not be negative`);
  const room = { bytes: maxOutputBytes };
  const [stdout, stderr] = [new Capped(room), new Capped(room)];
  const { exitCode } = await execIn(
    services,
    request.container_id,
    request.cmd,
    { terminal: false, stdout, stderr },
    call.signal,
    timeoutSeconds > 0 ? Math.min(timeoutSeconds * 1000, longestTimeoutMs) : undefined,
  );
  return { exit_code: exitCode, stdout: stdout.content(), stderr: stderr.content() };
}

/** Runs a command in a container with these streams. @throws WrongContainerState, ExecTimeout */
async function execIn(
  services: Used,
  containerId: string,
  cmd: readonly string[],
  io: Io,
  signal: AbortSignal,
  timeoutMs?: number,
): Promise<{ exitCode: number }> {
  if (cmd.length === 0) throw new CrispError('InvalidArgument', 'cmd is empty');
  const record = runningContainerOf(services, containerId);
  return backendOf(services, record).exec(refOf(record), { args: cmd, io, timeoutMs }, signal);
}

class Capped extends Writable {
  private readonly chunks: Buffer[] = [];

  /** @param room shared with other streams */
  constructor(private readonly room: { bytes: number }) {
    super();
  }

  override _write(chunk: Buffer, _encoding: BufferEncoding, done: () => void): void {
    const kept = chunk.subarray(0, this.room.bytes);
    if (kept.length) this.chunks.push(kept);
    this.room.bytes -= kept.length;
    done();
  }
  content(): Buffer {
    return Buffer.concat(this.chunks);
  }
}

/**
 * Exec: a URL that is valid once and for a minute.
 * @throws InvalidArgument, WrongContainerState, TooManyTickets
 */
export async function exec(services: Used, request: ExecRequest__Output): Promise<ExecResponse> {
  checkStreams(request);
  if (request.cmd.length === 0) throw new CrispError('InvalidArgument', 'cmd is empty');
  const { id, sandboxId } = runningContainerOf(services, request.container_id);
  const { cmd, tty, stdin, stdout, stderr } = request;
  return {
    url: services.streaming.url({
      kind: 'exec',
      sandboxId,
      containerId: id,
      cmd,
      tty,
      stdin,
      stdout,
      stderr,
    }),
  };
}

/** Attach: a URL, as for Exec. @throws InvalidArgument, WrongContainerState, TooManyTickets */
export async function attach(services: Used, request: AttachRequest__Output): Promise<AttachResponse> {
  checkStreams(request);
  const record = runningContainerOf(services, request.container_id);
  const { stdin, stdout, stderr } = request;
  return {
    url: services.streaming.url({
      kind: 'attach',
      sandboxId: record.sandboxId,
      containerId: record.id,
      tty: record.config.tty,
      stdin,
      stdout,
      stderr: stderr && !record.config.tty,
    }),
  };
}

/** PortForward: a URL, as for Exec. @throws InvalidArgument, SandboxNotReady, TooManyTickets */
export async function portForward(
  services: Used,
  request: PortForwardRequest__Output,
): Promise<PortForwardResponse> {
  const { id } = await readySandboxOf(services, request.pod_sandbox_id);
  if (request.port.length > maxPorts)
    throw new CrispError(
      'InvalidArgument',
      `port has ${request.port.length} entries; ${maxPorts} are allowed`,
    );
  for (const port of request.port)
    if (port < 1 || port > 65535)
      throw new CrispError('InvalidArgument', `port ${port} is not between 1 and 65535`);
  return { url: services.streaming.url({ kind: 'portforward', sandboxId: id, ports: request.port }) };
}

/** A terminal has one output stream (see ExecRequest.tty in the CRI). */
function checkStreams(request: { tty: boolean; stdin: boolean; stdout: boolean; stderr: boolean }): void {
  if (request.tty && request.stderr)
    throw new CrispError(
      'InvalidArgument',
      'tty and stderr cannot both be true: a terminal has one output stream',
    );
  if (!request.stdin && !request.stdout && !request.stderr)
    throw new CrispError('InvalidArgument', 'one of stdin, stdout and stderr must be true');
}

/**
 * The handlers of redeemed tickets. `services` is a function because the streaming server is one of the
 * services.
 */
export function streamingHandlers(services: () => Used) {
  return {
    exec: (request: ExecRequest, io: Io, signal: AbortSignal): Promise<{ exitCode: number }> =>
      execIn(services(), request.containerId, request.cmd, io, signal),
    attach: async (request: AttachRequest, io: Io, signal: AbortSignal): Promise<void> => {
      const record = runningContainerOf(services(), request.containerId);
      const { stdin, stdin_once: once, tty } = record.config;
      if (!stdin) io.stdin?.resume(); // it is not read, and must not block the other streams
      // As in containerd: the end of the client's input closes the container's input only with stdin_once and
      // without a terminal; otherwise it ends the session, and the container's input stays open for the next
      // one.
      const ends = { stdin: stdin ? io.stdin : undefined, endsWithStdin: !once || tty };
      await backendOf(services(), record).attach(refOf(record), { ...io, ...ends }, signal);
    },
    portForward: async (
      request: PortForwardRequest,
      port: number,
      stream: Duplex,
      signal: AbortSignal,
    ): Promise<void> => {
      const sandbox = await readySandboxOf(services(), request.sandboxId);
      await forwardPort(networkOf(services(), sandbox), port, stream, signal);
    },
  };
}

/**
 * The pod's network namespace; undefined: the host's.
 * @throws WrongContainerState if it belongs to a container, and none is running
 */
function networkOf(services: Used, { id, plan }: SandboxRecord): string | undefined {
  if (!plan.ownNetwork) return plan.namespaces.network;
  const running = services.store
    .containersOf(id)
    .find((record) => containerState(record) === 'CONTAINER_RUNNING');
  if (!running?.pid)
    throw new CrispError(
      'WrongContainerState',
      `pod sandbox ${id} has no network now: it belongs to its container, and none is running`,
    );
  return `/proc/${running.pid}/ns/net`;
}
