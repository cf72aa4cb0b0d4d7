// The common parts of the records of pods and of standalone containers. Separate from
// records.ts, which loads the proto of the CRI: commands on standalone containers are
// faster without it.
import * as z from 'zod';
import { idPattern } from '../shapes/id.js';

/** The format of an id, as made by newId(): safe as the name of a file. */
export const idSchema = z.string().regex(idPattern, 'not an id');

const count = z.number().int().nonnegative();
const idMappings = z.array(z.object({ containerID: count, hostID: count, size: count }));
/** The parts of a plan that do not follow from the id and the request; placed.ts makes the rest. */
export const storedPlanSchema = z.object({
  /** The keys are the pinned namespaces. */
  namespaces: z.partialRecord(z.enum(['network', 'ipc', 'uts', 'pid', 'user']), z.string()),
  idMaps: z.object({ uids: idMappings, gids: idMappings }).optional(),
  ownNetwork: z.boolean().optional(),
  cgroupParent: z.string(),
});

/**
 * Parses the JSON of a record, with bytes (the values of an environment) as Buffers. Version
 * 0.1 called the handler of a record its "backend".
 * @throws SyntaxError
 */
export function fromJson(text: string): unknown {
  const value: unknown = JSON.parse(text, text.includes('"Buffer"') ? revive : undefined);
  const { handler, backend } = (value ?? {}) as { handler?: unknown; backend?: unknown };
  return handler === undefined && backend !== undefined ? { ...(value as object), handler: backend } : value;
}

function revive(_key: string, value: unknown): unknown {
  const bytes = value as { type?: unknown; data?: unknown } | null;
  return typeof bytes === 'object' && bytes?.type === 'Buffer' && Array.isArray(bytes.data)
    ? Buffer.from(bytes.data as number[])
    : value;
}

/**
 * Nanoseconds since the epoch, in the format of records; never the same twice, and increasing unless the
 * clock is set back.
 */
export function now(): string {
  const wall = BigInt(Date.now()) * 1_000_000n;
  last = wall > last || last - wall > setBackNs ? wall : last + 1n;
  return last.toString();
}
let last = 0n;
/** More than the calls within one millisecond could add. */
const setBackNs = 1_000_000_000n;
