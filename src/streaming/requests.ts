// The requests of the streaming server and their handlers: the types between
// cri/exec.ts and the sessions.
import type { Duplex } from 'node:stream';
import type { Io } from '../shapes/io.js';

interface CommandIo {
  readonly sandboxId: string;
  readonly containerId: string;
  readonly tty: boolean;
  readonly stdin: boolean;
  readonly stdout: boolean;
  readonly stderr: boolean;
}
export interface ExecRequest extends CommandIo {
  readonly kind: 'exec';
  readonly cmd: readonly string[];
}
export interface AttachRequest extends CommandIo {
  readonly kind: 'attach';
}
/** `ports` is used for WebSocket channels; SPDY clients send the port with each connection. */
export interface PortForwardRequest {
  readonly kind: 'portforward';
  readonly sandboxId: string;
  readonly ports: readonly number[];
}

export type CommandRequest = ExecRequest | AttachRequest;
export type StreamingRequest = CommandRequest | PortForwardRequest;

/**
 * The handler of a session. `signal` aborts when the client disconnects; a rejection is reported to the
 * client.
 */
export interface StreamingHandlers {
  exec(request: ExecRequest, io: Io, signal: AbortSignal): Promise<{ exitCode: number }>;
  attach(request: AttachRequest, io: Io, signal: AbortSignal): Promise<void>;
  /**
   * Forwards one connection to a port of the pod, and resolves when both directions have ended, or when
   * `stream` was destroyed because the connection was lost.
   */
  portForward(request: PortForwardRequest, port: number, stream: Duplex, signal: AbortSignal): Promise<void>;
}
