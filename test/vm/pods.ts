// Pods in the VM, run by the real crictl there.
import { randomBytes } from 'node:crypto';
import type { ContainerConfig } from '../../src/cri/generated/runtime/v1/ContainerConfig.js';
import type { PodSandboxConfig } from '../../src/cri/generated/runtime/v1/PodSandboxConfig.js';
import type { Vm } from './vm.js';

/** What /opt/images of the VM holds. */
export const image = 'localhost/busybox:latest';

export interface Pod {
  readonly id: string;
  readonly config: PodSandboxConfig;
}

export interface ContainerStatus {
  readonly state: string;
  readonly exitCode: number;
  readonly reason: string;
  readonly pid: number;
}

/** What crictl reads as JSON, from its stdin. */
async function file(vm: Vm, content: object): Promise<string> {
  const path = `/run/request-${randomBytes(4).toString('hex')}.json`;
  await vm.must(`cat >${path}`, JSON.stringify(content));
  return path;
}

/** A unique name; other fields as given. */
export async function runPod(vm: Vm, more: PodSandboxConfig = {}, handler = 'crun'): Promise<Pod> {
  const uid = randomBytes(16)
    .toString('hex')
    .replace(/^(.{8})(.{4})(.{4})(.{4})/, '$1-$2-$3-$4-');
  const config: PodSandboxConfig = {
    metadata: { name: `pod-${uid.slice(0, 8)}`, namespace: 'default', uid, attempt: 0 },
    log_directory: `/var/log/pods/${uid}`,
    ...more,
  };
  return { id: await vm.must(`crictl runp --runtime ${handler} ${await file(vm, config)}`), config };
}

/** The slice that a kubelet with the systemd driver names for a burstable pod; it writes _ for - in the uid. */
export function kubeletSlice(uid: string): string {
  return `/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod${uid.replaceAll('-', '_')}.slice`;
}

/** Runs `script` in the image's shell; the container's id. */
export async function startContainer(
  vm: Vm,
  pod: Pod,
  script: string,
  more: ContainerConfig = {},
): Promise<string> {
  const name = `c-${randomBytes(3).toString('hex')}`;
  const config: ContainerConfig = {
    metadata: { name },
    image: { image },
    command: ['sh', '-c', script],
    log_path: `${name}.log`,
    ...more,
  };
  const id = await vm.must(`crictl create ${pod.id} ${await file(vm, config)} ${await file(vm, pod.config)}`);
  await vm.must(`crictl start ${id}`);
  return id;
}

export async function containerStatus(vm: Vm, id: string): Promise<ContainerStatus> {
  const { status, info } = JSON.parse(await vm.must(`crictl inspect ${id}`)) as {
    status: Omit<ContainerStatus, 'pid'>;
    info: { pid?: number };
  };
  return { ...status, pid: info.pid ?? 0 };
}

export async function waitForExit(vm: Vm, id: string): Promise<ContainerStatus> {
  await vm.until(`crictl inspect ${id} | grep -q CONTAINER_EXITED`);
  return containerStatus(vm, id);
}

/** The folder of the container's cgroup, as the kernel has it. */
export async function cgroupOf(vm: Vm, id: string): Promise<string> {
  const { pid } = await containerStatus(vm, id);
  return `/sys/fs/cgroup${await vm.must(`cut -d: -f3 /proc/${pid}/cgroup`)}`;
}

/** Files of a folder: name -> its one line, or undefined where there is no such file. */
export async function readFiles(
  vm: Vm,
  folder: string,
  names: readonly string[],
): Promise<Record<string, string>> {
  const text = await vm.must(
    `cd ${folder}; for name in ${names.join(' ')}; do echo "$name $(cat $name)"; done`,
  );
  return Object.fromEntries(
    text.split('\n').map((line) => [line.slice(0, line.indexOf(' ')), line.slice(line.indexOf(' ') + 1)]),
  );
}

/** What pods make on the machine: mounts, records, folders, leases, scopes and slices, links, monitors. Some folders are made by the first pod. */
export function traces(vm: Vm): Promise<string> {
  return vm.must(`
  awk '$5 ~ "/run/crisp/" {print "mount", $5}' /proc/self/mountinfo
  cd /run/crisp; find sandboxes containers bundles pods rootfs exits/* runtimes/* -mindepth 1 -maxdepth 1 2>/dev/null || true
  find /var/lib/crisp/containers /var/lib/crisp/network /var/lib/cni/networks/crisp -mindepth 1 -maxdepth 1 ! -name lock ! -name 'last_reserved*' 2>/dev/null || true
  systemctl list-units --all --no-legend --plain --type=scope,slice | awk '/crisp-/ {print $1}'
  ip -o link show type veth | cut -d: -f2
  pgrep -a conmon || true`);
}

export async function removePods(vm: Vm): Promise<void> {
  await vm.must('crictl rmp --all --force');
}
