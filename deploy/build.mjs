// npm run build, after the types are generated: bundles the sources and the
// packages that they use into dist/.  One file for the daemon and one for each
// command, with the code that they share in chunks, so that a command loads
// only the code that it needs. Native modules stay in node_modules.
import { build } from 'esbuild';
import { cp, mkdir, mkdtemp, rename, rm } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';

const home = fileURLToPath(new URL('..', import.meta.url));
await mkdir(`${home}build`, { recursive: true });
/** Takes the place of dist/ when it is complete: programs may be started from there meanwhile. */
const made = await mkdtemp(`${home}build/dist-`);
const dist = `${made}/dist`;

await build({
  absWorkingDir: home,
  // proto and docs: for the benchmark and the demo, and for the generator of the documents.
  entryPoints: ['src/main.ts', 'src/cri/proto.ts', 'src/cli/docs.ts'],
  outbase: 'src',
  outdir: dist,
  chunkNames: 'chunks/[name]-[hash]',
  bundle: true,
  splitting: true,
  format: 'esm',
  platform: 'node',
  target: 'node20.19',
  // V8 keeps the whole text of the sources in memory. Lines stay short enough for stack traces.
  minifyWhitespace: true,
  lineLimit: 160,
  sourcemap: 'linked',
  sourcesContent: false,
  external: ['bufferutil', 'koffi'],
  legalComments: 'linked',
  // Some packages are CommonJS, and require the modules of Node.
  banner: {
    js: "import { createRequire as createRequireForBundle } from 'node:module'; const require = createRequireForBundle(import.meta.url);",
  },
  logLevel: 'warning',
});
await cp(`${home}src/perl`, `${dist}/perl`, { recursive: true });
await rename(`${home}dist`, `${made}/old`).catch((error) => {
  if (error.code !== 'ENOENT') throw error; // the first build
});
await rename(dist, `${home}dist`);
await rm(made, { recursive: true });
