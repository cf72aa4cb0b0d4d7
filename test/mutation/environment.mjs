// Where the code with its mutants runs: the environment of the tests with the switch in it.
import Watched from '../environment.mjs';
import { trial } from './runner.mjs';

export default class MutationEnvironment extends Watched {
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
  handleTestEvent(event) {
    super.handleTestEvent(event);
    const { name, test } = event;
    if (name === 'test_done' && test.errors.length > 0) trial.failed ||= nameOf(test);
    if (name === 'test_start' && trial.failed && trial.active >= 0) test.mode = 'skip';
  }
}

function nameOf(test) {
  const names = [];
  for (let at = test; at.parent; at = at.parent) names.unshift(at.name);
  return names.join(' ');
}
