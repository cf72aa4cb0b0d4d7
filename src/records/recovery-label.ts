// The recovery label of a container, from which it and its pod are recovered
// when the state folder is lost: both records, compressed into one line. Made
// by container-create, stored by backends that have a place for it (the notes
// of a CT), read by reclaim.
//
// Every user who may view a CT can read its notes: the environment is left
// out.
import { deflateRawSync, inflateRawSync } from 'node:zlib';
import * as z from 'zod';
import type { FoundContainer } from '../backends/backend.js';
import {
  fromJson,
  storedContainerSchema,
  storedSandboxSchema,
  type ContainerRecord,
  type SandboxRecord,
} from './records.js';

const schema = z.object({ sandbox: storedSandboxSchema, container: storedContainerSchema });
/** Paths are not included: placed.ts makes them. */
export type RecoveryLabel = z.infer<typeof schema>;

interface Records {
  readonly sandbox: SandboxRecord;
  readonly container: ContainerRecord;
}

/** Characters; the notes of a CT may have 8192 (PVE::JSONSchema), including other lines. */
const longest = 6000;
/**
 * An annotation with more characters is not a setting but a copy of something (kubectl stores the whole
 * manifest in one).
 */
const longAnnotation = 256;
/**
 * The maximum size after decompression, in bytes: a user who edits the notes could make it a decompression
 * bomb.
 */
const unfolded = 1 << 20;

/** One line of base64; undefined: the records are too long for a label. */
export function pack({ sandbox, container }: Records): string | undefined {
  const slim: Records = { sandbox, container: { ...container, config: { ...container.config, envs: [] } } };
  return [slim, withoutLongAnnotations(slim)].map(encode).find((text) => text.length <= longest);
}

/** undefined: it is not a label, or has records that this version cannot read. */
export function unpack(text: string): RecoveryLabel | undefined {
  try {
    return schema.parse(
      fromJson(inflateRawSync(Buffer.from(text, 'base64'), { maxOutputLength: unfolded }).toString()),
    );
  } catch {
    return undefined;
  }
}

/**
 * The recovery label of a container.
 * @returns undefined: none; 'unreadable': modified, or of another version. Such a container is left as it is.
 */
export function recoveryLabelOf({
  id,
  recoveryLabel,
}: Pick<FoundContainer, 'id' | 'recoveryLabel'>): RecoveryLabel | 'unreadable' | undefined {
  if (recoveryLabel === undefined) return undefined;
  const found = recoveryLabel === 'forged' ? undefined : unpack(recoveryLabel);
  return found?.container.id === id && found.container.sandboxId === found.sandbox.id ? found : 'unreadable';
}

function encode(recoveryLabel: Records): string {
  return deflateRawSync(JSON.stringify(recoveryLabel)).toString('base64');
}

function withoutLongAnnotations({ sandbox, container }: Records): Records {
  const short = (annotations: Readonly<Record<string, string>>) =>
    Object.fromEntries(Object.entries(annotations).filter(([, value]) => value.length <= longAnnotation));
  return {
    sandbox: {
      ...sandbox,
      config: { ...sandbox.config, annotations: short(sandbox.config.annotations) },
      plan: { ...sandbox.plan, annotations: short(sandbox.plan.annotations) },
    },
    container: {
      ...container,
      config: { ...container.config, annotations: short(container.config.annotations) },
    },
  };
}
