// Pods and containers whose creation and undo both failed: they are found by their
// records, and do not affect others.
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { mkdir, readdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { startDaemon, type Daemon } from '../helpers/daemon.js';
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
import { writePlugin, writeRuntime } from '../helpers/stand-ins.js';

let daemon: Daemon;
let runtimeFault: string;
let pluginFault: string;
let config: Record<string, unknown>;
beforeAll(async () => {
  daemon = await startDaemon();
  runtimeFault = join(daemon.folder, 'runtime-fault');
  pluginFault = join(daemon.folder, 'plugin-fault');
  const bin = join(daemon.folder, 'bin');
  await mkdir(bin);
  for (const fault of [runtimeFault, pluginFault]) await writeFile(fault, '');
  // Each fails in the verbs, or the commands, that its file names.
  await writeRuntime(
    join(bin, 'faulty-crun'),
    `for verb in $(cat ${runtimeFault}); do case " $* " in *" $verb "*) echo "cannot $verb" >&2; exit 1 ;; esac; done`,
  );
  await writePlugin(join(bin, 'faulty'), {
    always: `case "$(cat ${pluginFault})" in *$CNI_COMMAND*) echo "{\\"code\\":7,\\"msg\\":\\"cannot $CNI_COMMAND\\"}"; exit 1 ;; esac`,
  });
  const { plugins, ...rest } = daemon.conflist() as { plugins: object[] };
  await daemon.writeConflist({ ...rest, plugins: [{ type: 'faulty' }, ...plugins] });
  config = {
    handlers: { faulty: { type: 'oci', path: join(bin, 'faulty-crun') } },
    default_container_type: 'faulty',
    network: { bin_dirs: [bin, '/opt/cni/bin', '/usr/lib/cni'] },
  };
  await daemon.writeConfig(config);
  await daemon.restart();
  await daemon.addImage(testImage);
});
afterAll(() => daemon?.destroy());

const records = async (table: string): Promise<string[]> =>
  (await readdir(daemon.machine.path(join(daemon.state, table)))).map((name) => name.replace('.json', ''));

test('a container that is left after a crash and a failed repair is created anew', async () => {
  const clean = await daemon.traces();
  const pod = await runPod(daemon);
  const config = containerConfig(untilStopped());
  const half = await createContainer(daemon, pod, config);
  await daemon.kill9();
  const path = daemon.machine.path(join(daemon.state, 'containers', `${half}.json`));
  await writeFile(
    path,
    JSON.stringify({
      ...(JSON.parse(await readFile(path, 'utf8')) as object),
      complete: false,
      backendState: undefined,
    }),
  );
  await writeFile(runtimeFault, 'delete');
  await daemon.start();
  expect(await records('containers')).toEqual([half]);
  expect(
    (await daemon.client.runtime.PodSandboxStatus({ pod_sandbox_id: pod.id })).containers_statuses,
  ).toEqual([]);
  await expect(createContainer(daemon, pod, config)).rejects.toThrow(/cannot delete/);

  await writeFile(runtimeFault, '');
  const id = await startContainer(daemon, pod, config);
  expect(await records('containers')).toEqual([id]);
  await removePod(daemon, pod.id);
  expect(await daemon.traces()).toEqual(clean);
});

test('a container whose creation and undo failed is created anew or removed with its pod', async () => {
  const clean = await daemon.traces();
  const pod = await runPod(daemon);
  const fail = async (name: string) => {
    await writeFile(runtimeFault, 'create delete');
    await expect(
      createContainer(daemon, pod, containerConfig(untilStopped(), { metadata: { name } })),
    ).rejects.toThrow(/cannot create/);
    await writeFile(runtimeFault, '');
    return (await records('containers'))[0] as string;
  };
  const half = await fail('one');
  const id = await startContainer(
    daemon,
    pod,
    containerConfig(untilStopped(), { metadata: { name: 'one' } }),
  );
  expect(await records('containers')).toEqual([id]);
  expect(id).not.toBe(half);
  await daemon.client.runtime.RemoveContainer({ container_id: id });
  const other = await fail('two');
  await daemon.client.runtime.StopContainer({ container_id: other, timeout: '1' });
  await daemon.client.runtime.RemoveContainer({ container_id: other });
  expect(await records('containers')).toEqual([]);
  await fail('three');
  await removePod(daemon, pod.id);
  expect([await records('containers'), await daemon.traces()]).toEqual([[], clean]);
});

test('a pod that could not be removed from its network is created anew, or removed by its id', async () => {
  const clean = await daemon.traces();
  const config = podConfig(daemon);
  const run = () => daemon.client.runtime.RunPodSandbox({ config });
  const fail = async () => {
    await writeFile(pluginFault, 'ADD DEL');
    await expect(run()).rejects.toThrow(/cannot ADD/);
    expect((await daemon.client.runtime.ListPodSandbox({})).items).toEqual([]);
    const [half, ...more] = await records('sandboxes');
    expect(more).toEqual([]);
    return half as string;
  };
  const half = await fail();
  await expect(run()).rejects.toThrow(/cannot DEL/);
  await writeFile(pluginFault, '');
  const { pod_sandbox_id: id } = await run();
  expect(id).not.toBe(half);
  expect(await records('sandboxes')).toEqual([id]);
  await removePod(daemon, id);

  const other = await fail();
  await writeFile(pluginFault, '');
  await removePod(daemon, other);
  expect([await records('sandboxes'), await daemon.traces()]).toEqual([[], clean]);
});

test('a creation that could not be undone is removed automatically after the fault is gone', async () => {
  const clean = await daemon.traces();
  await daemon.writeConfig({ ...config, runtime: { unclaimed_seconds: 1 } });
  await daemon.restart();
  const pod = await runPod(daemon);
  await writeFile(runtimeFault, 'create delete');
  await expect(createContainer(daemon, pod, containerConfig(untilStopped()))).rejects.toThrow(
    /cannot create/,
  );
  await writeFile(pluginFault, 'ADD DEL');
  await expect(runPod(daemon)).rejects.toThrow(/cannot ADD/);
  // A restart finds them, and cannot remove them either.
  await daemon.restart();
  expect([(await records('containers')).length, (await records('sandboxes')).length]).toEqual([1, 2]);

  await writeFile(runtimeFault, '');
  await writeFile(pluginFault, '');
  while ((await records('containers')).length > 0 || (await records('sandboxes')).length > 1) await sleep(50);
  await removePod(daemon, pod.id);
  expect(await daemon.traces()).toEqual(clean);
});
