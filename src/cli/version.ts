// `crisp version`.
import { readFileSync } from 'node:fs';
import { installed, packageFile } from '../installed.js';

export function showVersion({ json }: { readonly json: boolean }): number {
  const known = { crisp: packageFile().version, commit: commit(), node: process.version };
  process.stdout.write(
    json
      ? `${JSON.stringify(known)}\n`
      : `crisp ${known.crisp}${known.commit ? ` (commit ${known.commit.slice(0, 12)})` : ''}, Node ${known.node}\n`,
  );
  return 0;
}

/**
 * npm writes gitHead into a package that it publishes; in a checkout it is read from git; otherwise it is not
 * known.
 */
function commit(): string | undefined {
  const at = (path: string) => readFileSync(installed(path), 'utf8').trim();
  const packed = packageFile().gitHead;
  if (packed) return packed;
  try {
    const head = at('.git/HEAD');
    const branch = /^ref: (.*)$/.exec(head)?.[1];
    return branch ? at(`.git/${branch}`) : head;
  } catch {
    return undefined;
  }
}
