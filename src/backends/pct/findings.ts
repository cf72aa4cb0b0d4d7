// The facts about a node that creating CTs depends on, found by the probe and kept with its result.
import * as z from 'zod';
import { storageName } from './guest-options.js';

/** The findings of the probe. */
export const findingsSchema = z.object({
  /** The volumes for unprivileged CTs if idmapped overlays do not work. */
  copies: z.object({ storage: storageName, sizeGib: z.number().nonnegative() }).optional(),
  /** pct sets the address of a CT's net0 itself. */
  hostManaged: z.boolean(),
  /** liblxc 5 (of Debian 12) drops the supplemental groups of an unprivileged CT. */
  givesGroups: z.boolean(),
  /** See LxcPlan in lxc-config.ts. */
  environmentReachesHooks: z.boolean().default(true),
});
export type Findings = z.infer<typeof findingsSchema>;
