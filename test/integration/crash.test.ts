// kill -9 at any moment: what was answered is kept, and what was not leaves nothing.
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { existsSync, readdirSync } from 'node:fs';
import { mkdir, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { startDaemon, type Daemon } from '../helpers/daemon.js';
import {
  containerConfig,
  createContainer,
  removePod,
  runPod,
  testImage,
  untilStopped,
} from '../helpers/requests.js';

let daemon: Daemon;
beforeAll(async () => {
  daemon = await startDaemon();
  await daemon.addImage(testImage);
});
afterAll(() => daemon?.destroy());

interface Answered {
  pods: string[];
  containers: string[];
  started: string[];
}

/** Makes a pod with a container, and notes each step once it is answered; the crash ends it somewhere. */
async function makePod(answered: Answered): Promise<void> {
  const pod = await runPod(daemon, {
    port_mappings: [
      { protocol: 'TCP', container_port: 80, host_port: 20_000 + Math.floor(Math.random() * 10_000) },
    ],
  });
  answered.pods.push(pod.id);
  const container = await createContainer(daemon, pod, containerConfig(untilStopped()));
  answered.containers.push(container);
  await daemon.client.runtime.StartContainer({ container_id: container });
  answered.started.push(container);
}

/** Starts it again; the client, which has seen the socket refuse, may wait before it tries again. */
async function restart(): Promise<void> {
  await daemon.start();
  while (
    await daemon.client.runtime.Version({}).then(
      () => false,
      () => true,
    )
  )
    await sleep(50);
}

test.each([5, 25, 45, 65, 85, 105, 130, 160, 200, 260, 340, 450])(
  'after %d ms of making pods',
  async (ms) => {
    const before = await daemon.traces();
    const answered: Answered = { pods: [], containers: [], started: [] };
    const making = Promise.allSettled([1, 2, 3].map(() => makePod(answered)));
    await sleep(ms);
    await daemon.kill9();
    await making;
    await restart();

    const { runtime } = daemon.client;
    const { items } = await runtime.ListPodSandbox({});
    const { containers } = await runtime.ListContainers({});
    expect(items.filter(({ state }) => state === 'SANDBOX_READY').map(({ id }) => id)).toEqual(
      expect.arrayContaining(answered.pods),
    );
    expect(containers.map(({ id }) => id)).toEqual(expect.arrayContaining(answered.containers));
    expect(containers.filter(({ state }) => state === 'CONTAINER_RUNNING').map(({ id }) => id)).toEqual(
      expect.arrayContaining(answered.started),
    );
    for (const { id } of items) await removePod(daemon, id);
    await expect(daemon.traces()).resolves.toEqual(before);
  },
);

test.each([0, 20, 50, 100, 200])('after %d ms of its probes', async (ms) => {
  const probes = (): string[] =>
    ['crun', 'runc'].flatMap((name) =>
      readdirSync(join(`/proc/${daemon.machine.pid}/root`, daemon.state, 'probe', name)),
    );
  const before = await daemon.traces();
  await daemon.stop();
  const starting = daemon.start().catch(() => undefined);
  while (probes().length === 0) await sleep(1);
  await sleep(ms);
  await daemon.kill9();
  await starting;
  expect(probes().length).toBeGreaterThan(0);
  await restart();
  expect(await daemon.traces()).toEqual(before);
});

/** Programs that are slower than a restart of the daemon: they are still at work when it is back. */
test.each<[string, object]>([
  ['a CNI plugin', { network: { bin_dirs: ['BIN', '/usr/lib/cni'] } }],
  ['the runtime', { handlers: { slow: { type: 'oci', path: 'BIN/crun' } }, default_container_type: 'slow' }],
])('while %s is at work', async (_, config) => {
  const bin = join(daemon.folder, 'bin');
  const gate = join(bin, 'slow');
  await mkdir(bin, { recursive: true });
  const slow = (name: string, program: string, when: string) =>
    writeFile(
      join(bin, name),
      `#!/bin/sh\ncase "$CNI_COMMAND $*" in ${when}) [ ! -e ${gate} ] || { : >${gate}.begun; sleep 8; } ;; esac\nexec ${program} "$@"\n`,
      { mode: 0o755 },
    );
  await slow('bridge', '/usr/lib/cni/bridge', 'ADD*');
  await slow('crun', 'crun', '*" create "*');
  await daemon.writeConfig(
    JSON.parse(JSON.stringify(config).replaceAll('BIN', bin)) as Record<string, unknown>,
  );
  await daemon.restart();
  const before = await daemon.traces();

  await writeFile(gate, '');
  let failure: Error | undefined;
  const making = makePod({ pods: [], containers: [], started: [] }).catch((error: Error) => {
    failure = error;
  });
  while (!existsSync(`${gate}.begun`)) {
    if (failure) throw failure;
    await sleep(5);
  }
  await rm(gate);
  await daemon.kill9();
  await making;
  await restart();
  for (const { id } of (await daemon.client.runtime.ListPodSandbox({})).items) await removePod(daemon, id);
  for (let tries = 0; tries < 50 && (await daemon.traces()).some((line) => line.includes(bin)); tries++)
    await sleep(200);
  await rm(`${gate}.begun`);
  expect(await daemon.traces()).toEqual(before);
});
