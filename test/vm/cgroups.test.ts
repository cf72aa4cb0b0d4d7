// Control groups v2 under a real systemd: limits, OOM kills, statistics and resize,
// read from the files of the kernel, with both cgroup drivers and both runtimes.
import { afterAll, afterEach, beforeAll, describe, expect, test } from '@jest/globals';
import {
  cgroupOf,
  containerStatus,
  kubeletSlice,
  readFiles,
  removePods,
  runPod,
  startContainer,
  waitForExit,
  type Pod,
} from './pods.js';
import { Vm } from './vm.js';

let vm: Vm;
beforeAll(async () => {
  vm = await Vm.start();
});
afterAll(() => vm?.stop());
afterEach(() => removePods(vm));

const mebi = 1 << 20;
const uid = '0b1c2d3e-1111-2222-3333-444455556666';
const limits = {
  cpu_period: 100_000,
  cpu_quota: 50_000,
  cpu_shares: 512,
  memory_limit_in_bytes: 64 * mebi,
  memory_swap_limit_in_bytes: 80 * mebi,
  cpuset_cpus: '0',
  cpuset_mems: '0',
  unified: { 'memory.high': String(48 * mebi), 'pids.max': '64' },
};

async function driver(name: 'systemd' | 'cgroupfs'): Promise<void> {
  await vm.must(
    `mkdir -p /etc/crisp/config.d; echo 'runtime: {cgroup_driver: ${name}}' >/etc/crisp/config.d/driver.yaml; systemctl restart crisp`,
  );
}

describe.each(['systemd', 'cgroupfs'] as const)('%s driver', (name) => {
  beforeAll(async () => {
    if (name !== 'systemd') await driver(name); // auto finds systemd by itself
  });

  test('is reported to the kubelet', async () => {
    expect(await vm.must('crictl runtime-config')).toMatch(
      new RegExp(`^cgroup driver: +${name.toUpperCase()}$`),
    );
  });

  describe.each(['crun', 'runc'])('%s', (handler) => {
    test('limits are in the v2 files, below the cgroup that the kubelet named', async () => {
      const parent = name === 'systemd' ? kubeletSlice(uid) : `/kubepods/burstable/pod${uid}`;
      if (name === 'cgroupfs')
        await vm.must(
          `mkdir -p /sys/fs/cgroup${parent}; for at in '' /kubepods /kubepods/burstable ${parent}; do echo "+cpu +cpuset +memory +pids" >/sys/fs/cgroup$at/cgroup.subtree_control; done`,
        );
      const pod = await runPod(vm, { linux: { cgroup_parent: parent } }, handler);
      const id = await startContainer(vm, pod, 'sleep 1000', { linux: { resources: limits } });
      const group = await cgroupOf(vm, id);
      // Below systemd's scope crun has a group more.
      expect(group).toMatch(
        name === 'systemd'
          ? new RegExp(`^/sys/fs/cgroup${parent}/crisp-${id}.scope(/container)?$`)
          : new RegExp(`^/sys/fs/cgroup${parent}/${id}$`),
      );
      expect(
        await readFiles(vm, group, [
          'memory.max',
          'memory.high',
          'memory.swap.max',
          'cpu.max',
          'cpuset.cpus',
          'cpuset.mems',
          'pids.max',
        ]),
      ).toEqual({
        'memory.max': String(64 * mebi),
        'memory.high': String(48 * mebi),
        'memory.swap.max': String(16 * mebi),
        'cpu.max': '50000 100000',
        'cpuset.cpus': '0',
        'cpuset.mems': '0',
        'pids.max': '64',
      });
      const { 'cpu.weight': weight } = await readFiles(vm, group, ['cpu.weight']);
      expect(Number(weight)).toBeGreaterThan(1);
      expect(Number(weight)).toBeLessThan(100);
      expect(await vm.must(`crictl exec ${id} cat /proc/self/cgroup`)).toBe('0::/'); // its own cgroup namespace
    });

    test('a limit of huge pages is in its file', async () => {
      const id = await startContainer(vm, await runPod(vm, {}, handler), 'sleep 1000', {
        linux: { resources: { hugepage_limits: [{ page_size: '2MB', limit: 4 * mebi }] } },
      });
      expect(await readFiles(vm, await cgroupOf(vm, id), ['hugetlb.2MB.max'])).toEqual({
        'hugetlb.2MB.max': String(4 * mebi),
      });
    });

    test('an OOM kill is distinguished from other exits', async () => {
      const pod = await runPod(vm, {}, handler);
      const hungry = await startContainer(vm, pod, 'exec tail /dev/zero', {
        linux: { resources: { memory_limit_in_bytes: 32 * mebi, memory_swap_limit_in_bytes: 32 * mebi } },
      });
      expect(await waitForExit(vm, hungry)).toMatchObject({ reason: 'OOMKilled', exitCode: 137 });
      const killed = await startContainer(vm, pod, 'sleep 1000');
      await vm.must(`crictl stop ${killed}`);
      expect(await waitForExit(vm, killed)).toMatchObject({ reason: 'Error', exitCode: 137 });
    });

    test('statistics of a container and of its pod', async () => {
      const pod = await runPod(vm, {}, handler);
      const id = await startContainer(
        vm,
        pod,
        'head -c 20000000 /dev/zero >/dev/shm/file; i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; echo ready; sleep 1000 & wait',
        { linux: { resources: { memory_limit_in_bytes: 256 * mebi } } },
      );
      await vm.until(`crictl logs ${id} | grep -q ready`);
      const group = await cgroupOf(vm, id);
      const {
        stats: [container],
      } = JSON.parse(await vm.must(`crictl stats -o json ${id}`)) as { stats: [Stats] };
      const {
        stats: [sandbox],
      } = JSON.parse(await vm.must(`crictl statsp -o json --id ${pod.id}`)) as {
        stats: [{ linux: Stats & { process: { processCount: Value } } }];
      };
      const kernel = await readFiles(vm, group, ['memory.current', 'memory.max']);
      const cpuNs = Number(await vm.must(`awk '$1 == "usage_usec" {print $2}' ${group}/cpu.stat`)) * 1000;
      for (const { cpu, memory } of [container, sandbox.linux]) {
        expect(near(memory.usageBytes, Number(kernel['memory.current']), 4 * mebi)).toBe(true);
        expect(Number(memory.workingSetBytes.value)).toBeGreaterThan(20_000_000); // the file in shared memory
        expect(Number(memory.workingSetBytes.value)).toBeLessThanOrEqual(Number(memory.usageBytes.value));
        expect(Number(memory.rssBytes.value)).toBeGreaterThan(0);
        expect(near(cpu.usageCoreNanoSeconds, cpuNs, cpuNs / 2)).toBe(true);
      }
      expect(
        near(container.memory.availableBytes, 256 * mebi - Number(container.memory.workingSetBytes.value), 1),
      ).toBe(true);
      expect(Number(sandbox.linux.process.processCount.value)).toBe(2);
      expect(container.cpu.psi).toBeDefined();
    });

    test('a resize takes effect at once, and a reload of systemd does not undo it', async () => {
      const pod = await runPod(vm, {}, handler);
      const id = await startContainer(vm, pod, 'sleep 1000', { linux: { resources: limits } });
      const group = await cgroupOf(vm, id);
      for (const size of [128, 56]) {
        await vm.must(
          `crictl update --memory ${size * mebi} --cpu-quota ${size * 1000} --cpu-period 100000 ${id}; systemctl daemon-reload`,
        );
        expect(await readFiles(vm, group, ['memory.max', 'cpu.max'])).toEqual({
          'memory.max': String(size * mebi),
          'cpu.max': `${size * 1000} 100000`,
        });
      }
    });
  });

  test('a pod without a cgroup of the kubelet has its own, and removes it', async () => {
    const pod: Pod = await runPod(vm);
    const own =
      name === 'systemd'
        ? `/sys/fs/cgroup/crisp.slice/crisp-${pod.id}.slice`
        : `/sys/fs/cgroup/crisp/${pod.id}`;
    expect(await vm.must(`stat -c %F ${own}`)).toBe('directory');
    expect(await cgroupOf(vm, await startContainer(vm, pod, 'sleep 1000'))).toContain(`${own}/`);
    await removePods(vm);
    expect((await vm.run(`stat ${own}`)).exitCode).not.toBe(0);
    expect(
      await vm.must(
        `systemctl list-units --all --no-legend --plain --type=scope,slice | grep -c ${pod.id} || true`,
      ),
    ).toBe('0');
  });

  test('such a pod is resized with its cgroup, and an OOM kill at its limit is one of the container', async () => {
    const pod = await runPod(vm);
    const client = await vm.connect();
    await client.runtime.UpdatePodSandboxResources({
      pod_sandbox_id: pod.id,
      resources: { cpu_quota: 150_000, cpu_period: 100_000, memory_limit_in_bytes: 96 * mebi },
    });
    client.close();
    await vm.must('systemctl daemon-reload');
    const own = name === 'systemd' ? `crisp.slice/crisp-${pod.id}.slice` : `crisp/${pod.id}`;
    expect(await readFiles(vm, `/sys/fs/cgroup/${own}`, ['memory.max', 'cpu.max'])).toEqual({
      'memory.max': String(96 * mebi),
      'cpu.max': '150000 100000',
    });
    const id = await startContainer(vm, pod, 'exec tail /dev/zero');
    expect(await waitForExit(vm, id)).toMatchObject({ reason: 'OOMKilled', exitCode: 137 });
    const bystander = await startContainer(vm, pod, 'sleep 1000');
    await vm.must(`crictl stop ${bystander}`);
    expect(await waitForExit(vm, bystander)).toMatchObject({ reason: 'Error', exitCode: 137 });
    await removePods(vm);
    expect(await vm.must('ls /run/systemd/system.control 2>/dev/null || true')).toBe('');
  });

  test('a container without a process limit is not limited', async () => {
    const id = await startContainer(vm, await runPod(vm), 'sleep 1000');
    const group = await cgroupOf(vm, id);
    for (let at = group; at !== '/sys/fs/cgroup'; at = at.replace(/\/[^/]+$/, ''))
      expect(await vm.must(`cat ${at}/pids.max`)).toBe('max');
    expect((await containerStatus(vm, id)).state).toBe('CONTAINER_RUNNING');
  });
});

interface Value {
  readonly value: string;
}
interface Stats {
  readonly cpu: { readonly usageCoreNanoSeconds: Value; readonly psi?: object };
  readonly memory: {
    readonly usageBytes: Value;
    readonly workingSetBytes: Value;
    readonly rssBytes: Value;
    readonly availableBytes: Value;
  };
}

function near({ value }: Value, expected: number, tolerance: number): boolean {
  return Math.abs(Number(value) - expected) <= tolerance;
}
