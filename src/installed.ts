// Where the program's own files lie: beside package.json, which is above the
// sources as well as above the bundle that is built from them.
import { existsSync, readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const here = dirname(fileURLToPath(import.meta.url));
const home = folderOfPackage(here);

/** The path of a file that is installed with the program, such as "proto/runtime/v1/api.proto". */
export function installed(path: string): string {
  return join(home, path);
}

/** The path of one of the Perl programs of src/perl, of which the bundle has a copy. */
export function perlProgram(name: string): string {
  return join(here.startsWith(join(home, 'dist')) ? join(home, 'dist') : here, 'perl', name);
}

/** Where a file of deploy/ lies for whoever runs crisp: the place of the package (deploy/files), else this checkout. */
export function deployed(path: string, packaged: string): string {
  return existsSync(packaged) ? packaged : installed(path);
}

/** What package.json says of the program. */
export function packageFile(): { readonly version: string; readonly gitHead?: string } {
  return JSON.parse(readFileSync(installed('package.json'), 'utf8')) as { version: string; gitHead?: string };
}

function folderOfPackage(start: string): string {
  for (let folder = start; ; folder = dirname(folder)) {
    if (existsSync(join(folder, 'package.json'))) return folder;
    if (folder === '/') throw new Error(`there is no package.json above ${start}`);
  }
}
