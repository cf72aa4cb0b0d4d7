// Records that this version cannot read: they are kept, refused and reported, and their
// containers continue. An unreadable file does not affect the others.
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { status } from '@grpc/grpc-js';
import { mkdir, readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { crisp, startDaemon, type Daemon } from '../helpers/daemon.js';
import {
  containerConfig,
  removePod,
  runPod,
  startContainer,
  testImage,
  untilStopped,
} from '../helpers/requests.js';
import { hintPattern } from '../helpers/hints.js';
import { missing } from '../helpers/offenders.js';

let daemon: Daemon;
beforeAll(async () => {
  daemon = await startDaemon();
  await daemon.addImage(testImage);
});
afterAll(() => daemon?.destroy());

const fileOf = (kind: 'containers' | 'sandboxes', id: string): string =>
  daemon.machine.path(join(daemon.state, kind, `${id}.json`));

/** A record as another version may have it, under a crisp that was not there meanwhile. @returns what brings the old one back */
async function rewritten(
  kind: 'containers' | 'sandboxes',
  id: string,
  change: (text: string) => string,
): Promise<() => Promise<void>> {
  const file = fileOf(kind, id);
  const before = await readFile(file, 'utf8');
  await daemon.kill9();
  await writeFile(file, change(before));
  await daemon.start();
  return async () => {
    await daemon.kill9();
    await writeFile(file, before);
    await daemon.start();
  };
}

const ofNextVersion = (text: string): string => text.replace('"version":1', '"version":2');

async function gc(): Promise<unknown[]> {
  const { stdout } = await daemon.machine.run([
    process.execPath,
    crisp,
    'gc',
    '--json',
    '--config',
    daemon.configFile,
    '--state',
    join(daemon.folder, 'cli-state'),
  ]);
  return (JSON.parse(stdout) as { orphans: unknown[] }).orphans;
}

const advice = hintPattern(
  'start the version of crisp that wrote the record, or remove the pod by hand; `crisp status` lists such records',
);
const refused = {
  code: status.FAILED_PRECONDITION,
  details: expect.stringMatching(new RegExp(`^RecordUnreadable: .*${advice.source}`, 's')),
};

describe.each<[string, (text: string) => string]>([
  ['of the next version', ofNextVersion],
  ['that is cut off', (text) => text.slice(0, text.length / 2)],
  ['with an invalid config', (text) => text.replace(/"config":\{/, '"config":5,"was":{')],
])('a record %s', (_, change) => {
  test('of a container: it continues to run, and no call changes it', async () => {
    const before = await daemon.traces();
    const { runtime, image } = daemon.client;
    const [pod, other] = [await runPod(daemon), await runPod(daemon)];
    const id = await startContainer(daemon, pod, containerConfig(untilStopped()));
    const bystander = await startContainer(daemon, other, containerConfig(untilStopped()));
    const { pid } = JSON.parse(await readFile(fileOf('containers', id), 'utf8')) as { pid: number };
    const restore = await rewritten('containers', id, change);
    const text = await readFile(fileOf('containers', id), 'utf8');

    expect((await runtime.ListContainers({})).containers.map((one) => one.id)).toEqual([bystander]);
    for (const call of [
      () => runtime.ContainerStatus({ container_id: id }),
      () => runtime.StopContainer({ container_id: id, timeout: '0' }),
      () => runtime.RemoveContainer({ container_id: id }),
    ])
      await expect(call()).rejects.toMatchObject(refused);
    const { info } = await runtime.Status({ verbose: true });
    expect(JSON.parse(info['setAside'] ?? '')).toEqual({
      records: [{ kind: 'container record', name: expect.stringContaining(id), reason: expect.any(String) }],
    });
    expect(await gc()).toEqual([]);
    if (change === ofNextVersion) {
      await expect(runtime.RemovePodSandbox({ pod_sandbox_id: pod.id })).rejects.toMatchObject(refused);
      await removePod(daemon, other.id);
      await expect(image.RemoveImage({ image: { image: testImage } })).rejects.toMatchObject({
        details: expect.stringContaining('ImageInUse'),
      });
    } else await removePod(daemon, other.id);
    expect(missing(`/proc/${pid}`)).toEqual([]);
    expect(await readFile(fileOf('containers', id), 'utf8')).toBe(text);

    await restore();
    expect((await runtime.ContainerStatus({ container_id: id })).status).toMatchObject({
      state: 'CONTAINER_RUNNING',
    });
    await removePod(daemon, pod.id);
    expect(await daemon.traces()).toEqual(before);
  });

  test('of a pod: its container continues in its network, and other pods are not affected', async () => {
    const before = await daemon.traces();
    const { runtime } = daemon.client;
    const [pod, other] = [await runPod(daemon), await runPod(daemon)];
    const id = await startContainer(daemon, pod, containerConfig(untilStopped()));
    const { status: known } = await runtime.PodSandboxStatus({ pod_sandbox_id: pod.id });
    const restore = await rewritten('sandboxes', pod.id, change);

    expect((await runtime.ListPodSandbox({})).items.map((one) => one.id)).toEqual([other.id]);
    for (const call of [
      () => runtime.PodSandboxStatus({ pod_sandbox_id: pod.id }),
      () => runtime.StopPodSandbox({ pod_sandbox_id: pod.id }),
      () => runtime.RemovePodSandbox({ pod_sandbox_id: pod.id }),
    ])
      await expect(call()).rejects.toMatchObject(refused);
    expect((await runtime.ContainerStatus({ container_id: id })).status).toMatchObject({
      state: 'CONTAINER_RUNNING',
    });
    expect(await gc()).toEqual([]);

    await restore();
    expect((await runtime.PodSandboxStatus({ pod_sandbox_id: pod.id })).status).toEqual(known);
    for (const { id: one } of [pod, other]) await removePod(daemon, one);
    expect(await daemon.traces()).toEqual(before);
  });
});

test('the paths of a record are not followed', async () => {
  const { runtime } = daemon.client;
  const before = await daemon.traces();
  const pod = await runPod(daemon);
  const id = await startContainer(daemon, pod, containerConfig(untilStopped()));
  const victim = daemon.machine.path(join(daemon.folder, 'victim'));
  await mkdir(victim);
  await rewritten('containers', id, (text) =>
    text.replace(/"folder":"[^"]*"/, `"folder":${JSON.stringify(victim)}`),
  );
  await rewritten('sandboxes', pod.id, (text) =>
    text.replace(/"folder":"[^"]*"/, `"folder":${JSON.stringify(victim)}`),
  );
  await removePod(daemon, pod.id);
  expect((await runtime.ListContainers({})).containers).toEqual([]);
  expect(missing(victim)).toEqual([]);
  await rm(victim, { recursive: true });
  expect(await daemon.traces()).toEqual(before);
});

test('one unreadable file in each folder does not affect the others', async () => {
  const pod = await runPod(daemon);
  const id = await startContainer(daemon, pod, containerConfig(untilStopped()));
  await daemon.kill9();
  const at = (...names: string[]): string => daemon.machine.path(join(...names));
  const bad = [
    at(daemon.state, 'exits/crun/odd'),
    at(daemon.root, 'network/..odd.json'),
    at(daemon.state, 'containers/odd.json'),
    at(daemon.state, 'sandboxes/odd.json'),
  ];
  for (const file of bad) await mkdir(file);
  await writeFile(at(daemon.state, 'daemon.json'), '{');
  await daemon.start();
  const { status: found } = await daemon.client.runtime.ContainerStatus({ container_id: id });
  expect(found).toMatchObject({ state: 'CONTAINER_RUNNING' });
  await removePod(daemon, pod.id);
  await removePod(daemon, (await runPod(daemon)).id);
  for (const file of bad) await rm(file, { recursive: true });
});
