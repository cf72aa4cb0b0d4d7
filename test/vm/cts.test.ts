// Pods of Proxmox CTs on cgroup v2, under systemd and AppArmor, as every Proxmox
// node has them. pct is the FAKE of test/pct/fake; liblxc with its tools, the
// kernel, and systemd, which starts and stops the CTs, are real ones.
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import {
  cgroupOf,
  containerStatus,
  readFiles,
  removePods,
  runPod,
  startContainer,
  waitForExit,
  type Pod,
} from './pods.js';
import { Vm } from './vm.js';

const node = '/var/lib/fake-node';

/**
 * The parts of a Proxmox node: the ids of unprivileged CTs, the unit, lxc-monitord, and fakes of the tools.
 */
const makeNode = `
  for file in /etc/subuid /etc/subgid; do echo root:100000:65536 >>$file; done
  mkdir -p ${['bin', 'fail', 'run', 'pve/lxc', 'pve/qemu-server', 'storage/template/cache', 'storage/images'].map((name) => `${node}/${name}`).join(' ')} /run/lock/lxc
  ln -s /opt/crisp/test/pct/fake/pct /opt/crisp/test/pct/fake/pvesh /opt/crisp/test/pct/fake/pvesm ${node}/bin
  ln -s /var/lib/lxc ${node}/lxc; ln -s /run/lock/lxc ${node}/lock; ln -s /run/systemd/system ${node}/units; ln -s ${node}/pve /etc/pve
  printf 'dir: local\\n\\tpath ${node}/storage\\n\\tcontent vztmpl,rootdir,images\\n' >${node}/pve/storage.cfg
  printf '[Service]\\nExecStart=/usr/bin/lxc-start -F -n %%i\\nDelegate=yes\\nKillMode=mixed\\nExecStop=/bin/true\\nStandardOutput=null\\nStandardError=file:/run/ct-%%i.stderr\\n' >/etc/systemd/system/pve-container@.service
  mkdir -p /etc/crisp/config.d; echo 'lxc: {tools: {pct: ${node}/bin/pct, pvesh: ${node}/bin/pvesh, pvesm: ${node}/bin/pvesm}}' >/etc/crisp/config.d/lxc.yaml
  sed 's/^timeout: .*/timeout: 120/' /opt/crisp/deploy/crictl.yaml >/etc/crictl.yaml # three CTs at once
  systemctl start lxc-monitord`;

let vm: Vm;
beforeAll(async () => {
  vm = await Vm.start({ prepare: makeNode });
  // The service counts as started before its probe, which is the first CT of the machine, has ended.
  await vm.until('crisp status | grep -q "^handler lxc: *ready"', 300_000);
});
afterAll(() => vm?.stop());

const mebi = 1 << 20;

/** What CTs and their pods make on the machine. liblxc keeps the folders that hold the groups of CTs. */
const traces = (): Promise<string> =>
  vm.must(`
  cd ${node}; ls pve/lxc lxc storage/images
  find /sys/fs/cgroup/lxc /sys/fs/cgroup/lxc.monitor -mindepth 1 -type d
  ls -d /run/systemd/system/pve-container@* 2>/dev/null || true
  systemctl list-units --all --no-legend --plain 'pve-container@*' 'crisp-*.slice'
  awk '$5 ~ "/run/crisp/|/var/lib/lxc/" {print "mount", $5}' /proc/self/mountinfo
  cd /run/crisp; find sandboxes containers bundles pods rootfs exits/* -mindepth 1 -maxdepth 1 2>/dev/null || true
  ip -o link show type veth | cut -d: -f2
  cd /sys/kernel/security/apparmor; ls policy/namespaces; grep lxc-9 profiles || true
  pgrep -a 'perl|lxc-start' || true`);

/** The folder of a CT's cgroup; its processes are in the group "ns" below. */
async function groupOf(id: string): Promise<string> {
  const group = await cgroupOf(vm, id);
  expect(group).toMatch(/^\/sys\/fs\/cgroup\/lxc\/9\d{5}\/ns$/);
  return group.replace(/\/ns$/, '');
}

describe('a CT', () => {
  // Not whole mebibytes, which is what pct counts in.
  const limits = {
    cpu_period: 100_000,
    cpu_quota: 55_000,
    cpu_shares: 512,
    memory_limit_in_bytes: 64 * mebi + 4096,
    memory_swap_limit_in_bytes: 80 * mebi + 4096,
    cpuset_cpus: '0',
    unified: { 'memory.high': String(48 * mebi), 'pids.max': '64' },
  };
  let before: string;
  let pod: Pod;
  let id: string;
  let group: string;
  beforeAll(async () => {
    before = await traces();
    pod = await runPod(vm, {}, 'lxc');
    id = await startContainer(
      vm,
      pod,
      'trap "exit 7" TERM; head -c 20000000 /dev/zero >/dev/shm/file; i=0; while :; do i=$((i+1)); echo tick $i; sleep 1; done',
      { linux: { resources: limits } },
    );
    group = await groupOf(id);
  });

  test('has its exact limits', async () => {
    expect(
      await readFiles(vm, group, [
        'memory.max',
        'memory.high',
        'memory.swap.max',
        'cpu.max',
        'cpuset.cpus',
        'pids.max',
        'cpu.weight',
      ]),
    ).toEqual({
      'memory.max': String(64 * mebi + 4096),
      'memory.high': String(48 * mebi),
      'memory.swap.max': String(16 * mebi),
      'cpu.max': '55000 100000',
      'cpuset.cpus': '0',
      'pids.max': '64',
      'cpu.weight': '59',
    });
  });

  test('is under the AppArmor profile that liblxc generates for it', async () => {
    const { pid } = await containerStatus(vm, id);
    expect(await vm.must(`cat /proc/${pid}/attr/apparmor/current`)).toMatch(
      /^lxc-9\d{5}_<\/var\/lib\/lxc>.* \(enforce\)$/,
    );
  });

  test('logs, and runs commands', async () => {
    await vm.until(`crictl logs ${id} | grep -q 'tick 1'`);
    expect(await vm.must(`crictl exec ${id} cat /proc/self/cgroup`)).toMatch(/^0::\/(\.lxc)?$/); // in the cgroup namespace of the CT, where lxc-attach makes another group
    expect((await vm.run(`crictl exec ${id} sh -c 'exit 3'`)).stderr).toContain('exit code 3');
  });

  test('has statistics, and so has its pod', async () => {
    const {
      stats: [container],
    } = JSON.parse(await vm.must(`crictl stats -o json ${id}`)) as { stats: [Stats] };
    const {
      stats: [sandbox],
    } = JSON.parse(await vm.must(`crictl statsp -o json --id ${pod.id}`)) as {
      stats: [{ linux: Stats & { process: { processCount: Value } } }];
    };
    const { 'memory.current': memoryBytes } = await readFiles(vm, group, ['memory.current']);
    const cpuNs = Number(await vm.must(`awk '$1 == "usage_usec" {print $2}' ${group}/cpu.stat`)) * 1000;
    for (const { cpu, memory } of [container, sandbox.linux]) {
      expect(near(memory.usageBytes, Number(memoryBytes), 4 * mebi)).toBe(true);
      expect(Number(memory.workingSetBytes.value)).toBeGreaterThan(20_000_000); // the file in shared memory
      expect(Number(memory.rssBytes.value)).toBeGreaterThan(0);
      expect(near(cpu.usageCoreNanoSeconds, cpuNs, cpuNs / 2)).toBe(true);
    }
    expect(
      near(
        container.memory.availableBytes,
        64 * mebi + 4096 - Number(container.memory.workingSetBytes.value),
        1,
      ),
    ).toBe(true);
    expect(Number(sandbox.linux.process.processCount.value)).toBe(2);
  });

  test('is resized while it runs, and keeps the limits that are not named', async () => {
    await vm.must(
      `crictl update --memory ${96 * mebi} --cpu-quota 75000 --cpu-period 100000 ${id}; systemctl daemon-reload`,
    );
    expect(
      await readFiles(vm, group, [
        'memory.max',
        'memory.high',
        'memory.swap.max',
        'cpu.max',
        'cpu.weight',
        'pids.max',
      ]),
    ).toEqual({
      'memory.max': String(96 * mebi),
      'memory.high': String(48 * mebi),
      'memory.swap.max': String(16 * mebi),
      'cpu.max': '75000 100000',
      'cpu.weight': '59',
      'pids.max': '64',
    });
  });

  test('continues through kill -9 of crisp', async () => {
    const { pid } = await containerStatus(vm, id);
    const lines = async (): Promise<number> => Number(await vm.must(`crictl logs ${id} | wc -l`));
    const first = await lines();
    await vm.must(
      'old=$(systemctl show --value --property=MainPID crisp); kill -9 $old; until [ "$(systemctl show --value --property=MainPID crisp)" != "$old" ] && systemctl -q is-active crisp; do sleep 0.2; done',
    );
    expect(await containerStatus(vm, id)).toMatchObject({ state: 'CONTAINER_RUNNING', pid });
    expect(await vm.must(`crictl exec ${id} echo here`)).toBe('here');
    expect(await lines()).toBeGreaterThan(first);
  });

  test('ends at its signal, and leaves nothing behind', async () => {
    await vm.must(`crictl stop --timeout 60 ${id}`);
    expect(await waitForExit(vm, id)).toMatchObject({ exitCode: 7, reason: 'Error' });
    await removePods(vm);
    expect(await traces()).toBe(before);
  });
});

test('the failures of CTs are distinguished, and leave nothing behind', async () => {
  const before = await traces();
  const pod = await runPod(vm, {}, 'lxc');
  const absent = startContainer(vm, pod, '', { command: ['/no/such/program'] }).then(
    () => '',
    (error: Error) => error.message,
  );
  const [hungry, orphan] = await Promise.all([
    startContainer(vm, pod, 'exec tail /dev/zero', {
      linux: { resources: { memory_limit_in_bytes: 32 * mebi } },
    }),
    startContainer(vm, pod, 'sleep 1000'),
  ]);
  expect(await waitForExit(vm, hungry)).toMatchObject({ reason: 'OOMKilled', exitCode: 137 });
  expect(await absent).toContain('/no/such/program');
  await vm.must(
    `kill -9 $(awk '$1 == "PPid:" {print $2}' /proc/${(await containerStatus(vm, orphan)).pid}/status)`,
  ); // its lxc-start
  expect(await waitForExit(vm, orphan)).toMatchObject({ reason: 'Error', exitCode: 255 });
  await removePods(vm);
  expect(await traces()).toBe(before);
});

interface Value {
  readonly value: string;
}
interface Stats {
  readonly cpu: { readonly usageCoreNanoSeconds: Value };
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
