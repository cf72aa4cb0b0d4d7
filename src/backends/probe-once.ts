// The result of a handler's probe, kept until the next boot. A probe runs
// containers, which takes too long (with CTs: seconds) for each command and each
// start of the daemon. Called by cri/handlers and cli/backend.
//
//   STATE/probed/NAME.json   { key, probe }: valid while the key is the same
import { stat } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import * as z from 'zod';
import type { Config } from '../config/config.js';
import { makeFolder, readFileIfThere, remove, writeFileAtomic } from '../host/files.js';
import { bootId } from '../host/proc.js';
import { version } from '../version.js';
import type { Backend, Probe } from './backend.js';

export interface ProbeInput {
  readonly config: Config;
  /** The folder of the daemon, or of the command line. */
  readonly state: string;
  /** The handler. */
  readonly name: string;
  readonly backend: Backend;
  /** The result of backend.fingerprint(). */
  readonly fingerprint: string;
}

/**
 * The result of the last probe, if the machine, its programs and the configuration
 * have not changed; otherwise the result of a new probe. Only the result of a successful
 * probe is kept: the cause of a failure may disappear at any time. Never rejects
 * for a handler that is not ready.
 */
export async function probeOnce(input: ProbeInput): Promise<Probe> {
  const { state, backend } = input;
  const key = await keyOf(input);
  const known = await keptProbe(input, key);
  if (known) return known;
  const file = fileOf(input);
  await remove(file); // first: the leftovers of an interrupted probe are removed by the next probe, so there must be one
  const probe = await backend.probe();
  if (probe.ready) {
    makeFolder(join(state, 'probed'));
    await writeFileAtomic(file, JSON.stringify({ key, probe }));
  }
  return probe;
}

/** The stored result of probeOnce(); undefined: it would probe. */
export async function keptProbe(input: ProbeInput, key?: string): Promise<Probe | undefined> {
  const known = await keptIn(fileOf(input), key ?? (await keyOf(input)));
  if (known) input.backend.recall?.(known);
  return known;
}

function fileOf({ state, name }: ProbeInput): string {
  return join(state, 'probed', `${name}.json`);
}

async function keptIn(file: string, key: string): Promise<Probe | undefined> {
  try {
    const known = schema.parse(JSON.parse((await readFileIfThere(file)) ?? 'null'));
    return known.key === key ? known.probe : undefined;
  } catch {
    return undefined; // damaged: the same as none
  }
}

const schema = z.object({
  key: z.string(),
  probe: z.object({
    ready: z.boolean(),
    reason: z.string(),
    version: z.string(),
    features: z.object({ recursiveReadOnlyMounts: z.boolean(), userNamespaces: z.boolean() }),
    lacks: z.object({
      recursiveReadOnlyMounts: z.string().optional(),
      userNamespaces: z.string().optional(),
    }),
    found: z.unknown().optional(),
  }),
});

/** Everything that the result of a probe depends on, as text. */
async function keyOf({ config, state, name, fingerprint }: ProbeInput): Promise<string> {
  return JSON.stringify([
    version,
    await bootId(),
    (await readFileIfThere('/proc/sys/user/max_user_namespaces')) ?? '',
    config.handlers[name],
    config.runtime,
    config.lxc,
    config.root,
    // Whether the ids of a user namespace can access a rootfs in them, and their filesystems.
    ...(await Promise.all([...ancestors(state), ...ancestors(config.root)].map(kindOf))),
    fingerprint,
  ]);
}

function ancestors(path: string): string[] {
  return path === '/' ? [path] : [...ancestors(dirname(path)), path];
}

async function kindOf(folder: string): Promise<string | undefined> {
  return stat(folder).then(
    ({ mode, dev }) => `${mode} on ${dev}`,
    () => undefined,
  );
}
