// The sources of the configuration: YAML files and flags, merged in order, with
// the file and line of each value.  Called by config.ts.
import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { isMap as isMapping, isNode, isScalar, LineCounter, parseDocument, type Document } from 'yaml';
import { CrispError } from '../errors.js';
import { readSmallFile } from '../host/files.js';

export type KeyPath = readonly (string | number)[];

export interface Source {
  readonly value: Readonly<Record<string, unknown>>;
  /**
   * "FILE:LINE" of the value at a path, or of its nearest parent in this source; undefined: the source does
   * not have it.
   */
  locate(path: KeyPath): string | undefined;
}

/**
 * The drop-ins of a folder, in the order of their names; empty without the folder.
 * @throws InvalidConfigFile
 */
export function dropIns(folder: string): string[] {
  try {
    return readdirSync(folder)
      .filter((name) => name.endsWith('.yaml'))
      .sort()
      .map((name) => join(folder, name));
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return [];
    throw new CrispError('InvalidConfigFile', `${folder}: ${(error as Error).message}`);
  }
}

/** @throws InvalidConfigFile if it cannot be parsed, or is required and does not exist */
export function yamlSource(file: string, required: boolean): Source {
  let text: string;
  try {
    text = readSmallFile(file);
  } catch (error) {
    if (!required && (error as NodeJS.ErrnoException).code === 'ENOENT')
      return { value: {}, locate: () => undefined };
    throw new CrispError('InvalidConfigFile', `${file}: ${(error as Error).message}`);
  }
  const lines = new LineCounter();
  const document = parseDocument(text, { lineCounter: lines, prettyErrors: false });
  const [first] = document.errors;
  if (first)
    throw new CrispError(
      'InvalidConfigFile',
      `${file}:${first.linePos?.[0].line ?? lines.linePos(first.pos[0]).line}: ${first.message}`,
    );
  let value: unknown;
  try {
    value = document.toJS() ?? {};
  } catch (error) {
    throw new CrispError('InvalidConfigFile', `${file}: ${(error as Error).message}`);
  } // too many aliases
  if (!isMap(value)) throw new CrispError('InvalidConfigFile', `${file}:1: must be a mapping of keys`);
  return { value, locate: (path) => locate(document, lines, file, path) };
}

/** Values from the command line; the flag has the key's name. */
export function flagSource(flags: Readonly<Record<string, unknown>>): Source {
  const value = Object.fromEntries(Object.entries(flags).filter(([, given]) => given !== undefined));
  return {
    value,
    locate: ([key]) =>
      key !== undefined && Object.hasOwn(value, key)
        ? `flag --${key === 'cli_state' ? 'state' : String(key).replaceAll('_', '-')}`
        : undefined,
  };
}

/** Maps merge key by key; everything else replaces. */
export function merge(
  base: Readonly<Record<string, unknown>>,
  over: Readonly<Record<string, unknown>>,
): Record<string, unknown> {
  const result = new Map(Object.entries(base));
  for (const [key, value] of Object.entries(over)) {
    const old = result.get(key);
    result.set(key, isMap(old) && isMap(value) ? merge(old, value) : value);
  }
  return Object.fromEntries(result);
}

/** The place of a value: in the last source that has the path, or otherwise its parent. */
export function placeOf(sources: readonly Source[], path: KeyPath): string | undefined {
  for (let length = path.length; length > 0; length--) {
    for (const source of [...sources].reverse()) {
      const place = source.locate(path.slice(0, length));
      if (place) return place;
    }
  }
  return undefined;
}

/** The position of a key, or of an item of a list. */
export function locate(
  document: Document,
  lines: LineCounter,
  file: string,
  path: KeyPath,
): string | undefined {
  const parent: unknown = path.length > 1 ? document.getIn(path.slice(0, -1), true) : document.contents;
  const last = path.at(-1);
  const key = isMapping(parent)
    ? parent.items.find((pair) => isScalar(pair.key) && pair.key.value === last)?.key
    : undefined;
  const node: unknown = key ?? document.getIn(path, true);
  return isNode(node) && node.range ? `${file}:${lines.linePos(node.range[0]).line}` : undefined;
}

function isMap(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}
