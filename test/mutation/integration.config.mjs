// The integration and pct tests, as try.sh runs them in its copy of the tree.
import config from '../../jest.config.mjs';

const integration = config.projects.find(({ displayName }) => displayName === 'integration');
export default {
  ...integration,
  displayName: undefined,
  rootDir: '../..',
  testMatch: ['integration', 'pct'].map((folder) => `<rootDir>/test/${folder}/*.test.ts`),
  testEnvironment: '<rootDir>/test/mutation/integration-environment.mjs',
  reporters: [],
  silent: true,
};
