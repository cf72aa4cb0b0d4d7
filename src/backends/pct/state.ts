// The data of a CT in the record of its container.
import { join } from 'node:path';
import * as z from 'zod';
import { CrispError } from '../../errors.js';
import { readText } from '../../host/files.js';
import { whyNot } from '../../set-aside.js';
import type { Spec } from '../../shapes/spec.js';
import type { ContainerRef } from '../backend.js';

/** The result of create(), which is kept in the record. */
const stateSchema = z.object({
  vmid: z.number().int().positive(),
  /** Its pod, and its name in the pod; unknown for a reclaimed CT, or one from an earlier version. */
  sandboxId: z.string().optional(),
  name: z.string().optional(),
  /** The host's uid of its process. */
  uid: z.number().int().nonnegative(),
  stdin: z.enum(['none', 'open', 'once']),
  terminal: z.boolean(),
  /** All its processes end with its first process; unknown for a reclaimed CT. */
  ownPidNamespace: z.boolean().optional(),
});
export type PctState = z.infer<typeof stateSchema>;

/** The state that create() has returned; undefined if create() did not finish. @throws RecordUnreadable */
export function stateOf(container: Pick<ContainerRef, 'state'>): PctState | undefined {
  if (container.state === undefined) return undefined;
  const { data, error } = stateSchema.safeParse(container.state);
  if (error)
    throw new CrispError('RecordUnreadable', `the record of a CT is invalid: ${whyNot(error)}`, {
      cause: error,
    });
  return data;
}

/** The config.json of a bundle. */
export async function specOf({ folder }: Pick<ContainerRef, 'folder'>): Promise<Spec> {
  return JSON.parse(await readText(join(folder, 'config.json'))) as Spec;
}
