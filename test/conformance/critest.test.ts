// The whole suite of cri-tools on a daemon of our own, each spec a test here.
//
// critest runs once, while this file is loaded; what it reported is then told
// to jest, so that its specs are counted like all other tests.
// Environment: CRITEST and CRICTL (else from PATH), CRITEST_SKIP (a pattern of
// specs to leave out for now), CRITEST_IMAGES_SCRIPT (makes stand-ins for the
// images of the suite; without it they come from the public registries).
import { describe, expect, test } from '@jest/globals';
import { execFile, execFileSync, spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { mkdir, readFile, symlink, writeFile } from 'node:fs/promises';
import { createServer, type AddressInfo } from 'node:net';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { startDaemon, type Daemon } from '../helpers/daemon.js';
import { diesWithUs } from '../helpers/machine.js';

const run = promisify(execFile);
const here = (path: string): string => fileURLToPath(new URL(path, import.meta.url));
const critest = process.env['CRITEST'] ?? 'critest';
const crictl = process.env['CRICTL'] ?? 'crictl';
const imagesScript = process.env['CRITEST_IMAGES_SCRIPT'] ?? here('../../../shared/tools/critest-images.sh');
/** Kept from run to run: making the images takes a minute. */
const imageCache = process.env['CRITEST_IMAGES'] ?? '/var/tmp/crisp-critest-images';
const suiteTimeoutMs = 15 * 60_000;

interface Spec { readonly name: string; readonly state: string; readonly message: string }
interface Skip { readonly pattern: RegExp; readonly unless: string | undefined; readonly reason: string }

const missing = [critest, crictl].filter((tool) => versionOf(tool) === undefined);
if (missing.length > 0) {
  const how = `critest: ${missing.join(' and ')} not found: get both from https://github.com/kubernetes-sigs/cri-tools/releases, and put them on PATH or name them in CRITEST and CRICTL`;
  process.stderr.write(`${how}\n`);
  if (process.env['CI'] === 'true') test('critest and crictl are installed', () => { throw new Error(how); });
  else test.skip('critest and crictl are not installed', () => undefined);
} else {
  process.stderr.write(`${versionOf(crictl)}; ${versionOf(critest)}\n`);
  const skips = await readSkips();
  const specs = await runSuite(skips);
  describe('critest', () => {
    test('ran its specs', () => { expect(specs.filter(({ state }) => state === 'passed').length).toBeGreaterThan(0); });
    for (const { name, state, message } of specs) {
      const listed = state === 'skipped' && skips.some(({ pattern }) => pattern.test(name));
      if (listed) test.skip(name, () => undefined);
      else test(name, () => { if (state !== 'passed') throw new Error(state === 'skipped' ? `skipped, but not listed in skips.txt: ${message}` : `${state}: ${message}`); });
    }
  });
}

function versionOf(tool: string): string | undefined {
  try { return execFileSync(tool, ['--version'], { encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] }).split('\n')[0]; } catch { return undefined; }
}

async function readSkips(): Promise<Skip[]> {
  const listed: Skip[] = [];
  for (const line of (await readFile(here('skips.txt'), 'utf8')).split('\n')) {
    if (!line.trim() || line.startsWith('#')) continue;
    const [, pattern = '', unless, reason = ''] = /^(\S.*?)(?: unless (\S+))? # (.+)$/.exec(line) ?? [];
    if (!reason) throw new Error(`skips.txt: "${line}" gives no reason`);
    listed.push({ pattern: new RegExp(pattern), unless, reason });
  }
  const extra = process.env['CRITEST_SKIP'];
  if (extra) listed.push({ pattern: new RegExp(extra), unless: undefined, reason: 'left out by CRITEST_SKIP' });
  return listed.filter(({ unless }) => unless === undefined || !existsSync(unless));
}

async function runSuite(skips: readonly Skip[]): Promise<Spec[]> {
  let daemon: Daemon | undefined;
  let registry: ChildProcess | undefined;
  try {
    daemon = await startDaemon({ config: { log_level: 'info' } });
    const images = join(daemon.folder, 'images');
    let program = critest;
    if (existsSync(imagesScript)) {
      registry = await startRegistry(images, await freePort());
      program = join(images, 'critest');
      // One spec pulls by a digest that is a constant of the suite, which no stand-in can have.
      process.stderr.write('critest: its images are stand-ins made from Debian packages, and its one constant image digest is theirs\n');
      await daemon.stop();
      await daemon.writeConfig({ log_level: 'info', images: { registries_conf: join(images, 'registries.conf') } });
      await daemon.start();
    }
    const report = join(daemon.folder, 'report.json');
    const endpoint = `unix://${daemon.socket}`;
    const { stdout, stderr } = await daemon.machine.run([
      program, '--runtime-endpoint', endpoint, '--image-endpoint', endpoint, '--ginkgo.no-color', '--ginkgo.json-report', report,
      ...(registry ? ['--test-images-file', join(images, 'images.yaml')] : []),
      ...skips.map(({ pattern }) => `--ginkgo.skip=${pattern.source}`),
    ], suiteTimeoutMs);
    if (!existsSync(report)) throw new Error(`critest made no report: ${(stdout + stderr).slice(-2000)}`);
    return specsOf(await readFile(report, 'utf8'));
  } finally {
    await daemon?.destroy();
    registry?.kill('SIGKILL');
  }
}

interface ReportedSpec { readonly LeafNodeType: string; readonly ContainerHierarchyTexts: string[] | null; readonly LeafNodeText: string; readonly State: string; readonly Failure?: { readonly Message: string } }

/** The specs, and set-up steps that failed. */
function specsOf(report: string): Spec[] {
  const suites = JSON.parse(report) as { readonly SpecReports: readonly ReportedSpec[] }[];
  return suites.flatMap(({ SpecReports: specs }) => specs)
    .filter((spec) => spec.LeafNodeType === 'It' || spec.State !== 'passed')
    .map((spec) => ({ name: [...spec.ContainerHierarchyTexts ?? [], spec.LeafNodeText || spec.LeafNodeType].join(' / '), state: spec.State, message: spec.Failure?.Message ?? '' }));
}

/** Makes what is not in the cache yet, and serves it on loopback. */
async function startRegistry(folder: string, port: number): Promise<ChildProcess> {
  await run('flock', [`${imageCache}.lock`, 'sh', '-c', '[ -e "$OUT/complete" ] || { bash "$0" build && touch "$OUT/complete"; }', imagesScript], { env: { ...process.env, OUT: imageCache } });
  await mkdir(folder);
  for (const part of ['oci', 'digest', 'refs.txt']) await symlink(join(imageCache, part), join(folder, part));
  const address = `127.0.0.1:${port}`;
  const config = join(folder, 'registry.yml');
  await writeFile(config, `version: 0.1\nlog: { level: warn }\nstorage: { filesystem: { rootdirectory: ${folder}/registry } }\nhttp: { addr: "${address}" }\n`);
  const [tool = '', ...args] = diesWithUs(['docker-registry', 'serve', config]);
  const registry = spawn(tool, args, { stdio: 'ignore' });
  try {
    const gone = once(registry, 'exit').then(() => { throw new Error('docker-registry ended at once'); });
    await Promise.race([answers(`http://${address}/v2/`), gone]);
    const env = { ...process.env, OUT: folder, REGISTRY: address, CRITEST_IN: await pathOf(critest), CRITEST_OUT: join(folder, 'critest') };
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
    try { if ((await fetch(url)).ok) return; } catch (error) { if (tries > 100) throw error; }
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

async function pathOf(tool: string): Promise<string> {
  return tool.includes('/') ? tool : (await run('sh', ['-c', 'command -v "$0"', tool])).stdout.trim();
}

async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;
  await new Promise((resolve) => { server.close(resolve); });
  return port;
}
