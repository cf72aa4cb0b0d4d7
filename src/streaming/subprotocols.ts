// The subprotocols of Kubernetes and their negotiation. Called by server.ts.
import type { IncomingHttpHeaders } from 'node:http';

/** The features by version of an exec or attach; "channel.k8s.io" is version 1. */
export interface CommandProtocol {
  /** From v4 on the error stream has a Status in JSON; before, only the text of an error. */
  readonly jsonStatus: boolean;
}

/** How the channels of a WebSocket are encoded. */
export interface ChannelFormat {
  /** The number is a digit and the data base64, in text messages, for clients without binary messages. */
  readonly base64: boolean;
  /** Message 255, N ends channel N: v5 only; before, a client cannot end its stdin. */
  readonly closeSignal: boolean;
}

const v4: CommandProtocol = { jsonStatus: true };
const v1: CommandProtocol = { jsonStatus: false };
const binary: ChannelFormat = { base64: false, closeSignal: false };
const base64: ChannelFormat = { base64: true, closeSignal: false };

/**
 * v5 differs from v4 by the close signal, and v3 from v2 by the resize stream; a SPDY client needs no
 * negotiation for either.
 */
export const commandsOverSpdy = new Map<string, CommandProtocol>([
  ['v5.channel.k8s.io', v4],
  ['v4.channel.k8s.io', v4],
  ['v3.channel.k8s.io', v1],
  ['v2.channel.k8s.io', v1],
  ['channel.k8s.io', v1],
]);

/** The empty name is for a client that sends none. */
export const commandsOverWebSocket = new Map<string, CommandProtocol & ChannelFormat>([
  ['v5.channel.k8s.io', { ...v4, ...binary, closeSignal: true }],
  ['v4.channel.k8s.io', { ...v4, ...binary }],
  ['v4.base64.channel.k8s.io', { ...v4, ...base64 }],
  ['channel.k8s.io', { ...v1, ...binary }],
  ['base64.channel.k8s.io', { ...v1, ...base64 }],
  ['', { ...v1, ...binary }],
]);

/** The names are checked only; the protocol has no variants. */
export const portForwardsOverSpdy = new Map<string, undefined>([['portforward.k8s.io', undefined]]);

/** The tunnel for a SPDY connection, used by kubectl and crictl. */
export const portForwardsOverWebSocket = new Map<string, ChannelFormat | 'tunnel'>([
  ['SPDY/3.1+portforward.k8s.io', 'tunnel'],
  ['v4.channel.k8s.io', binary],
  ['v4.base64.channel.k8s.io', base64],
  ['', binary],
]);

/** The comma-separated values of a header, which may occur several times. */
export function listed(headers: IncomingHttpHeaders, name: string): string[] {
  return String(headers[name] ?? '')
    .split(',')
    .map((value) => value.trim())
    .filter((value) => value !== '');
}

/** The first supported subprotocol that the client offers; the client decides the order of preference. */
export function agree<P>(
  offered: readonly string[],
  known: ReadonlyMap<string, P>,
): { name: string; protocol: P } | undefined {
  const name = offered.find((candidate) => known.has(candidate));
  return name === undefined ? undefined : { name, protocol: known.get(name) as P };
}
