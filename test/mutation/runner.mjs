// A runner of jest that runs the unit tests once to see which mutants each file of
// tests reaches, and then one file after the other with one mutant switched on, as
// run.mjs tells it to.  All in one process: what jest has read and transformed stays.
import { createRequire } from 'node:module';

/** What environment.mjs hands to the code under test: the mutant that is on, and which ones were reached. */
export const trial = { active: -1, reached: new Set(), failed: '' };

const require = createRequire(import.meta.url);
const { default: JestRunner } = require(require.resolve('jest-runner', { paths: [require.resolve('jest')] }));

export default class MutationRunner {
  constructor(globalConfig, context) {
    this.runner = new JestRunner(globalConfig, context);
  }

  async runTests(tests, watcher) {
    const byPath = new Map(tests.map((test) => [test.path, test]));
    const run = async (path, mutant) => {
      Object.assign(trial, { active: mutant, reached: new Set(), failed: '' });
      const start = performance.now();
      let failed = '';
      const stop = [
        this.runner.on('test-file-success', ([, result]) => {
          if (result.testExecError) failed = result.testExecError.message;
          else if (result.numFailingTests > 0) failed = trial.failed || 'a hook of the file';
        }),
        this.runner.on('test-file-failure', ([, error]) => (failed = error.message ?? 'the file')),
      ];
      await this.runner.runTests([byPath.get(path)], watcher, { serial: true });
      for (const end of stop) end();
      return { failed, ms: performance.now() - start, reached: [...trial.reached] };
    };
    process.on('unhandledRejection', () => undefined); // of a mutant that waits for nothing any more; its test has failed or not
    await new Promise((resolve) => {
      process.on('disconnect', resolve);
      process.on('message', async ({ mutant, paths }) => {
        const results = [];
        for (const path of paths) {
          process.send({ running: path });
          results.push({ path, ...(await run(path, mutant)) });
          if (mutant >= 0 && results.at(-1).failed) break;
        }
        process.send({ results, bytes: process.memoryUsage().rss });
      });
      process.send({ tests: [...byPath.keys()] });
    });
  }
}
