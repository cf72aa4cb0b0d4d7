// PortForward: one TCP connection into the network of a pod.
import type { Duplex } from 'node:stream';
import { CrispError } from '../errors.js';
export async function forwardPort(_netns: string | undefined, _port: number, _stream: Duplex, _signal: AbortSignal): Promise<void> {
  throw new CrispError('Unsupported', 'streaming is not there yet');
}
