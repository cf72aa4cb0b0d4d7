// Called by run.sh: makes a copy of the tree with all mutants in it, sees which
// files of tests reach which of them, and tries each with those.
import { execFileSync } from 'node:child_process';
import { cpSync, existsSync, mkdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { parseArgs } from 'node:util';
import { mutate, programOf } from './mutants.mjs';
import { Worker } from './worker.mjs';

const folders = [
  'src/pod/',
  'src/records/',
  'src/cri/',
  'src/host/',
  'src/network/',
  'src/oci/',
  'src/backends/',
];
const subjects = [...folders, 'src/orphans.ts'];
/** Below it the run fails. */
const wantedScore = 85;
/** Modules stay in memory with each file of tests that is run: at this size a process is replaced. */
const largestBytes = 1_200 << 20;

const { values: options } = parseArgs({
  options: {
    files: { type: 'string', multiple: true, default: subjects },
    changed: { type: 'string' },
    sample: { type: 'string' },
    seed: { type: 'string', default: '1' },
    jobs: { type: 'string', default: '1' },
    list: { type: 'boolean', default: false },
  },
});
const tree = '/tmp/tree';

const git = (...args) =>
  execFileSync('git', args, { encoding: 'utf8', maxBuffer: 64 << 20 })
    .split('\n')
    .filter(Boolean);
const tracked = git('ls-files', '-co', '--exclude-standard').filter((file) => existsSync(file));
const prefixes = options.files.flatMap((list) => list.split(','));
const changed =
  options.changed === undefined ? undefined : new Set(git('diff', '--name-only', options.changed));
const files = tracked.filter(
  (file) =>
    subjects.some((subject) => file.startsWith(subject)) &&
    prefixes.some((prefix) => file.startsWith(prefix)) &&
    file.endsWith('.ts') &&
    !file.endsWith('.test.ts') &&
    (changed?.has(file) ?? true),
);

const all = [];
const program = programOf(files);
const mutated = new Map();
for (const file of files) {
  const { mutants, text } = mutate(program, file, all.length);
  all.push(...mutants);
  mutated.set(file, text);
}
const harmless = readHarmless();
const chosen = sample(all.filter((mutant) => !harmless.has(keyOf(mutant))));
console.log(
  `${all.length} mutants in ${files.length} files, ${all.filter((mutant) => harmless.has(keyOf(mutant))).length} of them harmless; ${chosen.length} are tried`,
);
if (options.list) {
  for (const mutant of chosen) console.log(told(mutant));
  process.exit(0);
}
if (chosen.length === 0) process.exit(0);

copyTree();
const start = performance.now();
const reachedBy = await baseline();
const survivors = new Set();
const counts = { done: 0, timedOut: 0, unreached: 0 };
const queue = [...chosen];
await Promise.all(Array.from({ length: Number(options.jobs) }, work));
report();

/** Takes mutants from the queue until there is none. */
async function work() {
  let worker = await Worker.start(tree, files);
  const renew = async () => {
    worker.end();
    worker = await Worker.start(tree, files);
  };
  for (let mutant = queue.shift(); mutant; mutant = queue.shift()) {
    const tests = inOrder(mutant, reachedBy.get(mutant.id) ?? []);
    const paths = tests.map(({ path }) => path);
    const limitMs = 10_000 + 5 * tests.reduce((sum, { ms }) => sum + ms, 0);
    const judge = () => worker.run(mutant.id, paths, limitMs);
    let outcome = tests.length > 0 ? await judge() : { results: [] };
    if (outcome.died) {
      await renew(); // it may have been for what an earlier mutant has left
      outcome = await judge();
    }
    if (outcome.timedOut) {
      counts.timedOut++;
      console.log(
        `timed out: ${told(mutant)}: ${basename(outcome.running)}, ${Math.round(limitMs / 1000)} s`,
      );
    } else if (!outcome.died && !outcome.results.some(({ failed }) => failed)) {
      survivors.add(mutant);
      const by = paths.map((path) => basename(path, '.test.ts')).join(', ');
      console.log(`not noticed: ${told(mutant)}  [${by || 'no test reaches it'}]`);
      if (tests.length === 0) counts.unreached++;
    }
    if (outcome.timedOut || outcome.died || outcome.bytes > largestBytes) await renew();
    if (++counts.done % 100 === 0) console.log(`  ${counts.done} of ${chosen.length}`);
  }
  worker.end();
}

/** Runs all tests without a mutant; one that fails in the copy is no judge of mutants. */
async function baseline() {
  const worker = await Worker.start(tree, files);
  const { results, died, timedOut } = await worker.run(-1, worker.tests, 600_000);
  if (died || timedOut) throw new Error('the tests do not come to an end without a mutant');
  worker.end();
  const reached = new Map();
  for (const { path, failed, ms, reached: ids } of results) {
    if (failed)
      console.log(`left out, since it fails without a mutant: ${path.slice(tree.length + 1)}: ${failed}`);
    else for (const id of ids) reached.set(id, [...(reached.get(id) ?? []), { path, ms }]);
  }
  console.log(`${results.length} files of tests run without a mutant in ${seconds()} s`);
  return reached;
}

/** The tests beside the source first, then the fast ones. */
function inOrder({ file }, tests) {
  const own = join(tree, file.replace(/\.ts$/, '.test.ts'));
  return [...tests].sort((a, b) => Number(b.path === own) - Number(a.path === own) || a.ms - b.ms);
}

function copyTree() {
  for (const file of tracked) {
    mkdirSync(join(tree, dirname(file)), { recursive: true });
    if (mutated.has(file)) writeFileSync(join(tree, file), mutated.get(file));
    else cpSync(file, join(tree, file), { verbatimSymlinks: true });
  }
  cpSync('src/cri/generated', join(tree, 'src/cri/generated'), { recursive: true });
  for (const name of ['node_modules', 'dist']) symlinkSync(join(process.cwd(), name), join(tree, name));
}

/** Lines of harmless.txt: `file (function): before -> after # reason`, a comment, or nothing. */
function readHarmless() {
  const known = new Set(all.map(keyOf));
  const keys = new Set();
  for (const line of readFileSync(new URL('harmless.txt', import.meta.url), 'utf8').split('\n')) {
    if (line === '' || line.startsWith('#')) continue;
    const [key, reason] = line.split(' # ');
    if (!reason) throw new Error(`harmless.txt gives no reason: ${line}`);
    if (files.includes(key.split(' ')[0]) && !known.has(key))
      console.log(`harmless.txt names no mutant: ${key}`);
    keys.add(key);
  }
  return keys;
}

function keyOf({ file, where, before, after }) {
  return `${file} (${where}): ${before} -> ${after}`;
}

function told({ file, line, where, before, after }) {
  return `${file}:${line} (${where}): ${before} -> ${after}`;
}

function report() {
  const byFolder = new Map();
  for (const mutant of chosen) {
    const folder = mutant.file.split('/').slice(0, 2).join('/');
    const [noticed, total] = byFolder.get(folder) ?? [0, 0];
    byFolder.set(folder, [noticed + (survivors.has(mutant) ? 0 : 1), total + 1]);
  }
  console.log('');
  byFolder.set('all', [chosen.length - survivors.size, chosen.length]);
  for (const [name, [noticed, total]] of byFolder)
    console.log(
      `${name.padEnd(16)} ${String(noticed).padStart(5)} of ${String(total).padStart(5)}  ${percent(noticed, total)} %`,
    );
  console.log(
    `noticed by the time limit: ${counts.timedOut}; reached by no test: ${counts.unreached}; ${seconds()} s`,
  );
  process.exitCode = percent(chosen.length - survivors.size, chosen.length) >= wantedScore ? 0 : 1;
}

function percent(part, whole) {
  return Math.round((1000 * part) / whole) / 10;
}

function seconds() {
  return Math.round((performance.now() - start) / 1000);
}

/** The same for the same seed and the same source. */
function sample(mutants) {
  if (options.sample === undefined) return mutants;
  let state = Number(options.seed) >>> 0;
  const random = () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state / 2 ** 32;
  };
  return mutants
    .map((mutant) => ({ mutant, order: random() }))
    .sort((a, b) => a.order - b.order)
    .slice(0, Number(options.sample))
    .map(({ mutant }) => mutant)
    .sort((a, b) => a.id - b.id);
}
