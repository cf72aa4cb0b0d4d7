// A pod or container whose caller went away while it was made is shown to nobody
// until the same request comes again: a kubelet that saw it would make another.
import { status as Code } from '@grpc/grpc-js';
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { existsSync } from 'node:fs';
import { rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { ContainerEventResponse } from '../../src/cri/generated/runtime/v1/ContainerEventResponse.js';
import { startDaemon, type Daemon } from '../helpers/daemon.js';
import {
  containerConfig,
  podConfig,
  removePod,
  runPod,
  startContainer,
  testImage,
  untilStopped,
} from '../helpers/requests.js';

let daemon: Daemon;
/** The programs that are slow make this file when they begin. */
let begun: string;
beforeAll(async () => {
  daemon = await startDaemon();
  begun = join(daemon.folder, 'begun');
  const slow = join(daemon.folder, 'slow-crun');
  await writeFile(
    slow,
    `#!/bin/sh\ncase " $* " in *crisp-probe*) ;; *" create "*) : >${begun}; sleep 0.5 ;; esac\nexec crun "$@"\n`,
    { mode: 0o755 },
  );
  await writeFile(
    join(daemon.folder, 'slowly'),
    `#!/bin/sh
cat >/dev/null
[ "$CNI_COMMAND" = ADD ] || { echo '{"cniVersion":"1.0.0","supportedVersions":["1.0.0"]}'; exit 0; }
: >${begun}; sleep 0.5
echo '{"cniVersion":"1.0.0","interfaces":[],"ips":[]}'
`,
    { mode: 0o755 },
  );
  const { plugins, ...rest } = daemon.conflist() as { plugins: object[] };
  await daemon.writeConflist({ ...rest, plugins: [{ type: 'slowly' }, ...plugins] });
  await daemon.writeConfig({
    network: { bin_dirs: [daemon.folder, '/opt/cni/bin', '/usr/lib/cni'] },
    handlers: { slow: { type: 'oci', path: slow } },
    runtime: { unclaimed_seconds: 8 },
  });
  await daemon.restart();
  await daemon.addImage(testImage);
});
afterAll(() => daemon?.destroy());

const runtime = () => daemon.client.runtime;
const kept = () => daemon.logged((line) => line.includes('kept for its retry'));
/** Goes away in the middle of a call. @returns the id of what is made all the same */
async function abandon(call: (signal: AbortSignal) => Promise<object>): Promise<string> {
  await rm(begun, { force: true });
  const line = kept();
  const caller = new AbortController();
  const called = expect(call(caller.signal)).rejects.toMatchObject({ code: Code.CANCELLED });
  while (!existsSync(begun)) await sleep(5);
  caller.abort();
  await called;
  return idIn(await line);
}
const idIn = (line: string): string => (JSON.parse(line) as { id: string }).id;
async function collect<T>(call: AsyncIterable<T>): Promise<T[]> {
  const all = [];
  for await (const item of call) all.push(item);
  return all;
}
/** All that clients are told of, as one text. */
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
  const removed = daemon.logged((line) => line.includes('container removed') && line.includes(second), {
    signal: AbortSignal.timeout(60_000),
  });
  await removed;
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
