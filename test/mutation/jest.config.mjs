// The unit tests, as run.mjs runs them in its copy of the tree.
import config from '../../jest.config.mjs';

const unit = config.projects.find(({ displayName }) => displayName === 'unit');
export default {
  ...unit,
  displayName: undefined,
  rootDir: '../..',
  runner: '<rootDir>/test/mutation/runner.mjs',
  testEnvironment: '<rootDir>/test/mutation/environment.mjs',
  reporters: [],
  silent: true,
  setupFilesAfterEnv: [],
  // Without a mutant; with one, run.mjs sets the limit of each test.
  testTimeout: 30_000,
};
