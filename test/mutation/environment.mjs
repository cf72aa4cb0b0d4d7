// Where the code with its mutants runs: the environment of the tests, with the switch
// in it.  A file is loaded once for many mutants, and its tests are repeated for each.
import Watched from '../environment.mjs';
import { trial } from './runner.mjs';

export default class MutationEnvironment extends Watched {
  async setup() {
    await super.setup();
    const { reached, atLoad } = trial;
    let hasLoaded = false;
    this.hasLoaded = () => (hasLoaded = true);
    this.global.mutant = trial.mutants
      ? (id) => id === trial.active
      : (id) => {
          (hasLoaded ? reached : atLoad).add(id);
          return false;
        };
  }

  handleTestEvent(event, state) {
    super.handleTestEvent(event);
    const { name, test, describeBlock } = event;
    if (name === 'run_start') {
      this.hasLoaded();
      if (trial.mutants) repeat(state.rootDescribeBlock, trial.mutants);
      if (trial.testLimitMs) state.testTimeout = trial.testLimitMs;
    }
    if (name === 'test_done') trial.slowestMs = Math.max(trial.slowestMs, test.duration ?? 0);
    if (name === 'run_describe_start' && describeBlock.mutant !== undefined)
      trial.begin(describeBlock.mutant);
    if (name === 'test_done' && test.errors.length > 0 && !trial.failed.has(trial.active)) {
      trial.failed.set(trial.active, nameOf(test));
      if (test.errors.every(isTimeout)) trial.late.add(trial.active);
    }
    // The first failure says enough: the rest is skipped.
    if (name === 'test_start' && trial.mutants && trial.failed.has(trial.active)) test.mode = 'skip';
  }
}

/** Replaces the tests of a file by copies of them for each mutant. */
function repeat(root, mutants) {
  const { children } = root;
  root.children = mutants.map((mutant) => {
    const block = { ...root, name: `mutant ${mutant}`, parent: root, hooks: [], mutant };
    return Object.assign(block, { children: children.map((child) => copyOf(child, block)) });
  });
}

function copyOf(node, parent) {
  const copy = { ...node, parent, errors: [], retryReasons: [] };
  if (node.children) copy.children = node.children.map((child) => copyOf(child, copy));
  return copy;
}

/** An error of jest is itself, or a pair with the place of the test. */
function isTimeout(error) {
  return /^Exceeded timeout of/.test([error].flat()[0]?.message ?? '');
}

function nameOf(test) {
  const names = [];
  for (let at = test; at.parent; at = at.parent) names.unshift(at.name);
  return names.filter((name) => !/^mutant -?\d+$/.test(name)).join(' ');
}
