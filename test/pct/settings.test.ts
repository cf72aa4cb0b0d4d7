// Settings of the section lxc that decide whether a node can have CTs.
import { afterEach, beforeEach, expect, test as testAll } from '@jest/globals';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { removePod, runPod } from '../helpers/requests.js';
import { isReal, Node } from './node.js';

// A real node has its own pools, and is as fast as it is.
const test = isReal ? testAll.skip : testAll;

let node: Node;
beforeEach(async () => {
  node = await Node.start();
});
afterEach(() => node.stop());

test('pvesh has the same timeout as pct', async () => {
  await writeFile(join(node.folder, 'pvesh-ms'), '3000');
  const hasty = await node.daemon({ pct_timeout_seconds: 1 });
  await expect(runPod(hasty, {}, 'lxc')).rejects.toThrow(/ToolTimeout.*version of Proxmox/s);
  const patient = await node.daemon({ owner: 'patient' });
  await removePod(patient, (await runPod(patient, {}, 'lxc')).id);
});

test('a missing pool is named, with the command that creates it', async () => {
  const daemon = await node.daemon({ pool: 'pods' });
  await expect(runPod(daemon, {}, 'lxc')).rejects.toThrow(
    /InvalidConfigFile.*pool 'pods' does not exist.*hint: .*pvesh create \/pools --poolid/s,
  );
  expect([await node.guests(), await node.remains()]).toEqual([[], []]);
  await writeFile(join(node.folder, 'pve/user.cfg'), 'pool:pods:::\n');
  await daemon.restart();
  await removePod(daemon, (await runPod(daemon, {}, 'lxc')).id);
});
