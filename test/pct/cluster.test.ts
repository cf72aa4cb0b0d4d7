// Several daemons with the same range of VMIDs, like those on the nodes of a cluster.
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { cgroupOf } from '../../src/backends/pct/cgroups.js';
import { makePodCgroup, removeCgroup } from '../../src/host/cgroup.js';
import type { Daemon } from '../helpers/daemon.js';
import { containerConfig, createContainer, removePod, runPod } from '../helpers/requests.js';
import { Node } from './node.js';

let node: Node;
let daemons: Daemon[];
beforeAll(async () => {
  node = await Node.start();
  const range = { first: node.lastVmid - 7, last: node.lastVmid };
  daemons = await Promise.all(['one', 'two'].map((owner) => node.daemon({ owner, vmid_range: range })));
  await Promise.all(daemons.map((daemon) => daemon.addImage()));
});
afterAll(() => node?.stop());

test('take each VMID once, all at the same time, until none is left', async () => {
  const pods = await Promise.all(daemons.map((daemon) => runPod(daemon, {}, 'lxc')));
  const create = (index: number, name: string) =>
    createContainer(
      daemons[index] as Daemon,
      pods[index] as { id: string; config: object },
      containerConfig('true', { metadata: { name, attempt: 0 } }),
    );
  // One after the other within a pod, beside each other between the two.
  const made = await Promise.all(
    daemons.map(async (_, index) => {
      const ids = [];
      for (const name of ['a', 'b', 'c', 'd']) ids.push(await create(index, name));
      return ids;
    }),
  );
  const marks = await Promise.all((await node.guests()).map((name) => node.guest(name)));
  expect(marks).toHaveLength(8);
  for (const id of made.flat())
    expect(marks.filter((text) => text.includes(`crisp-container%3A ${id}`))).toHaveLength(1);
  await expect(create(0, 'more')).rejects.toThrow(/UNAVAILABLE.*NoVmid/);
  await removePod(daemons[1] as Daemon, pods[1]?.id ?? '');
  await create(0, 'more');
  await removePod(daemons[0] as Daemon, pods[0]?.id ?? '');
  expect(await node.guests()).toEqual([]);
});

test('do not take a VMID with leftover cgroups of a killed CT: liblxc would not start there', async () => {
  const [first, last] = [node.lastVmid - 9, node.lastVmid - 8];
  await makePodCgroup(cgroupOf(first));
  const daemon = await node.daemon({ vmid_range: { first, last } });
  try {
    await daemon.addImage();
    const pod = await runPod(daemon, {}, 'lxc');
    for (let round = 0; round < 2; round++) {
      const id = await createContainer(daemon, pod, containerConfig('true'));
      expect(await node.guests()).toEqual([`${last}.conf`]);
      await daemon.client.runtime.RemoveContainer({ container_id: id });
    }
    await removePod(daemon, pod.id);
  } finally {
    await removeCgroup(cgroupOf(first));
  }
});
