// The limits of a CT, as seen by its process and in its cgroup; for crun and runc see
// test/integration/limits.test.ts.
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from '@jest/globals';
import { existsSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { cgroupVersion } from '../../src/host/cgroup.js';
import type { LinuxContainerResources } from '../../src/cri/generated/runtime/v1/LinuxContainerResources.js';
import { givenNofileVariable } from '../../src/oci/ulimits.js';
import { startDaemon, type Daemon } from '../helpers/daemon.js';
import { containerConfig, removePod, runPod, startContainer, untilStopped } from '../helpers/requests.js';
import { isReal, Node } from './node.js';

const mib = 1 << 20;
const v1 = cgroupVersion() === 'v1';
// pve-container 6.1.6 and newer write no limits for v1, which Proxmox VE 9 does not support.
const countsSwap = !v1 || (!isReal && existsSync('/sys/fs/cgroup/memory/memory.memsw.limit_in_bytes'));

let node: Node;
let daemon: Daemon;
let pod: Awaited<ReturnType<typeof runPod>>;
beforeAll(async () => {
  node = await Node.start();
  daemon = await startDaemon({
    onHost: isReal,
    config: {
      ...node.config({ unprivileged: false }), // liblxc 5 drops the groups of an unprivileged CT
      runtime: { default_ulimits: { core: '0', stack: '4194304:8388608' } },
    },
    env: { [givenNofileVariable]: '1000' }, // as bin/crisp inherits it
  });
  await daemon.addImage();
});
afterAll(async () => {
  await daemon?.destroy();
  await node?.stop();
});
beforeEach(async () => {
  pod = await runPod(daemon, {}, 'lxc');
});
afterEach(() => removePod(daemon, pod.id));

const started = (resources: LinuxContainerResources, name = 'main') =>
  startContainer(
    daemon,
    pod,
    containerConfig(untilStopped(), { metadata: { name, attempt: 0 }, linux: { resources } }),
  );
const output = async (id: string, script: string): Promise<string> =>
  String(
    (await daemon.client.runtime.ExecSync({ container_id: id, cmd: ['sh', '-c', script], timeout: '20' }))
      .stdout,
  );
/** A file of the cgroup of the CT, which contains another one made in the CT. */
async function cgroupFile(id: string, controller: string, file: string): Promise<string> {
  const { info } = await daemon.client.runtime.ContainerStatus({ container_id: id, verbose: true });
  const { pid } = JSON.parse(info['info'] ?? '') as { pid: number };
  const [, path = ''] =
    new RegExp(v1 ? `^\\d+:(?:[^:]*,)?${controller}(?:,[^:]*)?:(.*)$` : '^0::(.*)$', 'm').exec(
      await readFile(`/proc/${pid}/cgroup`, 'utf8'),
    ) ?? [];
  return (
    await readFile(join('/sys/fs/cgroup', v1 ? controller : '', path.replace(/\/ns$/, ''), file), 'utf8')
  ).trim();
}
/** Memory, and additional swap, in MiB or "max". */
async function memoryOf(id: string): Promise<(number | 'max')[]> {
  const of = (text: string): number | 'max' =>
    text === 'max' || Number(text) > 2 ** 60 ? 'max' : Number(text) / mib;
  const memory = of(await cgroupFile(id, 'memory', v1 ? 'memory.limit_in_bytes' : 'memory.max'));
  const swap = of(await cgroupFile(id, 'memory', v1 ? 'memory.memsw.limit_in_bytes' : 'memory.swap.max'));
  return [memory, v1 && memory !== 'max' && swap !== 'max' ? swap - memory : swap];
}

(countsSwap ? test : test.skip)(
  'a memory limit without a swap limit allows no swap, at creation and after updates',
  async () => {
    const id = await started({ memory_limit_in_bytes: 64 * mib });
    expect(await memoryOf(id)).toEqual([64, 0]);
    const update = (memory: number, swap = 0) =>
      daemon.client.runtime.UpdateContainerResources({
        container_id: id,
        linux: {
          memory_limit_in_bytes: String(memory * mib),
          ...(swap ? { memory_swap_limit_in_bytes: String(swap * mib) } : {}),
        },
      });
    await update(96);
    expect(await memoryOf(id)).toEqual([96, 0]);
    await update(48);
    expect(await memoryOf(id)).toEqual([48, 0]);
    await update(48, 64);
    expect(await memoryOf(id)).toEqual([48, 16]);
    const swaps = await started(
      { memory_limit_in_bytes: 64 * mib, memory_swap_limit_in_bytes: 96 * mib },
      'swaps',
    );
    expect(await memoryOf(swaps)).toEqual([64, 32]);
  },
);

(v1 ? test.skip : test)(
  'the CPU set of a CT is written to its configuration, where pvestatd reads it',
  async () => {
    const id = await started({ cpuset_cpus: '0' });
    expect(await node.guestOf(id)).toMatch(/^lxc\.cgroup2\.cpuset\.cpus: 0$/m);
    const free = await started({}, 'free');
    await daemon.client.runtime.UpdateContainerResources({ container_id: free, linux: { cpuset_cpus: '0' } });
    expect(await node.guestOf(free)).toMatch(/^lxc\.cgroup2\.cpuset\.cpus: 0$/m);
    expect(await cgroupFile(free, 'cpuset', 'cpuset.cpus')).toBe('0');
  },
);

test('open files have the limit of the service, and configured ulimits apply, also to exec', async () => {
  const limits = 'ulimit -S -n; ulimit -S -c; ulimit -H -c; ulimit -S -s; ulimit -H -s';
  const expected = '1000\n0\n0\n4096\n8192\n';
  const id = await startContainer(
    daemon,
    pod,
    containerConfig(`(${limits}) >/tmp/limits; ${untilStopped()}`),
  );
  expect(await output(id, 'until [ -s /tmp/limits ]; do sleep 0.1; done; cat /tmp/limits')).toBe(expected);
  expect(await output(id, limits)).toBe(expected);
  expect(Number(await output(id, 'ulimit -H -n'))).toBeGreaterThan(1000);
});

// In the image, the user 1000 is of the group 50.
test('supplemental groups are in the order process, image, request', async () => {
  const user = { uid: '1000', gid: '3000', supplemental_groups: ['3000', '50', '70', '60'] };
  const id = await startContainer(
    daemon,
    pod,
    containerConfig(untilStopped(), {
      linux: {
        security_context: {
          run_as_user: { value: '1000' },
          run_as_group: { value: '3000' },
          supplemental_groups: ['70', '60'],
        },
      },
    }),
  );
  expect(await daemon.machine.must(['cat', join(daemon.state, 'bundles', id, 'lxc.conf')])).toMatch(
    /^lxc\.init\.groups = ?3000,50,70,60$/m,
  );
  expect((await daemon.client.runtime.ContainerStatus({ container_id: id })).status?.user?.linux).toEqual(
    user,
  );
  expect(await output(id, 'cat /proc/1/status')).toMatch(/^Groups:\t50 60 70 3000 *$/m); // the kernel sorts them
});
