// What a container carries with it, so that it and its pod are found again when
// the state folder is lost: both records, packed into one line.  Made by
// container-create, kept by backends whose containers have a place for it (the
// notes of a CT), read by reclaim.
//
// Whoever may look at a CT may read its notes: the environment stays out.
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
/** Where its things are is not among it: placed.ts says. */
export type RecoveryLabel = z.infer<typeof schema>;

interface Records {
  readonly sandbox: SandboxRecord;
  readonly container: ContainerRecord;
}

/** Characters; the notes of a CT hold 8192 (PVE::JSONSchema), and say other things too. */
const longest = 6000;
/** An annotation above this, in characters, is no setting but a copy of something (kubectl keeps the whole manifest in one). */
const longAnnotation = 256;
/** Bytes that a recovery label may unfold to: anybody who edits notes could make it a bomb. */
const unfolded = 1 << 20;

/** One line of base64; undefined: the records are too long for one. */
export function pack({ sandbox, container }: Records): string | undefined {
  const slim: Records = { sandbox, container: { ...container, config: { ...container.config, envs: [] } } };
  return [slim, withoutLongAnnotations(slim)].map(encode).find((text) => text.length <= longest);
}

/** undefined: it is none, or one of records that this version does not read. */
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
 * What a container carries.
 * @returns undefined: nothing; 'unreadable': not what was given to it, or of another version. Such a container is left as it is.
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
