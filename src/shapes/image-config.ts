// The part of an OCI image configuration (image-spec, config.md) that
// containers use. Names are the specification's own.
import * as z from 'zod';

const text = z
  .string()
  .nullish()
  .transform((value) => value ?? undefined);
const texts = z.array(z.string()).nullish();
/** Only the keys count: OCI has empty objects as values, and a registry may send anything. */
const keys = z
  .record(z.string(), z.unknown())
  .transform((given): Record<string, unknown> =>
    Object.fromEntries(Object.keys(given).map((key) => [key, {}])),
  )
  .nullish();

/** Checks the data of a registry; other keys are dropped. */
export const imageConfigSchema = z.object({
  User: text.optional(),
  Env: texts,
  Entrypoint: texts,
  Cmd: texts,
  WorkingDir: text.optional(),
  StopSignal: text.optional(),
  Labels: z.record(z.string(), z.string()).nullish(),
  Volumes: keys,
  ExposedPorts: keys,
});
export type ImageConfig = Readonly<z.infer<typeof imageConfigSchema>>;
