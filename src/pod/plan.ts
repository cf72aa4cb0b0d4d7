// Checks a RunPodSandbox request, and makes the plan for the backend, the
// namespaces and the network. Pure.
import { isIP } from 'node:net';
import { join } from 'node:path';
import type { IdMaps, SandboxPlan } from '../shapes/sandbox.js';
import { CrispError } from '../errors.js';
import type { PodNetwork } from '../network/cni.js';
import { checkPodSysctls, namespaceFiles } from './namespaces.js';
import { quantity } from './quantity.js';
import { ownCgroupParent, sharesWithHost, userMappings } from '../oci/namespaces.js';
import { identityOf, podOf } from '../records/placed.js';
import type { PodSandboxConfig__Output } from '../cri/generated/runtime/v1/PodSandboxConfig.js';

/**
 * Checks the config of RunPodSandbox before anything is made.
 * @returns the same object
 * @throws InvalidArgument, which names the field
 */
export function checkedConfig(config: PodSandboxConfig__Output | null): PodSandboxConfig__Output {
  if (!config) throw new CrispError('InvalidArgument', 'config is missing');
  if (!config.metadata?.name) throw new CrispError('InvalidArgument', 'config.metadata.name is empty');
  if (!config.metadata.namespace)
    throw new CrispError('InvalidArgument', 'config.metadata.namespace is empty');
  if (!config.metadata.uid)
    throw new CrispError(
      'InvalidArgument',
      'config.metadata.uid is empty: crictl could neither show nor remove such a pod',
    );
  for (const field of ['name', 'namespace', 'uid'] as const)
    if (config.metadata[field].includes(';'))
      throw new CrispError(
        'InvalidArgument',
        `config.metadata.${field}: it contains ";", which separates the arguments of CNI plugins (CNI_ARGS)`,
      );
  const options = config.linux?.security_context?.namespace_options;
  for (const kind of ['network', 'ipc'] as const) {
    if (options && !['POD', 'NODE'].includes(options[kind]))
      throw new CrispError(
        'InvalidArgument',
        `namespace_options.${kind} of a pod must be POD or NODE, not ${options[kind]}`,
      );
  }
  userMappings(options?.userns_options);
  if (options?.pid === 'TARGET')
    throw new CrispError('InvalidArgument', 'namespace_options.pid of a pod cannot be TARGET');
  if (config.log_directory && !config.log_directory.startsWith('/'))
    throw new CrispError('InvalidArgument', 'config.log_directory must be an absolute path');
  checkPorts(config.port_mappings);
  checkHostname(config.hostname, 'config.hostname');
  checkCgroupParent(config.linux?.cgroup_parent ?? '');
  checkPodSysctls(config.linux?.sysctls ?? {}, {
    hostNetwork: options?.network === 'NODE',
    hostIpc: options?.ipc === 'NODE',
  });
  return config;
}

/** CNI's portmap plugin refuses other mappings in ADD and in DEL: such a pod could not be removed. */
function checkPorts(mappings: PodSandboxConfig__Output['port_mappings']): void {
  for (const [
    index,
    { host_port: hostPort, container_port: containerPort, host_ip: hostIp },
  ] of mappings.entries()) {
    if (hostPort <= 0) continue; // the port is not mapped, but the kubelet lists it
    const field = `config.port_mappings[${index}]`;
    if (hostPort > 65_535)
      throw new CrispError('InvalidArgument', `${field}.host_port: ${hostPort} is not a port`);
    if (containerPort < 1 || containerPort > 65_535)
      throw new CrispError('InvalidArgument', `${field}.container_port: ${containerPort} is not a port`);
    if (hostIp && !isIP(hostIp))
      throw new CrispError('InvalidArgument', `${field}.host_ip: "${hostIp}" is not an IP address`);
  }
}

/**
 * The hostname is a line in /etc/hostname, and a word in environments and in the configuration of CTs.
 * @throws InvalidArgument, which names the field
 */
export function checkHostname(hostname: string, field: string): void {
  if (hostname && !/^[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_])?$/.test(hostname))
    throw new CrispError(
      'InvalidArgument',
      `${field} must be made of letters, digits, "-", "_" and ".", and neither begin nor end with "-" or "."`,
    );
}

/**
 * Runtimes append it unchanged to the folders of the hierarchies: with ".." crun made groups
 * outside of them. cgroupfs names are folders, systemd's are slices (systemd.unit(5); a ":"
 * would end the slice's name in cgroupsPath); neither has anything else.
 */
function checkCgroupParent(parent: string): void {
  const parts = parent.split('/').filter(Boolean);
  if (
    parts.some((part) => ['.', '..'].includes(part) || !/^[\w.@\\-]{1,255}$/.test(part)) ||
    Buffer.byteLength(parent) > 3072
  )
    throw new CrispError(
      'InvalidArgument',
      'config.linux.cgroup_parent must be a path of cgroup names made of letters, digits and "_ . @ \\ -", without "." or ".." as a part',
    );
}

/**
 * The plan of a pod before its namespaces are made; expectedPlan() shows the rest.
 * @param systemdCgroup whether names of cgroups are slices
 */
export function planOf(
  stateFolder: string,
  id: string,
  config: PodSandboxConfig__Output,
  systemdCgroup: boolean,
): SandboxPlan {
  return {
    ...identityOf(id, config),
    folder: podOf(stateFolder, id),
    namespaces: {},
    // The kubelet makes and limits the pod's cgroup and passes its name; for other callers crisp makes one.
    cgroupParent: config.linux?.cgroup_parent || ownCgroupParent(id, systemdCgroup),
  };
}

/** Whether crisp makes and removes the cgroup of the pod. A kubelet makes it itself, and passes its name. */
export function ownsCgroup(config: PodSandboxConfig__Output): boolean {
  return !config.linux?.cgroup_parent;
}

/** Its containers see each other's processes, in a namespace kept by a holder. */
export function sharesPids(config: PodSandboxConfig__Output): boolean {
  return config.linux?.security_context?.namespace_options?.pid === 'POD';
}

/** The folder of the pinned namespaces of a pod: a bind mount for each. */
export function namespacesFolder(plan: SandboxPlan): string {
  return join(plan.folder, 'ns');
}

/** A pod on the host's network also has the host's name. */
export function wantedNamespaces(config: PodSandboxConfig__Output): {
  network: boolean;
  ipc: boolean;
  uts: boolean;
} {
  const options = config.linux?.security_context?.namespace_options;
  const network = options?.network !== 'NODE';
  return { network, ipc: options?.ipc !== 'NODE', uts: network };
}

/**
 * The plan that makePod() will make from planOf(), for `crisp explain`. @param idMaps the mapping of the
 * backend, see Backend.userNamespace
 */
export function expectedPlan(
  plan: SandboxPlan,
  config: PodSandboxConfig__Output,
  idMaps: IdMaps | undefined,
): SandboxPlan {
  const wanted = wantedNamespaces(config);
  const maps = userNamespace(config) ?? (sharesWithHost(config) ? undefined : idMaps);
  const files = namespaceFiles(namespacesFolder(plan));
  return {
    ...plan,
    namespaces: {
      ...(wanted.network ? { network: files.network } : {}),
      ...(wanted.ipc ? { ipc: files.ipc } : {}),
      ...(wanted.uts ? { uts: files.uts } : {}),
      ...(sharesPids(config) ? { pid: '/proc/PID-OF-HOLDER/ns/pid' } : {}),
      ...(maps ? { user: files.user } : {}),
    },
    ...(maps ? { idMaps: maps } : {}),
  };
}

/**
 * Refuses settings that are not possible if containers have networks of their own. @throws UnsupportedField
 */
export function checkOwnNetwork(config: PodSandboxConfig__Output): void {
  const refuse = (field: string, hint: string): CrispError =>
    new CrispError(
      'UnsupportedField',
      `${field}: the containers of this pod are on a bridge of the node, with a network of their own`,
      { hint },
    );
  if (config.port_mappings.some((mapping) => mapping.host_port > 0))
    throw refuse('port_mappings.host_port', 'the pod can be reached at its own address');
  const sysctl = Object.keys(config.linux?.sysctls ?? {}).find((name) => /^net[./]/.test(name));
  if (sysctl)
    throw refuse(
      `linux.sysctls ${sysctl}`,
      "such sysctls are set in the pod's network before a container runs",
    );
}

/**
 * The requested mapping of a user namespace (KEP-127); undefined: mode NODE, or none requested.
 * @throws InvalidArgument
 */
export function userNamespace(config: PodSandboxConfig__Output): IdMaps | undefined {
  const { uidMappings: uids, gidMappings: gids } = userMappings(
    config.linux?.security_context?.namespace_options?.userns_options,
  );
  return uids && gids ? { uids, gids } : undefined;
}

/**
 * The arguments of CNI for a pod. The bandwidth is read from the annotations kubernetes.io/ingress-bandwidth
 * and egress-bandwidth, in bits per second; ports without a host port are left out.
 * @throws InvalidArgument
 */
export function podNetwork(plan: SandboxPlan, config: PodSandboxConfig__Output, netns: string): PodNetwork {
  const bits = (annotation: string): number | undefined => {
    const text = config.annotations[annotation];
    return text === undefined ? undefined : bitsPerSecond(text, annotation);
  };
  const ingressBitsPerSecond = bits('kubernetes.io/ingress-bandwidth');
  const egressBitsPerSecond = bits('kubernetes.io/egress-bandwidth');
  return {
    id: plan.id,
    name: plan.name,
    namespace: plan.namespace,
    uid: plan.uid,
    netns,
    annotations: plan.annotations,
    cgroupParent: plan.cgroupParent,
    portMappings: config.port_mappings
      .filter((mapping) => mapping.host_port > 0)
      .map((mapping) => ({
        protocol: mapping.protocol.toLowerCase() as 'tcp' | 'udp' | 'sctp',
        containerPort: mapping.container_port,
        hostPort: mapping.host_port,
        hostIp: mapping.host_ip,
      })),
    ...(ingressBitsPerSecond === undefined && egressBitsPerSecond === undefined
      ? {}
      : {
          bandwidth: {
            ...(ingressBitsPerSecond === undefined ? {} : { ingressBitsPerSecond }),
            ...(egressBitsPerSecond === undefined ? {} : { egressBitsPerSecond }),
          },
        }),
    ...(config.dns_config ? { dns: config.dns_config } : {}),
  };
}

/**
 * A Kubernetes quantity of bits per second: "10M", "1Gi", "1500000".
 * @throws InvalidArgument, which names the annotation `what`
 */
function bitsPerSecond(text: string, what: string): number {
  const number = quantity(text);
  if (!Number.isSafeInteger(Math.round(number)))
    throw new CrispError('InvalidArgument', `${what}: "${text}" is not a quantity`);
  return Math.round(number);
}
