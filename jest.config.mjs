// Unit tests beside the sources, integration tests on real parts, the conformance
// suite of cri-tools, the kubelet, and a VM.
const common = {
  transform: {
    '^.+\\.ts$': [
      '@swc/jest',
      { jsc: { parser: { syntax: 'typescript' }, target: 'es2022' }, module: { type: 'es6' } },
    ],
  },
  extensionsToTreatAsEsm: ['.ts'],
  moduleNameMapper: { '^(\\.{1,2}/.*)\\.js$': '$1' },
  testEnvironment: '<rootDir>/test/environment.mjs',
  modulePathIgnorePatterns: ['<rootDir>/build/'],
};
export default {
  projects: [
    {
      ...common,
      displayName: 'unit',
      testMatch: ['<rootDir>/src/**/*.test.ts'],
      setupFilesAfterEnv: ['<rootDir>/test/unit.mjs'],
    },
    { ...common, displayName: 'integration', testMatch: ['<rootDir>/test/integration/**/*.test.ts'] },
    { ...common, displayName: 'conformance', testMatch: ['<rootDir>/test/conformance/*.test.ts'] },
    { ...common, displayName: 'kubelet', testMatch: ['<rootDir>/test/kubelet/*.test.ts'] },
    { ...common, displayName: 'pct', testMatch: ['<rootDir>/test/pct/*.test.ts'] },
    { ...common, displayName: 'load', testMatch: ['<rootDir>/test/load/*.test.ts'] },
    { ...common, displayName: 'vm', testMatch: ['<rootDir>/test/vm/*.test.ts'] },
  ],
  testTimeout: 60_000,
};
