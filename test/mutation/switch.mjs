// The switch of the mutants in a process of the integration tests: a program under test (run.mjs makes
// bin/crisp load this first), or jest. try.sh writes down which mutant is on; without one, the mutants
// that are reached are noted, each at once, since a daemon may be killed at any time.
import { openSync, readFileSync, writeSync } from 'node:fs';

const active = readFileSync(new URL('../../mutant', import.meta.url), 'utf8').trim();
const notes = openSync(new URL('../../notes', import.meta.url), 'a');
const reached = new Set();

/** For integration.mjs: the id of a mutant that is reached, or "KEY VALUE". */
export function note(line) {
  writeSync(notes, `${line}\n`);
}

globalThis.mutant =
  active === ''
    ? (id) => {
        if (!reached.has(id)) note(id);
        reached.add(id);
        return false;
      }
    : (id) => id === Number(active);
