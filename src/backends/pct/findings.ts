// What the probe of a node finds out for the making of CTs, kept with its result.
import * as z from 'zod';
import { storageName } from './guest-options.js';

/** What the probe finds out of the node. */
export const findingsSchema = z.object({
  /** Where idmapped overlays do not work: the volumes that unprivileged CTs get instead. */
  copies: z.object({ storage: storageName, sizeGib: z.number().nonnegative() }).optional(),
  /** pct sets the address of a CT's net0 itself. */
  hostManaged: z.boolean(),
  /** liblxc 5 (of Debian 12) drops the supplemental groups of an unprivileged CT. */
  givesGroups: z.boolean(),
  /** See lxc-config.ts. */
  environmentReachesHooks: z.boolean().default(true),
});
export type Findings = z.infer<typeof findingsSchema>;
