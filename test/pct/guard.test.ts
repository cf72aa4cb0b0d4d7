// The guard rail, tested through the socket: foreign guests are never changed, with any
// records and any call with any id.
import { afterAll, beforeAll, expect, test as testAll } from '@jest/globals';
import { execFile } from 'node:child_process';
import { randomInt } from 'node:crypto';
import { copyFile, mkdir, readFile, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { promisify } from 'node:util';
import { loadProto } from '../../src/cri/proto.js';
import type { Client } from '../helpers/client.js';
import type { Daemon } from '../helpers/daemon.js';
import {
  containerConfig,
  createContainer,
  podConfig,
  removePod,
  runPod,
  startContainer,
  testImage,
  untilStopped,
} from '../helpers/requests.js';
import { isReal, Node } from './node.js';

// On a real node it would put marked copies beside the guests of others.
const test = isReal ? testAll.skip : testAll;

const runFile = promisify(execFile);
/** The control group of a CT is called after its id, and is no other test's. */
const running = 910_000 + randomInt(80_000);
let node: Node;
let daemon: Daemon;
beforeAll(async () => {
  [node, daemon] = await Node.withDaemon();
});
afterAll(() => node?.stop());

const pct = async (...args: string[]): Promise<string> =>
  (await runFile(join(node.folder, 'bin/pct'), args)).stdout;

/** The faults by which a guest does not belong to a container: each alone is enough. */
const faults = ['range', 'tag', 'owner', 'clone', 'container', 'twice', 'snapshot'] as const;
type Fault = (typeof faults)[number];

/** A valid id that no container has, and that is listed before ours. */
function tamperedId(vmid: number): string {
  return `000${vmid}`.padEnd(64, '0');
}

/** The configuration of a CT for the container `id`, with faults. @param other an existing container */
function withFaults(
  ours: string,
  vmid: number,
  id: string,
  other: string,
  wrong: ReadonlySet<Fault>,
): string {
  const line =
    (key: string, value: string) =>
    (text: string): string =>
      text.replace(new RegExp(`^#${key}%3A .*$`, 'm'), `#${key}%3A ${value}`);
  return [
    line('crisp-container', wrong.has('container') ? other : id),
    ...(wrong.has('clone') ? [] : [line('crisp-vmid', String(vmid))]),
    ...(wrong.has('owner') ? [line('crisp-owner', 'pve2 /run/crisp')] : []),
    ...(wrong.has('tag') ? [(text: string): string => text.replace(/^tags: .*$/m, 'tags: web')] : []),
    ...(wrong.has('twice') ? [(text: string): string => `#crisp-container%3A other\n${text}`] : []),
    ...(wrong.has('snapshot') ? [(text: string): string => `hostname: y\n[snapshot]\n${text}`] : []),
  ].reduce((text, change) => change(text), ours);
}

interface Foreign {
  readonly vmid: number;
  readonly id: string;
  readonly path: string;
  readonly text: string;
}

/** One guest for each fault, some with several, and foreign guests: CTs, VMs, guests of another node. */
function foreignGuests(ours: string, other: string): Foreign[] {
  const several = Array.from({ length: 5 }, () => faults.filter(() => randomInt(2) === 1)).filter(
    (wrong) => wrong.length > 1,
  );
  const copies = [...faults.map((fault) => [fault]), ...several].map((wrong, index) => {
    const [vmid, id] = [
      wrong.includes('range') ? 101 + index : 900_010 + index,
      tamperedId(wrong.includes('range') ? 101 + index : 900_010 + index),
    ];
    return {
      vmid,
      id,
      path: `pve/lxc/${vmid}.conf`,
      text: withFaults(ours, vmid, id, other, new Set(wrong)),
    };
  });
  const others = [
    ['pve/lxc/900051.conf', 'hostname: web\ntags: crisp\n'],
    ['pve/lxc/900052.conf', 'lock: backup\nhostname: z\n'],
    ['pve/lxc/100.conf', 'hostname: first\n'],
    ['pve/lxc/900053.conf.bak', ours],
    ['pve/qemu-server/900054.conf', 'name: vm\ntags: crisp\n'],
    ['pve/nodes/other/lxc/900055.conf', ours],
    ['pve/nodes/other/qemu-server/900056.conf', 'name: vm\n'],
  ] as const;
  return [
    ...copies,
    ...others.map(([path, text]) => {
      const vmid = Number(/\/(\d+)\.conf/.exec(path)?.[1]);
      return { vmid, id: tamperedId(vmid), path, text };
    }),
  ];
}

/** One that runs, without our tag. */
async function runningForeigner(vmid: number): Promise<Foreign> {
  const empty = join(node.folder, 'empty.tar');
  await writeFile(empty, Buffer.alloc(10_240));
  await pct(
    'create',
    String(vmid),
    empty,
    '--rootfs',
    'local:0',
    '--unprivileged',
    '0',
    '--hostname',
    'x',
    '--entrypoint',
    '/bin/busybox sleep 1000',
  );
  const rootfs = join(node.folder, `storage/local/images/${vmid}/subvol-${vmid}-disk-0.subvol`);
  for (const folder of ['bin', 'proc', 'sys', 'dev']) await mkdir(join(rootfs, folder));
  await copyFile('/bin/busybox', join(rootfs, 'bin/busybox'));
  await pct('start', String(vmid));
  return {
    vmid,
    id: tamperedId(vmid),
    path: `pve/lxc/${vmid}.conf`,
    text: await node.guest(`${vmid}.conf`),
  };
}

/** Every call of the CRI, with an id wherever it takes one. */
async function everyCall(client: Client, id: string): Promise<void> {
  const config = podConfig(daemon);
  const request = {
    container_id: id,
    pod_sandbox_id: id,
    filter: { id, pod_sandbox_id: id },
    cmd: ['true'],
    timeout: '0',
    stdout: true,
    port: [80],
    linux: { memory_limit_in_bytes: String(32 << 20) },
    location: join(daemon.folder, 'checkpoint'),
    path: join(daemon.folder, 'checkpoint'),
    image: { image: id },
    config: { ...config, metadata: undefined },
    sandbox_config: config,
  };
  const { RuntimeService, ImageService } = loadProto().runtime.v1;
  for (const [service, calls] of [
    [RuntimeService.service, client.runtime],
    [ImageService.service, client.image],
  ] as const) {
    await Promise.all(
      Object.entries(service).map(async ([method, { responseStream }]) => {
        if (responseStream)
          await drained(
            (
              client.streams as unknown as Record<
                string,
                (request: object) => NodeJS.ReadableStream & { cancel(): void }
              >
            )[method]?.(request),
          );
        else
          await (calls as unknown as Record<string, (request: object, options: object) => Promise<unknown>>)
            [method]?.(request, { deadlineMs: 5_000 })
            .catch(() => undefined);
      }),
    );
  }
}

async function drained(stream: (NodeJS.ReadableStream & { cancel(): void }) | undefined): Promise<void> {
  if (!stream) return; // StreamImages, which takes no id
  const limit = setTimeout(() => stream.cancel(), 500);
  await new Promise((resolve) => {
    stream
      .on('data', () => undefined)
      .on('error', resolve)
      .on('end', resolve);
  });
  clearTimeout(limit);
}

test('every call, with every id, on modified records', async () => {
  const pod = await runPod(daemon, {}, 'lxc');
  const own = await startContainer(daemon, pod, containerConfig(untilStopped()));
  const honest = await runPod(daemon, {}, 'lxc');
  const bystander = await startContainer(daemon, honest, containerConfig(untilStopped()));
  const guests = await node.guests();
  const ours =
    (await Promise.all(guests.map((name) => node.guest(name)))).find((text) => text.includes(own)) ?? '';

  const foreign = foreignGuests(ours, bystander);
  for (const { path, text } of foreign) {
    await mkdir(dirname(join(node.folder, path)), { recursive: true });
    await writeFile(join(node.folder, path), text);
  }
  foreign.push(await runningForeigner(running));
  const before = await pct('status', String(running), '--verbose');
  const calls = join(node.folder, 'calls');
  const seeded = (await readFile(calls, 'utf8')).length;

  // 1. For each of them a record that says that it is one of our containers: created, or running.
  await daemon.kill9();
  const folder = daemon.machine.path(join(daemon.state, 'containers'));
  const record = JSON.parse(await readFile(join(folder, `${own}.json`), 'utf8')) as {
    config: { metadata: object };
    backendState: object;
    startedAt: string;
  };
  for (const [index, { id, vmid }] of foreign.entries()) {
    const { startedAt, ...created } = record;
    const tampered = {
      ...created,
      ...(index % 2 ? { startedAt } : {}),
      id,
      config: { ...record.config, metadata: { name: id, attempt: 0 } },
      folder: join(daemon.state, 'bundles', id),
      backendState: { ...record.backendState, vmid },
    };
    await writeFile(join(folder, `${id}.json`), JSON.stringify(tampered));
  }
  await daemon.start();
  expect((await daemon.client.runtime.ListContainers({})).containers.map(({ id }) => id)).toEqual(
    expect.arrayContaining(foreign.map(({ id }) => id)),
  );

  // 2. Every call, with the ids of these records, of the guests, and of the pod that holds them all.
  for (const { id, vmid } of foreign)
    await Promise.all([id, String(vmid), `${vmid}.conf`].map((one) => everyCall(daemon.client, one)));
  await everyCall(daemon.client, pod.id);
  // Some calls end after their answer. Our CTs are removed, and the foreign ones are refused.
  await expect(daemon.client.runtime.RemovePodSandbox({ pod_sandbox_id: pod.id })).rejects.toThrow(
    /ForeignGuest/,
  );

  // 3. None of them was changed, and no tool was called to do so.
  for (const { path, text } of foreign)
    expect([path, await readFile(join(node.folder, path), 'utf8')]).toEqual([path, text]);
  expect(await pct('status', String(running), '--verbose')).toBe(before);
  const ids = new Set(foreign.map(({ vmid }) => String(vmid)));
  const said = (await readFile(calls, 'utf8'))
    .slice(seeded)
    .split('\n')
    .filter((line) => !line.startsWith('status ') && line.split(' ').some((word) => ids.has(word)));
  expect(said).toEqual([]);
  expect(
    (await node.remains()).filter(
      (name) => ids.has(/(\d+)(\.service\.d)?$/.exec(name)?.[1] ?? '') && !name.endsWith(String(running)),
    ),
  ).toEqual([]);

  // 4. Other guests are unchanged, and only our CTs are removed.
  const { status } = await daemon.client.runtime.ContainerStatus({ container_id: bystander });
  expect(status).toMatchObject({ state: 'CONTAINER_RUNNING' });
  await removePod(daemon, honest.id);
  expect((await node.guests()).sort()).toEqual(
    foreign
      .map(({ path }) => path)
      .filter((path) => /^pve\/lxc\/9\d+\.conf$/.test(path))
      .map((path) => path.replace('pve/lxc/', ''))
      .sort(),
  );
}, 240_000);

testAll('a new pod takes no VMID in use', async () => {
  const pod = await runPod(daemon, {}, 'lxc');
  await createContainer(daemon, pod, containerConfig('true', { image: { image: testImage } }));
  await removePod(daemon, pod.id);
});
