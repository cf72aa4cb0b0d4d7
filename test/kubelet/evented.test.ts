// A kubelet with the gate EventedPLEG, which learns the state of containers from
// GetContainerEvents: it creates each of them once.
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { setTimeout as sleep } from 'node:timers/promises';
import { startDaemon, type Daemon } from '../helpers/daemon.js';
import { testImage } from '../helpers/requests.js';
import { Kubelet } from './kubelet.js';

const binary = process.env['KUBELET'];
if (!binary) throw new Error('KUBELET must name a kubelet binary: see run.sh');
const minutes = 60_000;

let daemon: Daemon;
let kubelet: Kubelet;
beforeAll(async () => {
  daemon = await startDaemon();
  await daemon.addImage(testImage);
  kubelet = await Kubelet.start(daemon, binary, { statsFromCri: true, eventedPleg: true });
}, 3 * minutes);
afterAll(async () => {
  await kubelet?.stop();
  await daemon?.destroy();
}, minutes);

const sh = (script: string): string[] => ['sh', '-c', script];
const containers = async () => (await daemon.client.runtime.ListContainers({})).containers;

test(
  'a static pod runs exactly one container, which is created again once for each end',
  async () => {
    await kubelet.addPod('steady', {
      // A kubelet that knows of no active container runs the init containers again.
      initContainers: [{ name: 'init', image: testImage, imagePullPolicy: 'Never', command: sh('true') }],
      containers: [
        {
          name: 'main',
          image: testImage,
          imagePullPolicy: 'Never',
          command: sh('trap "exit 0" TERM; while :; do sleep 1 & wait $!; done'),
        },
      ],
    });
    await kubelet.until('steady runs', async () => {
      const status = (await kubelet.pod('steady'))?.containerStatuses?.[0];
      return status?.state.running !== undefined && status.ready;
    });
    expect(daemon.entries()).toContainEqual(expect.objectContaining({ method: 'RunPodSandbox' }));
    await sleep(20_000); // the kubelet syncs every two seconds, and would make one each time
    expect(
      (await containers()).map(({ metadata, state }) => [metadata?.name, metadata?.attempt, state]).sort(),
    ).toEqual([
      ['init', 0, 'CONTAINER_EXITED'],
      ['main', 0, 'CONTAINER_RUNNING'],
    ]);

    await kubelet.addPod('ends', {
      containers: [{ name: 'end', image: testImage, imagePullPolicy: 'Never', command: sh('exit 3') }],
    });
    await kubelet.until('ends backs off', async () => {
      const status = (await kubelet.pod('ends'))?.containerStatuses?.[0];
      return (
        (status?.restartCount ?? 0) >= 1 &&
        status?.state.waiting?.reason === 'CrashLoopBackOff' &&
        status.lastState.terminated?.exitCode === 3
      );
    });
    const refused = daemon.entries().filter(({ code }) => code === 'ALREADY_EXISTS');
    expect(refused).toEqual([]);

    for (const name of ['steady', 'ends']) await kubelet.removePod(name);
    await kubelet.until('nothing runs any more', async () =>
      (await containers()).every(({ state }) => state !== 'CONTAINER_RUNNING'),
    );
  },
  4 * minutes,
);
