// The second stage of run.mjs: mutants that the unit tests do not detect are tried with integration tests
// that reach them, one run of a file for each, in the built program and in jest.
import { spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { basename } from 'node:path';
import { text } from 'node:stream/consumers';

/**
 * The files of tests that judge: each takes less than a minute, and together they go through all of what the
 * backends do. Those of images, hints and the command line, and those that repeat a whole life many times
 * (failpoints, faults-tools, bad-input), are left out, and lost-monitors: the kernel reports the exits of
 * processes only in its first namespaces (cn_proc).
 */
const judges = {
  integration: [
    ...['cgroup', 'confinement', 'conmon', 'contract', 'host-files', 'limits', 'lost-exits'],
    ...['records', 'rootfs', 'routing', 'shared-pid', 'start', 'stats', 'streaming-pods'],
  ],
  pct: [
    ...['calls', 'choices', 'cluster', 'contract', 'copies', 'errors', 'guard', 'hardware', 'hints', 'hooks'],
    ...['host-files', 'limits', 'lost-watchers', 'pids', 'pods', 'settings', 'streaming', 'units'],
  ],
};
/** Files that a mutant is tried with. */
const most = 4;
/** A file of tests that takes longer is too slow to be repeated for each mutant. */
const slowestFileSeconds = 90;

/**
 * Runs the tests without a mutant.
 * @param {('integration' | 'pct')[]} projects
 * @param {(id: number) => string} sourceOf the source of a mutant
 * @returns those that pass, each with the mutants that it reaches
 */
export async function integrationTests(projects, sourceOf, inParallel) {
  const paths = projects.flatMap((project) =>
    judges[project].map((name) => `test/${project}/${name}.test.ts`),
  );
  const found = [];
  await inParallel(paths, async (path) => {
    const first = await run({ path, seconds: slowestFileSeconds });
    // Again: other work on the machine may be the cause.
    const last = first.passed ? first : await run({ path, seconds: slowestFileSeconds });
    if (!last.passed) {
      console.log(`left out, since it fails without a mutant or takes too long: ${path}: ${last.why}`);
      return;
    }
    found.push({ path, reachedOf: countedBySource(last.reached, sourceOf), ...last });
  });
  return found;
}

/** The number of the mutants in each source. @param {(id: number) => string} sourceOf the source of a mutant */
export function countedBySource(ids, sourceOf) {
  const counts = new Map();
  for (const id of ids) counts.set(sourceOf(id), (counts.get(sourceOf(id)) ?? 0) + 1);
  return counts;
}

/** Tries a mutant with the files that reach most of its source first. */
export async function isDetected({ id, file }, tests) {
  const ofFile = (test) => test.reachedOf.get(file);
  const reaching = tests.filter(({ reached }) => reached.has(id));
  for (const test of reaching.sort((a, b) => ofFile(b) - ofFile(a) || a.ms - b.ms).slice(0, most))
    if (!(await passes(test, id, 1)) && !(await passes(test, id, 2))) return basename(test.path, '.test.ts');
  return undefined;
}

/** @param patience a factor of all time limits: a failure with other work on the machine as its cause is not repeated with more time */
async function passes({ path, ms, slowestMs }, mutant, patience) {
  const seconds = Math.ceil(patience * (20 + (3 * ms) / 1000));
  const testLimitMs = Math.ceil(patience * (5_000 + 2 * slowestMs));
  return (await run({ path, seconds, mutant, testLimitMs, patience })).passed;
}

async function run({ path, seconds, mutant = '', testLimitMs = 60_000, patience = 1 }) {
  const start = performance.now();
  const name = `crisp-mutation-${randomBytes(4).toString('hex')}`;
  const jest = ['--testTimeout', testLimitMs, '--runTestsByPath', path];
  const child = spawn(
    'bash',
    ['/tmp/tree/test/mutation/try.sh', name, seconds, mutant, ...jest].map(String),
    {
      env: { ...process.env, CRISP_TEST_PATIENCE: String(patience) },
      stdio: ['ignore', 'pipe', 'pipe'],
    },
  );
  const [out, said] = await Promise.all([text(child.stdout), text(child.stderr), once(child, 'exit')]);
  const lines = out.split('\n');
  if (lines[0] !== 'ready') throw new Error(`try.sh does not start the tests:\n${said}`);
  const notesOf = (key) =>
    lines.filter((line) => line.startsWith(`${key} `)).map((line) => line.slice(key.length + 1));
  return {
    passed: lines.includes('passed'),
    why: notesOf('failed')[0] ?? (said.trim() || 'it does not end'),
    ms: performance.now() - start,
    slowestMs: Math.max(...notesOf('ms').map(Number), 0),
    reached: new Set(lines.filter((line) => /^\d+$/.test(line)).map(Number)),
  };
}
