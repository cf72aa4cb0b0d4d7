// Called by run.sh: makes a copy of the tree with all mutants in it, sees which
// files of tests reach which of them, and tries each with those.
import { execFileSync } from 'node:child_process';
import {
  appendFileSync,
  cpSync,
  existsSync,
  mkdirSync,
  readFileSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { parseArgs } from 'node:util';
import { countedBySource, integrationTests, isDetected } from './integration.mjs';
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

const { values: options } = parseArgs({
  options: {
    files: { type: 'string', multiple: true, default: subjects },
    changed: { type: 'string' },
    sample: { type: 'string' },
    seed: { type: 'string', default: '1' },
    jobs: { type: 'string', default: '1' },
    list: { type: 'boolean', default: false },
    integration: { type: 'boolean', default: false },
  },
});
const tree = '/tmp/tree';
const lanes = Array.from({ length: Number(options.jobs) }, (_, lane) => lane);

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
/** So many mutants are tried with one load of a file of tests. */
const batch = 40;
const noMutant = -1;
const morePatience = 2;
/** For each file of tests: its duration, and the mutants that it reaches. */
const tests = await baseline();
const survivors = new Set(chosen.map(({ id }) => id));
const counts = { timedOut: 0 };
// 1. Each mutant with the file of tests that is nearest to it. 2. With all others that reach it, the fast ones first.
await runAll(
  tests.map((test) => ({
    test,
    ids: chosen.filter((mutant) => nearest(mutant) === test).map(({ id }) => id),
  })),
);
await runAll(
  [...tests]
    .sort((one, other) => one.ms - other.ms)
    .map((test) => ({
      test,
      ids: chosen
        .filter((mutant) => reaches(test, mutant) && uses(test, mutant) && nearest(mutant) !== test)
        .map(({ id }) => id),
    })),
);
if (options.integration) await runIntegration();
report();

/** 3. Those that are left with the integration tests, or, those of CTs, with the pct tests. */
async function runIntegration() {
  const left = chosen.filter(({ id }) => survivors.has(id));
  console.log(`unit tests detect ${chosen.length - left.length} of ${chosen.length}`);
  const projectOf = ({ file }) => (file.startsWith('src/backends/pct/') ? 'pct' : 'integration');
  const projects = [...new Set(left.map(projectOf))];
  const found = await integrationTests(projects, sourceOf, inParallel);
  console.log(`${seconds()} s: ${found.length} files of integration tests run without a mutant`);
  await inParallel(left, async (mutant) => {
    const by = await isDetected(
      mutant,
      found.filter(({ path }) => path.startsWith(`test/${projectOf(mutant)}/`)),
    );
    if (by) survivors.delete(mutant.id);
    console.log(`${seconds()} s: ${told(mutant)}: ${by ? `detected by ${by}` : 'not detected'}`);
  });
}

function reaches(test, { id }) {
  return test.reached.has(id) || test.atLoad.has(id);
}

/**
 * Nearly every test loads nearly every source: a mutant that only the load of a source reaches is tried with
 * tests that call a function of this source, or are in its folder.
 */
function uses(test, mutant) {
  return (
    test.reached.has(mutant.id) ||
    test.reachedOf.has(mutant.file) ||
    dirname(test.path) === dirname(join(tree, mutant.file))
  );
}

/** The file beside the source, otherwise the one that reaches most of the mutants of the source. */
function nearest(mutant) {
  const own = join(tree, mutant.file.replace(/\.ts$/, '.test.ts'));
  const ofFile = (test) =>
    test.path === own
      ? Infinity
      : (test.reachedOf.get(mutant.file) ?? 0) + (dirname(test.path) === dirname(own) ? 0.5 : 0);
  const [first] = tests.filter((test) => reaches(test, mutant)).sort((a, b) => ofFile(b) - ofFile(a));
  return first;
}

async function runAll(work) {
  const workers = await Promise.all(lanes.map(() => Worker.start(tree, files)));
  await inParallel(work, ({ test, ids }, lane) => tryAll(workers[lane], test, ids));
  for (const worker of workers) worker.end();
}

/** Does the work in the lanes: `done` gets a part of it and its lane. */
async function inParallel(work, done) {
  const left = [...work];
  await Promise.all(
    lanes.map(async (lane) => {
      for (let next = left.shift(); next !== undefined; next = left.shift()) await done(next, lane);
    }),
  );
}

/** Tries mutants that have survived until now with a file of tests. */
async function tryAll(worker, test, ids) {
  const left = ids.filter((id) => survivors.has(id));
  const once = left.filter((id) => !test.reached.has(id)); // what only the load of the file reaches needs a load for each
  for (const id of once) await tryBatch(worker, test, [id], true);
  const many = left.filter((id) => test.reached.has(id));
  while (many.length > 0) await tryBatch(worker, test, many.splice(0, batch), false);
  if (left.length > 0)
    console.log(
      `${seconds()} s: ${basename(test.path)}: ${left.filter((id) => !survivors.has(id)).length} of ${left.length} detected`,
    );
}

/**
 * @param patience a factor of the time limits: a mutant with which a test is only late is tried
 *   again with more time, as other work on the machine may be the cause
 */
async function tryBatch(worker, test, ids, atLoad, patience = 1) {
  const { path, ms, slowestMs } = test;
  const limitMs = patience * (10_000 + 5 * ms);
  const tryHalves = async (parts) => {
    const half = Math.ceil(parts.length / 2);
    for (const part of [parts.slice(0, half), parts.slice(half)])
      if (part.length > 0) await tryBatch(worker, test, part, atLoad, patience);
  };
  const testLimitMs = patience * (1_500 + 2 * slowestMs);
  // The tests run without a mutant at the end: one of several mutants may leave something behind.
  const mutants = ids.length === 1 ? ids : [...ids, noMutant];
  const { broken, failed, late, stuck, timedOut } = await worker.run(
    { path, mutants, atLoad, testLimitMs },
    limitMs,
  );
  // What a mutant leaves behind may end the process or keep it busy after all of them.
  if (stuck === noMutant && ids.length > 1) return tryHalves(ids);
  if (stuck !== undefined) {
    const rest = ids.filter((id) => id !== stuck);
    if (timedOut && patience === 1 && stuck !== noMutant)
      await tryBatch(worker, test, [stuck], atLoad, morePatience);
    else {
      if (timedOut) counts.timedOut++;
      survivors.delete(stuck);
    }
    if (rest.length > 0 && rest.length < ids.length) await tryBatch(worker, test, rest, atLoad, patience);
    return;
  }
  const again = new Set(patience === 1 ? late : []);
  const detected = (broken ? ids : failed.map(([id]) => id)).filter(
    (id) => id !== noMutant && !again.has(id),
  );
  // What a mutant leaves behind may fail the tests of the next one.
  const isClean = !failed.some(([id]) => id === noMutant);
  if (isClean || ids.length === 1) for (const id of detected) survivors.delete(id);
  else await tryHalves(detected);
  again.delete(noMutant);
  if (again.size > 0) await tryBatch(worker, test, [...again], atLoad, morePatience);
}

/** Runs all tests without a mutant; one that fails in the copy is no judge of mutants. */
async function baseline() {
  const worker = await Worker.start(tree, files);
  // Integration tests take the place of the unit tests of other folders.
  const own = new Set(files.map((file) => dirname(join(tree, file))));
  const paths = worker.tests.filter((path) => !options.integration || own.has(dirname(path)));
  const found = [];
  for (const path of paths) {
    const first = await worker.run({ path }, 120_000);
    // Again: other work on the machine may be the cause.
    const last = failureOf(first) ? await worker.run({ path }, 120_000) : first;
    const { ms, slowestMs, reached, atLoad } = last;
    const failure = failureOf(last);
    if (failure) {
      console.log(`left out, since it fails without a mutant: ${path.slice(tree.length + 1)}: ${failure}`);
      continue;
    }
    const reachedOf = countedBySource(reached, sourceOf);
    found.push({ path, ms, slowestMs, reached: new Set(reached), atLoad: new Set(atLoad), reachedOf });
  }
  worker.end();
  console.log(`${paths.length} files of tests run without a mutant in ${seconds()} s`);
  return found;
}

function failureOf({ broken, failed, stuck }) {
  return stuck === undefined ? broken || failed[0]?.[1] : 'it does not end';
}

function copyTree() {
  for (const file of tracked) {
    mkdirSync(join(tree, dirname(file)), { recursive: true });
    if (mutated.has(file)) writeFileSync(join(tree, file), mutated.get(file));
    else cpSync(file, join(tree, file), { verbatimSymlinks: true });
  }
  cpSync('src/cri/generated', join(tree, 'src/cri/generated'), { recursive: true });
  symlinkSync(join(process.cwd(), 'node_modules'), join(tree, 'node_modules'));
  if (!options.integration) {
    symlinkSync(join(process.cwd(), 'dist'), join(tree, 'dist'));
    return;
  }
  appendFileSync(join(tree, 'bin/crisp'), "import '../test/mutation/switch.mjs';\n");
  execFileSync(process.execPath, ['deploy/build.mjs'], { cwd: tree, stdio: 'inherit' });
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

function sourceOf(id) {
  return all[id].file;
}

function keyOf({ file, where, before, after }) {
  return `${file} (${where}): ${before} -> ${after}`;
}

function told({ file, line, where, before, after }) {
  return `${file}:${line} (${where}): ${before} -> ${after}`;
}

function report() {
  const byPlace = new Map();
  console.log('');
  for (const mutant of chosen) {
    const isDetected = !survivors.has(mutant.id);
    for (const place of [mutant.file, mutant.file.split('/').slice(0, 2).join('/'), 'total']) {
      const [detected, total] = byPlace.get(place) ?? [0, 0];
      byPlace.set(place, [detected + (isDetected ? 1 : 0), total + 1]);
    }
    if (isDetected) continue;
    const by = tests.filter((test) => reaches(test, mutant)).map(({ path }) => basename(path, '.test.ts'));
    console.log(`not detected: ${told(mutant)}  [${by.join(', ') || 'no unit test reaches it'}]`);
  }
  console.log('');
  for (const [place, [detected, total]] of [...byPlace].sort(([one], [other]) => (one < other ? -1 : 1)))
    console.log(
      `${place.padEnd(32)} ${String(detected).padStart(5)} of ${String(total).padStart(5)}  ${percent(detected, total)} %`,
    );
  const unreached = chosen.filter((mutant) => !tests.some((test) => reaches(test, mutant))).length;
  console.log(
    `detected by the time limit: ${counts.timedOut}; reached by no unit test: ${unreached}; ${seconds()} s`,
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
