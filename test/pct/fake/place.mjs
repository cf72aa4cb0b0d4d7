// Where the fake node keeps its things, and how its tools end.
import { existsSync, readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';

/** NODE/bin/TOOL */
const node = dirname(dirname(process.argv[1]));
export function at(...names) {
  return join(node, ...names);
}

/** A die of Perl: the words on stderr, and an exit code that says nothing. */
export class Died extends Error {
  constructor(message, code = 255) {
    super(message);
    this.code = code;
  }
}
export function die(message, code) {
  throw new Died(message, code);
}

export function fail(message, code) {
  process.stderr.write(`${message}\n`);
  process.exit(code);
}

/** A file that a test has set; undefined: it has not. */
export function setting(name) {
  return existsSync(at(name)) ? readFileSync(at(name), 'utf8').trim() : undefined;
}

/** As long as a test wishes. */
export function wait(name) {
  const ms = Number(setting(name) ?? 0);
  if (ms > 0) Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, ms);
}

export function checkQuorum() {
  if (setting('no-quorum') !== undefined) die('cluster not ready - no quorum?');
}
