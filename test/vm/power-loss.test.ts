// A machine that loses its power: after a pull was answered, and with a pod, a
// container and half a pull. After the boot no half image and no half record is
// used, nothing of the former boot is shown as running, and its addresses and
// folders are free again.
//
// The power loss is a SIGKILL to qemu, with cache=writeback: what the machine had
// sent to its disk survives in the page cache of the host, whether it was flushed or
// not. So this loses what was only in the memory of the machine: the files of
// layers, which containers-storage does not flush, are empty then. A disk that loses
// writes of its own volatile cache is not emulated.
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { createHash, randomBytes } from 'node:crypto';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { makeLayout } from '../helpers/image.js';
import { startProxy, startRegistry, type Proxy, type Registry } from '../helpers/registry.js';
import { removePods, runPod, startContainer, traces, waitForExit, type Pod } from './pods.js';
import { Vm } from './vm.js';

type Files = Record<string, Buffer>;

let folder: string;
let registry: Registry;
let proxy: Proxy;
let vm: Vm;
/** What a machine without pods has. */
let clean: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'crisp-power-'));
  registry = await startRegistry(folder);
  proxy = await startProxy(registry);
  vm = await Vm.start({ ownDisk: true });
  await reachRegistry();
  clean = await traces(vm);
});
afterAll(async () => {
  await vm?.stop();
  await proxy?.close();
  await registry?.close();
  await rm(folder, { recursive: true, force: true });
});

const reachRegistry = (): Promise<void> => vm.reach(Number(proxy.address.split(':')[1]));

/** Layers of one large file and many small ones, bottom first. */
const madeLayers = (): Files[] =>
  [0, 1, 2].map((layer) =>
    Object.fromEntries<Buffer>([
      [`large-${layer}`, randomBytes(1 << 20)],
      ...Array.from({ length: 50 }, (_, at) => [`small-${layer}/${at}`, randomBytes(500)] as const),
    ]),
  );

/** Pushes an image; its name, and the digests of its layers. */
async function pushed(
  name: string,
  layers: readonly Files[],
): Promise<{ name: string; blobs: readonly string[] }> {
  const made = await makeLayout(folder, { layers });
  await registry.push(made, name);
  return { name: `${proxy.address}/${name}`, blobs: made.manifests[0]?.layers ?? [] };
}

/** The files of an image, as they are on the disk of the machine: "MD5  PATH" lines. */
async function filesOf(name: string): Promise<string[]> {
  const { info } = JSON.parse(await vm.must(`crictl inspecti ${name}`)) as { info: { layers: string[] } };
  const folders = info.layers.join(' ');
  const sums = await vm.must(`for layer in ${folders}; do cd $layer; find * -type f -exec md5sum {} +; done`);
  return sums.split('\n').sort();
}
function sumsOf(layers: readonly Files[]): string[] {
  return layers
    .flatMap((files) => Object.entries(files))
    .map(([path, content]) => `${createHash('md5').update(content).digest('hex')}  ${path}`)
    .sort();
}

/** A script that fails unless the store has the layers of these blobs, unpacked. */
const wholeLayers = `
const list = JSON.parse(require("fs").readFileSync("/var/lib/crisp/storage/overlay-layers/layers.json"));
const whole = list.filter(({ flags }) => !flags?.incomplete).map((layer) => layer["compressed-diff-digest"]);
process.exit(process.argv.slice(1).every((blob) => whole.includes(blob)) ? 0 : 1);`;

/** The power comes back; the unit starts within the time that systemd gives it. */
async function powerReturns(): Promise<void> {
  await vm.boot();
  await reachRegistry();
}

async function expectReady(): Promise<void> {
  expect(await vm.must('systemctl is-active crisp')).toBe('active');
  expect(await vm.must('systemctl show --value --property=NRestarts crisp')).toBe('0');
  expect(await vm.must('crisp status')).toMatch(/^RuntimeReady: yes$/m);
  // No record and no image is set aside because it cannot be read.
  expect(JSON.parse(await vm.must('crisp status --json'))).toMatchObject({ healthy: true });
  expect(await vm.must('journalctl -b -u crisp -o cat | grep "set aside" || true')).toBe('');
}

describe('right after a pull was answered', () => {
  const layers = madeLayers();
  let name: string;
  beforeAll(async () => {
    ({ name } = await pushed('answered:1', layers));
    await vm.must(`crictl pull ${name}`);
    await vm.losePower();
    await powerReturns();
  });

  test('the daemon is ready', expectReady);

  test('the image is whole', async () => {
    expect(await filesOf(name)).toEqual(sumsOf(layers));
    expect(await vm.must('crisp check --images')).toMatch(/^0 failures, 0 warnings$/m);
  });
});

describe('with a pod, a container and half a pull', () => {
  const layers = madeLayers();
  let name: string;
  let pod: Pod;
  let running: string;
  beforeAll(async () => {
    const image = await pushed('half:1', layers);
    ({ name } = image);
    const [, , last] = image.blobs;
    proxy.intercept((_response, _request, blob) => blob === last); // never answered
    await vm.must(`(crictl pull ${name} >/dev/null 2>&1 &) </dev/null`);
    pod = await runPod(vm);
    running = await startContainer(vm, pod, 'sleep 1000');
    await vm.until(`node -e '${wholeLayers}' ${image.blobs.slice(0, 2).join(' ')}`);
    await startContainer(vm, pod, 'sleep 1000');
    await vm.losePower();
    proxy.intercept(undefined);
    await powerReturns();
  });

  test('the daemon is ready', expectReady);

  test('nothing of the former boot is shown or left', async () => {
    expect(await vm.must('crictl pods -q; crictl ps -a -q')).toBe('');
    expect((await vm.run(`crictl inspect ${running}`)).stderr).toContain('NotFound');
    expect(await traces(vm)).toBe(clean);
  });

  test('the half image is not there, and its layers are not used by the next pull', async () => {
    expect((await vm.run(`crictl inspecti ${name}`)).exitCode).not.toBe(0);
    await vm.must(`crictl pull ${name}`);
    expect(await filesOf(name)).toEqual(sumsOf(layers));
    expect(await vm.must('crisp check --images')).toMatch(/^0 failures, 0 warnings$/m);
  });

  test('the same pod runs again', async () => {
    const again = await runPod(vm, pod.config);
    const container = await startContainer(vm, again, 'exit 3');
    expect(await waitForExit(vm, container)).toMatchObject({ exitCode: 3 });
    await removePods(vm);
    expect(await traces(vm)).toBe(clean);
  });
});
