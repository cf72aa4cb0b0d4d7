// The rules of docs/adr/ADR-001.md, each with its place in the code and the tests
// that hold it: the first part of the conformance report. src/documents.test.ts
// checks that all of them exist and that the report has them.

export interface Rule {
  readonly rule: string;
  /** A file, and a text in it. */
  readonly place: readonly [string, string];
  /** A file, and the name of a test in it. */
  readonly tests: readonly (readonly [string, string])[];
}

export const rules: readonly Rule[] = [
  {
    rule: 'All routing goes through one function',
    place: ['src/config/router.ts', 'chooseHandler'],
    tests: [
      [
        'src/architecture.test.ts',
        'the router alone chooses the handler of a pod or of a standalone container',
      ],
      [
        'test/integration/routing.test.ts',
        'a rule, a name pattern and a RuntimeClass select the handler, and the status names which',
      ],
    ],
  },
  {
    rule: 'The command line reaches backends only through the router',
    place: ['src/cli/backend.ts', 'routeTo'],
    tests: [
      ['src/architecture.test.ts', '%s knows no concrete backend'],
      ['src/architecture.test.ts', 'a new container gets the backend that the router chose'],
    ],
  },
  {
    rule: 'The life of a CT goes through pct alone',
    place: ['src/backends/pct/pct.ts', 'class Pct'],
    tests: [
      [
        'src/architecture.test.ts',
        'pct manages their lifecycle: no other program creates, starts, stops or destroys one',
      ],
      ['test/pct/pods.test.ts', 'the lifecycle of a pod, with its output and its exit code'],
    ],
  },
  {
    rule: 'crun and runc are at parity',
    place: ['src/backends/oci/backend.ts', 'class OciBackend'],
    tests: [
      ['src/architecture.test.ts', 'crun and runc have one implementation, which names neither'],
      ['test/helpers/contract.ts', 'runs through its lifecycle, and leaves nothing behind'],
    ],
  },
  {
    rule: 'crun comes first, runc is its fallback, and a RuntimeClass has none',
    place: ['src/config/router.ts', 'withFallbacks'],
    tests: [
      [
        'test/integration/routing.test.ts',
        'with a broken crun, pods run on runc, and each pod keeps its handler',
      ],
      ['src/config/router.test.ts', 'never replaces a handler that the pod requests'],
    ],
  },
];

export const architecture: readonly string[] = [
  '## The architecture against ADR-001',
  '',
  'The rules of [ADR-001](../adr/ADR-001.md); a unit test checks that each place and each test exists.',
  '',
  '| rule | place in the code | held by |',
  '| --- | --- | --- |',
  ...rules.map(({ rule, place: [file, text], tests }) => {
    const held = tests.map(([test, name]) => `\`${test}\`: ${name.replace('%s', '(each file)')}`);
    return `| ${rule} | \`${text}\` in \`${file}\` | ${held.join('; ')} |`;
  }),
];
