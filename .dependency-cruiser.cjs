// Who may import whom: the rooms of docs/architecture/OVERVIEW.md.
//
//   main -> cli, daemon -> cri -> the nouns (records, pod, config, oci, backends/backend,
//   network, images, streaming) -> host -> shapes
//   errors, log, metrics, steps and set-aside: open to all
const rule = (name, comment, from, to) => ({ name, comment, severity: 'error', from, to });
const nouns = '^src/(records|pod|config|oci|network|images|streaming|backends)/';
// The record of a pod or container holds the CRI message as received, so its type and its shape are open to all; they are no story.
const criCode = { path: '^src/cri/', pathNot: '^src/cri/(generated/|proto\\.ts$)' };

module.exports = {
  forbidden: [
    rule('no-cycles', 'A cycle has no bottom to start reading at.', {}, { circular: true }),
    rule(
      'one-caller-of-the-kernel',
      'What Node cannot do is one module of system calls, and one of libseccomp.',
      { pathNot: '^src/host/(syscalls|seccomp)\\.ts$' },
      { path: '(^|/)node_modules/koffi/' },
    ),
    rule(
      'one-runner',
      'All commands go through host/run.ts.',
      { pathNot: '^src/host/run\\.ts$' },
      { path: '^src/host/spawn\\.ts$' },
    ),
    rule(
      'no-fork-of-the-daemon',
      'execa forks, and only the command line may wait for that.',
      { pathNot: '^src/cli/tool\\.ts$' },
      { path: '(^|/)node_modules/execa/' },
    ),
    rule(
      'no-child-process',
      'All commands go through host/run.ts.',
      { pathNot: '\\.test\\.ts$|^test/' },
      { path: '^(node:)?child_process$' },
    ),
    rule(
      'stories-run-nothing',
      'A story speaks to the nouns; they run commands.',
      { path: '^src/cri/' },
      { path: '^src/host/run\\.ts$' },
    ),
    rule(
      'stories-know-no-backend',
      'A story knows backends by their interface.',
      { path: '^src/(cri|records|pod|network|images|oci)/' },
      { path: '^src/backends/(?!backend\\.ts$)' },
    ),
    rule(
      'oci-knows-no-pct',
      'The backends know nothing of each other.',
      { path: '^src/backends/oci/' },
      { path: '^src/backends/pct/' },
    ),
    rule(
      'pct-knows-no-oci',
      'The backends know nothing of each other.',
      { path: '^src/backends/pct/' },
      { path: '^src/backends/oci/' },
    ),
    rule(
      'backends-speak-oci',
      'No CRI type enters a backend.',
      { path: '^src/backends/' },
      { path: '^src/cri/' },
    ),
    rule(
      'streaming-knows-no-containers',
      'streaming/ is HTTP.',
      { path: '^src/streaming/', pathNot: '\\.test\\.ts$' },
      { path: '^src/(cri|cli|records|pod|images|network|oci|host|backends)/' },
    ),
    rule('nouns-know-no-stories', 'What is called does not call back.', { path: nouns }, criCode),
    rule(
      'host-is-the-ground',
      'host/ knows the machine, and nothing above it.',
      { path: '^src/host/', pathNot: '\\.test\\.ts$' },
      { path: '^src/', pathNot: '^src/host/|^src/(errors|log|metrics|steps|installed)\\.ts$|^src/shapes/' },
    ),
    rule(
      'shapes-are-leaves',
      'A shape is a type that several rooms share; it imports shapes alone, so no circle runs through it.',
      { path: '^src/shapes/' },
      { path: '^src/', pathNot: '^src/shapes/' },
    ),
    rule(
      'errors-need-nothing',
      'errors and log are open to all, so they use nobody.',
      { path: '^src/(errors|log)\\.ts$' },
      { path: '^src/', pathNot: '^src/(errors|log)\\.ts$' },
    ),
    rule(
      'pure-spec',
      'oci/ makes config.json from facts; bundle is its hand, the others named here its eyes.',
      {
        path: '^src/oci/',
        pathNot:
          '^src/oci/(bundle|inspect|working-folder|host-facts|host-devices|cdi|capabilities)\\.ts$|\\.test\\.ts$',
      },
      { path: '^src/host/|^(node:)?(fs|fs/promises|net|http)$' },
    ),
    rule(
      'command-line-needs-no-daemon',
      'The standalone commands use the nouns; only serve loads the daemon.',
      { path: '^src/cli/', pathNot: '^src/cli/serve\\.ts$' },
      { path: '^src/daemon\\.ts$' },
    ),
    rule(
      'only-the-entry-starts',
      'main and daemon are the roots.',
      { path: '^src/', pathNot: '^src/(main|daemon)\\.ts$|^src/cli/serve\\.ts$' },
      { path: '^src/(main|daemon)\\.ts$' },
    ),
    rule(
      'no-tests-in-the-product',
      'Tests import the product, not the other way.',
      { path: '^src/', pathNot: '\\.test\\.ts$' },
      { path: '\\.test\\.ts$|^test/' },
    ),
    rule(
      'declared',
      'What is imported is in package.json.',
      { path: '^src/' },
      { dependencyTypes: ['npm-no-pkg', 'npm-unknown', 'unknown'] },
    ),
    rule('there', 'What is imported exists.', { path: '^src/' }, { couldNotResolve: true }),
  ],
  options: {
    doNotFollow: { path: 'node_modules' },
    tsPreCompilationDeps: 'specify',
    tsConfig: { fileName: 'tsconfig.json' },
    enhancedResolveOptions: { exportsFields: ['exports'], conditionNames: ['import', 'node', 'default'] },
  },
};
