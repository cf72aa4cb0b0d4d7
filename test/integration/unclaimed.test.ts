// A pod or container whose caller disconnected during the creation is hidden until the
// same request comes again: a kubelet that saw it would create another one.
import { status as Code } from '@grpc/grpc-js';
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { ContainerEventResponse } from '../../src/cri/generated/runtime/v1/ContainerEventResponse.js';
import { startDaemon, type Daemon } from '../helpers/daemon.js';
import { patience } from '../helpers/patience.js';
import {
  containerConfig,
  podConfig,
  removePod,
  runPod,
  startContainer,
  testImage,
  untilStopped,
} from '../helpers/requests.js';
import { Gate, writePlugin, writeRuntime } from '../helpers/stand-ins.js';

let daemon: Daemon;
let config: Record<string, object>;
/** Where the runtime of the handler "slow" waits in create, and the first CNI plugin in ADD. */
let gate: Gate;
beforeAll(async () => {
  daemon = await startDaemon();
  gate = new Gate(join(daemon.folder, 'gate'));
  await gate.open();
  const slow = join(daemon.folder, 'slow-crun');
  await writeRuntime(slow, `case " $* " in *" create "*) ${gate.script} ;; esac`);
  await writePlugin(join(daemon.folder, 'slowly'), { add: gate.script });
  const { plugins, ...rest } = daemon.conflist() as { plugins: object[] };
  await daemon.writeConflist({ ...rest, plugins: [{ type: 'slowly' }, ...plugins] });
  config = {
    network: { bin_dirs: [daemon.folder, '/opt/cni/bin', '/usr/lib/cni'] },
    handlers: { slow: { type: 'oci', path: slow } },
    runtime: { unclaimed_seconds: 8 * patience },
  };
  await daemon.writeConfig(config);
  await daemon.restart();
  await daemon.addImage(testImage);
});
afterAll(() => daemon?.destroy());

const runtime = () => daemon.client.runtime;
const kept = () => daemon.logged((line) => line.includes('kept for its retry'));
/** Disconnects during a call. @returns the id of the object that is created anyway */
async function abandon(call: (signal: AbortSignal) => Promise<object>): Promise<string> {
  await gate.close();
  const line = kept();
  const caller = new AbortController();
  const called = expect(call(caller.signal)).rejects.toMatchObject({ code: Code.CANCELLED });
  await gate.reached();
  caller.abort();
  await called;
  await runtime().Version({}); // on the same connection, so that the daemon has heard of the end of the call
  await gate.open();
  return idIn(await line);
}
const idIn = (line: string): string => (JSON.parse(line) as { id: string }).id;
/** Until this pod or container has no record, which goes last. */
async function removed(table: 'sandboxes' | 'containers', id: string): Promise<void> {
  const folder = daemon.machine.path(join(daemon.state, table));
  while ((await readdir(folder)).some((name) => name.includes(id))) await sleep(50);
}
async function collect<T>(call: AsyncIterable<T>): Promise<T[]> {
  const all = [];
  for await (const item of call) all.push(item);
  return all;
}
/** All answers and events that clients get, as one text. */
async function told(sandboxId: string): Promise<string> {
  const { streams } = daemon.client;
  return JSON.stringify([
    await runtime().ListContainers({}),
    await runtime().ListPodSandbox({}),
    await runtime().ListContainerStats({}),
    await runtime().ListPodSandboxStats({}),
    await runtime().PodSandboxStatus({ pod_sandbox_id: sandboxId }),
    await runtime().PodSandboxStats({ pod_sandbox_id: sandboxId }),
    await collect(streams.StreamContainers({}) as AsyncIterable<object>),
    await collect(streams.StreamPodSandboxes({}) as AsyncIterable<object>),
    await collect(streams.StreamContainerStats({}) as AsyncIterable<object>),
  ]);
}

test('a container', async () => {
  const clean = await daemon.traces();
  const pod = await runPod(daemon, {}, 'slow');
  const seen: ContainerEventResponse[] = [];
  const events = daemon.client.streams.GetContainerEvents({});
  events.on('data', (event: ContainerEventResponse) => seen.push(event)).on('error', () => undefined);
  const request = {
    pod_sandbox_id: pod.id,
    config: containerConfig(untilStopped()),
    sandbox_config: pod.config,
  };
  const id = await abandon((signal) => runtime().CreateContainer(request, { signal }));
  const other = await startContainer(
    daemon,
    pod,
    containerConfig(untilStopped(), { metadata: { name: 'other' } }),
  );
  const hidden = async (): Promise<void> => {
    expect(await told(pod.id)).not.toContain(id);
    for (const call of [
      () => runtime().ContainerStatus({ container_id: id }), // which does not claim it either
      () => runtime().ContainerStats({ container_id: id }),
      () => runtime().StartContainer({ container_id: id }),
      () => runtime().ContainerStatus({ container_id: id.slice(0, 13) }),
    ])
      await expect(call()).rejects.toMatchObject({ code: Code.NOT_FOUND });
  };
  await hidden();
  expect(JSON.stringify(seen)).toContain(other);
  expect(JSON.stringify(seen)).not.toContain(id);

  expect(await runtime().CreateContainer(request)).toEqual({ container_id: id });
  expect(await told(pod.id)).toContain(id);
  while (!seen.some((event) => event.container_id === id)) await sleep(20);
  expect(seen.filter((event) => event.container_id === id)).toMatchObject([
    { container_event_type: 'CONTAINER_CREATED_EVENT' },
  ]);
  await runtime().StartContainer({ container_id: id });
  await runtime().RemoveContainer({ container_id: id });

  // Nor does a restart of the daemon show one, and it goes after its time.
  const second = await abandon((signal) => runtime().CreateContainer(request, { signal }));
  events.cancel();
  await daemon.restart();
  expect(await told(pod.id)).not.toContain(second);
  await removed('containers', second);
  await removePod(daemon, pod.id);
  expect(await daemon.traces()).toEqual(clean);
});

test('a pod', async () => {
  const clean = await daemon.traces();
  const config = podConfig(daemon);
  const id = await abandon((signal) => runtime().RunPodSandbox({ config }, { signal }));
  const seen: ContainerEventResponse[] = [];
  const events = daemon.client.streams.GetContainerEvents({});
  events.on('data', (event: ContainerEventResponse) => seen.push(event)).on('error', () => undefined);
  const lists = async () =>
    JSON.stringify([await runtime().ListPodSandbox({}), await runtime().ListPodSandboxStats({})]);
  expect(await lists()).not.toContain(id);
  await expect(runtime().PodSandboxStatus({ pod_sandbox_id: id })).rejects.toMatchObject({
    code: Code.NOT_FOUND,
  });
  expect(await runtime().RunPodSandbox({ config })).toEqual({ pod_sandbox_id: id });
  expect(await lists()).toContain(id);
  while (seen.length < 2) await sleep(20);
  expect(seen).toMatchObject([
    { container_id: id, container_event_type: 'CONTAINER_CREATED_EVENT' },
    { container_id: id, container_event_type: 'CONTAINER_STARTED_EVENT' },
  ]);
  events.cancel();
  await removePod(daemon, id);
  expect(await daemon.traces()).toEqual(clean);
});

test('is removed if no retry comes', async () => {
  await daemon.writeConfig({ ...config, runtime: { unclaimed_seconds: 0.5 } });
  await daemon.restart();
  const clean = await daemon.traces();
  const request = { config: podConfig(daemon) };
  const pod = await abandon((signal) => runtime().RunPodSandbox(request, { signal }));
  await removed('sandboxes', pod);
  expect(await daemon.traces()).toEqual(clean);

  const own = await runPod(daemon, {}, 'slow');
  const made = await daemon.traces();
  const inIt = { pod_sandbox_id: own.id, config: containerConfig('true'), sandbox_config: own.config };
  await removed('containers', await abandon((signal) => runtime().CreateContainer(inIt, { signal })));
  expect(await daemon.traces()).toEqual(made);
  await removePod(daemon, own.id);
});
