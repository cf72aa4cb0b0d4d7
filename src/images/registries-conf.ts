// The operator's settings for registries: containers-registries.conf(5) and
// its drop-ins, as skopeo reads them. Called by pull.ts.
import { join } from 'node:path';
import { parse } from 'smol-toml';
import * as z from 'zod';
import { namesIn, readFileIfThere } from '../host/files.js';

const defaultFile = '/etc/containers/registries.conf';
/** Always read after the file: there is no option for another folder. */
const dropIns = '/etc/containers/registries.conf.d';

const lists = z.object({ registries: z.array(z.string()).optional() }).optional();
const fileSchema = z.object({
  registry: z.array(z.object({ prefix: z.string().optional(), location: z.string().optional() })).optional(),
  /** The first version of the format, which skopeo reads as well. */
  registries: z.object({ insecure: lists, block: lists }).optional(),
});

/**
 * Whether the operator has an entry for exactly this host, which an entry of crisp would
 * replace; a longer prefix ("HOST:PORT", "HOST/TEAM") takes precedence over crisp's
 * entry anyway.
 * @param file images.registries_conf; empty: the default of the host
 * @returns also true if a file cannot be read, since it may have an entry
 */
export async function isConfigured(host: string, file: string, folder = dropIns): Promise<boolean> {
  const names = (await namesIn(folder)).filter((name) => name.endsWith('.conf'));
  for (const path of [file || defaultFile, ...names.map((name) => join(folder, name))]) {
    try {
      if (prefixesIn((await readFileIfThere(path)) ?? '').includes(host)) return true;
    } catch {
      return true;
    }
  }
  return false;
}

function prefixesIn(text: string): string[] {
  const { registry = [], registries } = fileSchema.parse(parse(text));
  return [
    ...registry.map(({ prefix, location }) => prefix || location || ''),
    ...(registries?.insecure?.registries ?? []),
    ...(registries?.block?.registries ?? []),
  ].map((prefix) => prefix.replace(/\/+$/, ''));
}
