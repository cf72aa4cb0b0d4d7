// A runner of jest that runs one file of unit tests after the other, as run.mjs tells
// it to: without a mutant, to see which mutants its tests reach, or with some of
// them in turn.  All in one process: what jest has read and transformed stays.
import { createRequire } from 'node:module';

/** What environment.mjs hands to the code under test, and what it notes. */
export const trial = {
  /** Those to be tried; undefined: the mutants that are reached are noted. */
  mutants: undefined,
  /** The one that is on; -1: none. */
  active: -1,
  /** Reached by tests, and while the file was loaded. */
  reached: new Set(),
  atLoad: new Set(),
  /** A test that waits for what a mutant prevents fails after this time; undefined: as configured. */
  testLimitMs: undefined,
  /** The duration of the slowest test. */
  slowestMs: 0,
  /** The first test that failed with each mutant. */
  failed: new Map(),
  /** Those with which it failed by its time limit. */
  late: new Set(),
  begin(mutant) {
    this.active = mutant;
    process.send({ running: mutant });
  },
};

const require = createRequire(import.meta.url);
const { default: JestRunner } = require(require.resolve('jest-runner', { paths: [require.resolve('jest')] }));

export default class MutationRunner {
  constructor(globalConfig, context) {
    this.runner = new JestRunner(globalConfig, context);
  }

  async runTests(tests, watcher) {
    const byPath = new Map(tests.map((test) => [test.path, test]));
    /** `mutants`: undefined: none. `atLoad`: the first one is on while the file is loaded. */
    const run = async ({ path, mutants, atLoad = false, testLimitMs }) => {
      const active = atLoad ? mutants[0] : -1;
      Object.assign(trial, { mutants, active, testLimitMs, slowestMs: 0 });
      Object.assign(trial, { failed: new Map(), late: new Set(), reached: new Set(), atLoad: new Set() });
      const start = performance.now();
      let broken = '';
      const stop = [
        this.runner.on('test-file-success', ([, result]) => (broken = result.testExecError?.message ?? '')),
        this.runner.on('test-file-failure', ([, error]) => (broken = error.message ?? 'the file')),
      ];
      await this.runner.runTests([byPath.get(path)], watcher, { serial: true });
      for (const end of stop) end();
      return {
        broken,
        failed: [...trial.failed],
        late: [...trial.late],
        ms: performance.now() - start,
        slowestMs: trial.slowestMs,
        reached: [...trial.reached],
        atLoad: [...trial.atLoad],
        bytes: process.memoryUsage().rss,
      };
    };
    process.on('unhandledRejection', () => undefined); // of a mutant that waits for nothing any more; its test has failed or not
    await new Promise((resolve) => {
      process.on('disconnect', resolve);
      process.on('message', async (work) => process.send({ result: await run(work) }));
      process.send({ tests: [...byPath.keys()] });
    });
  }
}
