// The bundle: the folder from which an OCI runtime makes a container (runtime-spec,
// bundle.md). Written by container-create and `crisp bundle`, checked by `crisp bundle
// --validate`.
import { readdir, stat } from 'node:fs/promises';
import { isAbsolute, join, resolve } from 'node:path';
import { exists, readFileIfThere, readText, writeFile } from '../host/files.js';
import { resolveInside } from './inspect.js';
import { validateSpec, type SpecIssue } from './spec-schema.js';
import type { Spec } from '../shapes/spec.js';

/**
 * Writes FOLDER/config.json. Not flushed: after a crash before the container's record is written, the whole
 * folder is removed.
 */
export function writeBundle(folder: string, spec: Spec): void {
  writeFile(join(folder, 'config.json'), JSON.stringify(spec));
}

/** FOLDER/config.json; undefined: there is none. @throws SyntaxError */
export async function readBundle(folder: string): Promise<Spec | undefined> {
  const text = await readFileIfThere(join(folder, 'config.json'));
  return text === undefined ? undefined : (JSON.parse(text) as Spec);
}

/**
 * All problems of a bundle: of its config.json, its rootfs, and files of the rootfs that config.json
 * requires.
 */
export async function validateBundle(folder: string): Promise<SpecIssue[]> {
  let spec: Spec;
  try {
    spec = JSON.parse(await readText(join(folder, 'config.json'))) as Spec;
  } catch (error) {
    return [{ path: 'config.json', message: (error as Error).message }];
  }
  const issues = validateSpec(spec);
  if (issues.length) return issues; // the following code relies on the types
  const rootfs = resolve(folder, spec.root.path);
  const entries = await readdir(rootfs).catch((error: Error) => error.message);
  if (typeof entries === 'string') return [{ path: 'root.path', message: entries }];
  if (entries.length === 0) return [{ path: 'root.path', message: `${rootfs} is empty` }];
  const program = spec.process && (await programIssue(rootfs, spec));
  return [...(await mountIssues(folder, spec)), ...(program ? [program] : [])];
}

async function mountIssues(folder: string, spec: Spec): Promise<SpecIssue[]> {
  const bound = (spec.mounts ?? [])
    .map((mount, index) => ({ ...mount, index }))
    .filter(
      ({ type, options = [] }) => type === 'bind' || options.includes('bind') || options.includes('rbind'),
    );
  const missing = await Promise.all(
    bound.map(async ({ source = '', index }) =>
      (await exists(resolve(folder, source)))
        ? []
        : [{ path: `mounts.${index}.source`, message: `${source} does not exist` }],
    ),
  );
  return missing.flat();
}

/** Searches like execvp(3). Files in a mount cannot be checked here and are assumed to exist. */
async function programIssue(
  rootfs: string,
  {
    process: {
      args: [program = ''],
      env = [],
      cwd,
    },
    mounts = [],
  }: Spec,
): Promise<SpecIssue | undefined> {
  const folders =
    env
      .find((entry) => entry.startsWith('PATH='))
      ?.slice('PATH='.length)
      .split(':') ?? [];
  const candidates = isAbsolute(program)
    ? [program]
    : program.includes('/')
      ? [join(cwd, program)]
      : folders.map((path) => join(path, program));
  const mounted = (path: string): boolean =>
    mounts.some(({ destination }) => path === destination || path.startsWith(`${destination}/`));
  for (const candidate of candidates) {
    const inside = await resolveInside(rootfs, candidate, 'process.args.0').catch(() => undefined);
    if (inside === undefined) continue;
    const found = await stat(join(rootfs, inside)).catch(() => undefined);
    if (mounted(inside) || (found?.isFile() && found.mode & 0o111)) return undefined;
  }
  return { path: 'process.args.0', message: `there is no program ${program} in the rootfs` };
}
