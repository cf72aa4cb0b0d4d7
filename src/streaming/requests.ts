// What the streaming server is asked to serve and who does the work: the types
// between cri/exec.ts and the sessions.
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
/** `ports` counts for WebSocket channels; SPDY clients name the port with each connection. */
export interface PortForwardRequest {
  readonly kind: 'portforward';
  readonly sandboxId: string;
  readonly ports: readonly number[];
}

export type CommandRequest = ExecRequest | AttachRequest;
export type StreamingRequest = CommandRequest | PortForwardRequest;

/** What a session runs. `signal` aborts when the client has gone; a rejection is told to the client. */
export interface StreamingHandlers {
  exec(request: ExecRequest, io: Io, signal: AbortSignal): Promise<{ exitCode: number }>;
  attach(request: AttachRequest, io: Io, signal: AbortSignal): Promise<void>;
  /** Carries one connection to a port of the pod, and resolves when both directions have ended, or `stream` was destroyed because the connection broke. */
  portForward(request: PortForwardRequest, port: number, stream: Duplex, signal: AbortSignal): Promise<void>;
}
