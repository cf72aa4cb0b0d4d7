// What a container carries with it, so that it and its pod are found again when
// the state folder is lost: both records, packed into one line.  Made by
// container-create, kept by backends whose containers have a place for it (the
// notes of a CT), read by adopt.
//
// Whoever may look at a CT may read its notes: the environment stays out.
import { deflateRawSync, inflateRawSync } from 'node:zlib';
import * as z from 'zod';
import {
  containerRecordSchema,
  sandboxRecordSchema,
  type ContainerRecord,
  type SandboxRecord,
} from './records.js';

export interface Keepsake {
  readonly sandbox: SandboxRecord;
  readonly container: ContainerRecord;
}

const schema = z.object({ sandbox: sandboxRecordSchema, container: containerRecordSchema });
/** Characters; the notes of a CT hold 8192 (PVE::JSONSchema), and say other things too. */
const longest = 6000;
/** An annotation above this, in characters, is no setting but a copy of something (kubectl keeps the whole manifest in one). */
const longAnnotation = 256;
/** Bytes that a keepsake may unfold to: anybody who edits notes could make it a bomb. */
const unfolded = 1 << 20;

/** One line of base64; undefined: the records are too long for one. */
export function pack({ sandbox, container }: Keepsake): string | undefined {
  const slim: Keepsake = { sandbox, container: { ...container, config: { ...container.config, envs: [] } } };
  return [slim, withoutLongAnnotations(slim)].map(encode).find((text) => text.length <= longest);
}

/** undefined: it is none, or one of records that this version does not read. */
export function unpack(text: string): Keepsake | undefined {
  try {
    return schema.parse(
      JSON.parse(inflateRawSync(Buffer.from(text, 'base64'), { maxOutputLength: unfolded }).toString()),
    );
  } catch {
    return undefined;
  }
}

function encode(keepsake: Keepsake): string {
  return deflateRawSync(JSON.stringify(keepsake)).toString('base64');
}

function withoutLongAnnotations({ sandbox, container }: Keepsake): Keepsake {
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
