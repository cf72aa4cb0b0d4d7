// Static pods of a real kubelet.
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { startDaemon, type Daemon } from '../helpers/daemon.js';
import { testImage } from '../helpers/requests.js';
import { Kubelet, nodeName, type PodStatus } from './kubelet.js';

const binary = process.env['KUBELET'];
if (!binary) throw new Error('KUBELET must name a kubelet binary: see run.sh');
const minutes = 60_000;

let daemon: Daemon;
let kubelet: Kubelet;
let clean: string[];
beforeAll(async () => {
  daemon = await startDaemon();
  await daemon.addImage(testImage);
  clean = await daemon.traces();
  kubelet = await Kubelet.start(daemon, binary, { statsFromCri: true });
}, 3 * minutes);
afterAll(async () => {
  await kubelet?.stop();
  await daemon?.destroy();
}, minutes);

const isReady = (pod: PodStatus | undefined): boolean =>
  pod?.phase === 'Running' &&
  pod.conditions.some(({ type, status }) => type === 'Ready' && status === 'True');
interface Summary {
  readonly pods: readonly {
    readonly podRef: { readonly name: string };
    readonly containers: readonly {
      readonly name: string;
      readonly cpu?: { readonly usageCoreNanoSeconds?: number };
      readonly memory?: { readonly workingSetBytes?: number };
    }[];
    /** Of the default interface. */
    readonly network?: { readonly rxBytes?: number };
  }[];
}
const sh = (script: string): string[] => ['sh', '-c', script];

describe('static pods', () => {
  test(
    'one with an init container, limits, an emptyDir and an exec probe is Running and Ready',
    async () => {
      await kubelet.addPod('web', {
        initContainers: [
          {
            name: 'prepare',
            image: testImage,
            imagePullPolicy: 'Never',
            command: sh('echo prepared >/work/state'),
            volumeMounts: [{ name: 'work', mountPath: '/work' }],
          },
        ],
        containers: [
          {
            name: 'main',
            image: testImage,
            imagePullPolicy: 'Never',
            command: sh('trap "exit 0" TERM; cat /work/state; while :; do i=$((i+1)); sleep 0.05; done'),
            resources: { limits: { cpu: '200m', memory: '64Mi' } },
            volumeMounts: [{ name: 'work', mountPath: '/work' }],
            readinessProbe: { exec: { command: ['cat', '/work/state'] }, periodSeconds: 1 },
          },
        ],
        volumes: [{ name: 'work', emptyDir: {} }],
      });
      await kubelet.until('web is ready', async () => isReady(await kubelet.pod('web')));
      const pod = await kubelet.pod('web');
      expect(pod?.podIP).toMatch(/^10\./);
      expect(pod?.initContainerStatuses?.[0]?.state.terminated).toMatchObject({
        exitCode: 0,
        reason: 'Completed',
      });
    },
    2 * minutes,
  );

  test('its log is served by the kubelet', async () => {
    expect(await kubelet.get(`/containerLogs/default/web-${nodeName}/main`)).toBe('prepared\n');
  });

  test.each([
    { gate: 'on', from: 'ListPodSandboxStats' },
    { gate: 'off', from: 'ListContainerStats' },
  ])(
    'its CPU and memory come from the CRI, with the gate $gate from $from',
    async ({ gate, from }) => {
      if (gate === 'off') {
        await kubelet.stop();
        kubelet = await Kubelet.start(daemon, binary, { statsFromCri: false });
        await kubelet.until('web is ready', async () => isReady(await kubelet.pod('web')));
      }
      const seen = daemon.entries().length;
      await kubelet.until('statistics', async () => {
        const { pods } = JSON.parse(await kubelet.get('/stats/summary')) as Summary;
        const web = pods.find(({ podRef }) => podRef.name === `web-${nodeName}`);
        const main = web?.containers.find(({ name }) => name === 'main');
        // cAdvisor, which fills in the network with the gate off, does not know us
        const network = gate === 'off' || (web?.network?.rxBytes ?? 0) > 0;
        return (
          network && (main?.cpu?.usageCoreNanoSeconds ?? 0) > 0 && (main?.memory?.workingSetBytes ?? 0) > 0
        );
      });
      expect(daemon.entries().slice(seen)).toContainEqual(
        expect.objectContaining({ msg: 'call', method: from }),
      );
      expect((await kubelet.pod('web'))?.containerStatuses?.[0]?.restartCount).toBe(0); // nor did a new kubelet touch it
    },
    3 * minutes,
  );

  test(
    'a pod on the host network has the address of the node',
    async () => {
      await kubelet.addPod('host', {
        hostNetwork: true,
        containers: [{ name: 'main', image: testImage, imagePullPolicy: 'Never', command: sh('sleep 1000') }],
      });
      await kubelet.until('host is ready', async () => isReady(await kubelet.pod('host')));
      const pod = await kubelet.pod('host');
      expect(pod?.podIP).toBe(pod?.hostIP);
    },
    2 * minutes,
  );

  test(
    'a container that fails is restarted, with back-off',
    async () => {
      await kubelet.addPod('fails', {
        containers: [
          { name: 'main', image: testImage, imagePullPolicy: 'Never', command: sh('echo failing; exit 3') },
        ],
      });
      await kubelet.until('fails backs off', async () => {
        const main = (await kubelet.pod('fails'))?.containerStatuses?.[0];
        return (
          main !== undefined &&
          main.restartCount >= 1 &&
          main.state.waiting?.reason === 'CrashLoopBackOff' &&
          main.lastState.terminated?.exitCode === 3
        );
      });
    },
    2 * minutes,
  );

  test(
    'pods whose files are removed are removed with all their resources',
    async () => {
      for (const name of ['web', 'host', 'fails']) await kubelet.removePod(name);
      await kubelet.until(
        'the kubelet knows no pods',
        async () =>
          (await kubelet.pod('web')) === undefined &&
          (await kubelet.pod('host')) === undefined &&
          (await kubelet.pod('fails')) === undefined,
      );
      await kubelet.until('nothing runs any more', async () => {
        const { containers = [] } = await daemon.client.runtime.ListContainers({
          filter: { state: { state: 'CONTAINER_RUNNING' } },
        });
        return containers.length === 0;
      });
      // The kubelet keeps the last dead sandbox of a pod for a while; but leftovers of a removal are crisp's
      // fault.
      for (const { id = '' } of (await daemon.client.runtime.ListPodSandbox({})).items ?? [])
        await daemon.client.runtime.RemovePodSandbox({ pod_sandbox_id: id });
      await kubelet.stop();
      expect(await daemon.traces()).toEqual(clean);
    },
    3 * minutes,
  );
});
