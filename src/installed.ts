// The paths of the program's own files: beside package.json, which is above
// both the sources and the bundle.
import { existsSync, readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const here = dirname(fileURLToPath(import.meta.url));
const home = folderOfPackage(here);

/** The path of a file that is installed with the program, such as "proto/runtime/v1/api.proto". */
export function installed(path: string): string {
  return join(home, path);
}

/** The path of one of the Perl programs of src/perl, which are copied into the bundle. */
export function perlProgram(name: string): string {
  return join(here.startsWith(join(home, 'dist')) ? join(home, 'dist') : here, 'perl', name);
}

/** The path of a file of deploy/: as installed by the package (deploy/files), otherwise in this checkout. */
export function deployed(path: string, packaged: string): string {
  return existsSync(packaged) ? packaged : installed(path);
}

/** The program's package.json. */
export function packageFile(): { readonly version: string; readonly gitHead?: string } {
  return JSON.parse(readFileSync(installed('package.json'), 'utf8')) as { version: string; gitHead?: string };
}

function folderOfPackage(start: string): string {
  for (let folder = start; ; folder = dirname(folder)) {
    if (existsSync(join(folder, 'package.json'))) return folder;
    if (folder === '/') throw new Error(`there is no package.json above ${start}`);
  }
}
