// Where the code with its mutants runs: jest's environment with the switch in it.
import { createRequire } from 'node:module';
import { trial } from './runner.mjs';

const require = createRequire(import.meta.url);
const { TestEnvironment } = require(
  require.resolve('jest-environment-node', { paths: [require.resolve('jest')] }),
);

export default class MutationEnvironment extends TestEnvironment {
  async setup() {
    await super.setup();
    const { active, reached } = trial;
    this.global.mutant =
      active >= 0
        ? (id) => id === active
        : (id) => {
            reached.add(id);
            return false;
          };
  }

  /** The first failure says enough: the rest of the file is skipped. */
  handleTestEvent({ name, test }) {
    if (name === 'test_done' && test.errors.length > 0) trial.failed ||= nameOf(test);
    if (name === 'test_start' && trial.failed && trial.active >= 0) test.mode = 'skip';
  }
}

function nameOf(test) {
  const names = [];
  for (let at = test; at && at.name !== 'ROOT_DESCRIBE_BLOCK'; at = at.parent) names.unshift(at.name);
  return names.join(' ');
}
