// The whole suite of cri-tools, run on a daemon of our own, once for each runtime
// (CTs: on the fake of pct around the real liblxc).
//
// Environment: CRITEST and CRICTL (else from PATH), CRITEST_SKIP (a pattern of
// specs to leave out for now), CRITEST_IMAGES_SCRIPT (makes stand-ins for the
// images of the suite; without it they come from the public registries).
import { execFile, execFileSync, spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { mkdir, readFile, rm, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { startDaemon, type Daemon } from '../helpers/daemon.js';
import { diesWithUs } from '../helpers/machine.js';
import { freePort } from '../helpers/port.js';
import { Node } from '../pct/node.js';

const run = promisify(execFile);
const here = (path: string): string => fileURLToPath(new URL(path, import.meta.url));
export const critest = process.env['CRITEST'] ?? 'critest';
export const crictl = process.env['CRICTL'] ?? 'crictl';
const imagesScript = process.env['CRITEST_IMAGES_SCRIPT'] ?? here('../../../shared/tools/critest-images.sh');
/** Kept from run to run: making the images takes a minute. */
const imageCache = process.env['CRITEST_IMAGES'] ?? '/var/tmp/crisp-critest-images';
const suiteTimeoutMs = 15 * 60_000;

/** One pass of the suite over one runtime. */
export interface Pass {
  readonly name: string;
  /** The handler that every pod gets. */
  readonly handler: string;
  readonly arguments: readonly string[];
}

/**
 * critest runs its benchmarks alone: here with small numbers, for their results, not for their durations. The
 * WebSocket switches change the streaming specs alone (pkg/validate/streaming.go of cri-tools), so only those
 * run again.
 */
export const passes: readonly Pass[] = [
  { name: 'crun', handler: 'crun', arguments: [] },
  { name: 'runc', handler: 'runc', arguments: [] },
  { name: 'CTs', handler: 'lxc', arguments: [] },
  {
    name: 'crun, benchmarks',
    handler: 'crun',
    arguments: ['--benchmark', '--benchmarking-params-file', here('benchmarks.yaml')],
  },
  {
    name: 'crun, WebSocket',
    handler: 'crun',
    arguments: [
      '--websocket-exec',
      '--websocket-attach',
      '--websocket-portforward',
      '--ginkgo.focus-file=streaming.go',
    ],
  },
];

export interface Spec {
  readonly name: string;
  readonly state: string;
  readonly message: string;
}
export interface Skip {
  readonly pattern: RegExp;
  /** A file of the host: where it exists, the specs are run. */
  readonly unless: string | undefined;
  /** The only pass that skips them; undefined: all do. */
  readonly pass: string | undefined;
  /** critest itself may skip them, if the runtime does not support them; otherwise they are not run. */
  readonly byCritest: boolean;
  readonly reason: string;
}

/** The first line of a tool's --version; undefined: it is not installed. */
export function versionOf(tool: string): string | undefined {
  try {
    return execFileSync(tool, ['--version'], { encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] }).split(
      '\n',
    )[0];
  } catch {
    return undefined;
  }
}

/** The specs that are not run on any host (`unless` undefined) or not on this one, from skips.txt. */
export async function readSkips(): Promise<Skip[]> {
  const listed: Skip[] = [];
  for (const line of (await readFile(here('skips.txt'), 'utf8')).split('\n')) {
    if (!line.trim() || line.startsWith('#')) continue;
    const [, pattern = '', unless, byCritest, pass, reason = ''] =
      /^(\S.*?)(?: unless (\S+))?(?: (by critest )?on (crun|runc|CTs))? # (.+)$/.exec(line) ?? [];
    if (!reason) throw new Error(`skips.txt: "${line}" gives no reason`);
    listed.push({ pattern: new RegExp(pattern), unless, pass, byCritest: byCritest !== undefined, reason });
  }
  const extra = process.env['CRITEST_SKIP'];
  if (extra)
    listed.push({
      pattern: new RegExp(extra),
      unless: undefined,
      pass: undefined,
      byCritest: false,
      reason: 'left out by CRITEST_SKIP',
    });
  return listed.filter(({ unless }) => unless === undefined || !existsSync(unless));
}

/** Runs every pass, one after the other: the suite uses fixed ports. @returns the specs of each */
export async function runSuite(skips: readonly Skip[]): Promise<Map<Pass, Spec[]>> {
  let daemon: Daemon | undefined;
  let registry: ChildProcess | undefined;
  const node = await Node.start();
  try {
    daemon = await startDaemon();
    const images = join(daemon.folder, 'images');
    if (existsSync(imagesScript)) {
      registry = await startRegistry(images, await freePort());
      // One spec pulls by a digest that is a constant of the suite, which no stand-in can have.
      process.stderr.write(
        'critest: its images are stand-ins made from Debian packages, and its one constant image digest is theirs\n',
      );
    }
    const results = new Map<Pass, Spec[]>();
    for (const pass of passes)
      results.set(pass, await runPass(daemon, node, pass, registry && images, skips));
    return results;
  } finally {
    await daemon?.destroy();
    await node.stop();
    registry?.kill('SIGKILL');
  }
}

/** @param images the folder of the stand-ins, with the suite's program that knows their digest */
async function runPass(
  daemon: Daemon,
  node: Node,
  pass: Pass,
  images: string | undefined,
  skips: readonly Skip[],
): Promise<Spec[]> {
  await daemon.writeConfig({
    ...(pass.handler === 'lxc' ? node.config() : {}),
    log_level: 'info',
    default_container_type: pass.handler,
    fallback: {},
    ...(images ? { images: { registries_conf: join(images, 'registries.conf') } } : {}),
  });
  await daemon.restart();
  const report = join(daemon.folder, 'report.json');
  await rm(report, { force: true });
  const endpoint = `unix://${daemon.socket}`;
  const { stdout, stderr } = await daemon.machine.run(
    [
      images ? join(images, 'critest') : critest,
      '--runtime-endpoint',
      endpoint,
      '--image-endpoint',
      endpoint,
      '--ginkgo.no-color',
      '--ginkgo.json-report',
      report,
      ...(images ? ['--test-images-file', join(images, 'images.yaml')] : []),
      ...pass.arguments,
      ...skips
        .filter((skip) => !skip.byCritest && (skip.pass ?? pass.name) === pass.name)
        .map(({ pattern }) => `--ginkgo.skip=${pattern.source}`),
    ],
    suiteTimeoutMs,
  );
  if (!existsSync(report)) throw new Error(`critest made no report: ${(stdout + stderr).slice(-2000)}`);
  const specs = specsOf(await readFile(report, 'utf8'));
  // ginkgo reports specs outside of its focus as skipped, without a message, and also those that critest excludes: benchmarks, and with --benchmark all others.
  const focused = pass.arguments.some((argument) => /^--(ginkgo\.focus|benchmark$)/.test(argument));
  return specs.filter(
    ({ name, state, message }) => state !== 'skipped' || message !== '' || !(focused || isBenchmark(name)),
  );
}

const isBenchmark = (name: string): boolean => name.includes('/ benchmark ');

interface ReportedSpec {
  readonly LeafNodeType: string;
  readonly ContainerHierarchyTexts: string[] | null;
  readonly LeafNodeText: string;
  readonly State: string;
  readonly Failure?: { readonly Message: string };
}

/** The specs, and set-up steps that failed. */
function specsOf(report: string): Spec[] {
  const suites = JSON.parse(report) as { readonly SpecReports: readonly ReportedSpec[] }[];
  return suites
    .flatMap(({ SpecReports: specs }) => specs)
    .filter((spec) => spec.LeafNodeType === 'It' || spec.State !== 'passed')
    .map((spec) => ({
      name: [...(spec.ContainerHierarchyTexts ?? []), spec.LeafNodeText || spec.LeafNodeType].join(' / '),
      state: spec.State,
      message: spec.Failure?.Message ?? '',
    }));
}

/** Makes the images that are not in the cache yet, and serves them on loopback. */
async function startRegistry(folder: string, port: number): Promise<ChildProcess> {
  await run('flock', [`${imageCache}.lock`, 'bash', here('images.sh'), imagesScript], {
    env: { ...process.env, OUT: imageCache },
  });
  await mkdir(folder);
  for (const part of ['oci', 'digest', 'refs.txt']) await symlink(join(imageCache, part), join(folder, part));
  const address = `127.0.0.1:${port}`;
  const config = join(folder, 'registry.yml');
  await writeFile(
    config,
    `version: 0.1\nlog: { level: warn }\nstorage: { filesystem: { rootdirectory: ${folder}/registry } }\nhttp: { addr: "${address}" }\n`,
  );
  const [tool = '', ...args] = diesWithUs(['docker-registry', 'serve', config]);
  const registry = spawn(tool, args, { stdio: 'ignore' });
  try {
    const gone = once(registry, 'exit').then(() => {
      throw new Error('docker-registry ended at once');
    });
    await Promise.race([answers(`http://${address}/v2/`), gone]);
    const env = {
      ...process.env,
      OUT: folder,
      REGISTRY: address,
      CRITEST_IN: await pathOf(critest),
      CRITEST_OUT: join(folder, 'critest'),
    };
    for (const step of ['files', 'push']) await run('bash', [imagesScript, step], { env });
    gone.catch(() => undefined);
    return registry;
  } catch (error) {
    registry.kill('SIGKILL');
    throw error;
  }
}

async function answers(url: string): Promise<void> {
  for (let tries = 0; ; tries++) {
    try {
      if ((await fetch(url)).ok) return;
    } catch (error) {
      if (tries > 100) throw error;
    }
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

async function pathOf(tool: string): Promise<string> {
  return tool.includes('/') ? tool : (await run('sh', ['-c', 'command -v "$0"', tool])).stdout.trim();
}
