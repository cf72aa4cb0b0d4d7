// The names of all steps, read from the source, for the tests that fail at each of
// them.
import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

const source = fileURLToPath(new URL('../../src', import.meta.url));
/** step('STORY: STEP', …), withUndo('STORY', …) and the undo.push('STEP', …) that come after it. */
const name = /\b(step|withUndo|undo\.push)\(\s*'([^']+)'/g;

/** Files with steps of an operation that begins elsewhere, and the operation that the tests use. */
const storyOf = new Map([
  ['pod/pod.ts', 'RunPodSandbox'],
  ['pod/container.ts', 'CreateContainer'],
]);

/**
 * "OPERATION: STEP" each.
 * @param below a folder of the source
 * @throws if a step has no operation, or two have the same name
 */
export async function stepsOfSource(below = ''): Promise<string[]> {
  const found: string[] = [];
  for (const file of await readdir(source, { recursive: true })) {
    if (!file.startsWith(below) || !file.endsWith('.ts') || file.endsWith('.test.ts')) continue;
    let story = storyOf.get(file);
    for (const [, kind, text = ''] of (await readFile(join(source, file), 'utf8')).matchAll(name)) {
      if (kind === 'withUndo') story = text;
      if (kind === 'undo.push' && story === undefined) throw new Error(`${file}: "${text}" has no story`);
      found.push(kind === 'step' ? text : kind === 'withUndo' ? `${text}: done` : `${story}: ${text}`);
    }
  }
  const twice = found.filter((step, index) => found.indexOf(step) !== index);
  if (twice.length > 0) throw new Error(`steps of one name: ${twice.join(', ')}`);
  return found;
}
