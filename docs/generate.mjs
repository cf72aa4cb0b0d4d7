// Writes the documents that are made from tables in the code; with --check it
// writes nothing and fails when one is not what the tables say.  Run through
// `npm run docs`, which builds first.
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { dirname } from 'node:path';
import { fileURLToPath } from 'node:url';

const { documents } = await import('../dist/cli/docs.js');
const check = process.argv.includes('--check');
for (const [name, wanted] of documents()) {
  const path = fileURLToPath(new URL(`../${name}`, import.meta.url));
  let present = '';
  try {
    present = readFileSync(path, 'utf8');
  } catch {
    /* not written yet */
  }
  if (present === wanted) continue;
  if (check) {
    console.error(`${name} is not current; run \`npm run docs\``);
    process.exitCode = 1;
  } else {
    mkdirSync(dirname(path), { recursive: true });
    writeFileSync(path, wanted);
    console.log(`wrote ${name}`);
  }
}
