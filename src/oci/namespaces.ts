// Which namespaces a container has, and where its cgroup lies. Pure.
import type { NamespaceOption__Output } from '../cri/generated/runtime/v1/NamespaceOption.js';
import type { SandboxPlan } from '../backends/backend.js';
import type { HostFacts } from './host-facts.js';
import type { Linux } from './spec.js';

/**
 * The pod's pinned namespaces are joined by path; a namespace that is not in
 * the list is the host's.
 * @param targetPid for pid mode TARGET: a process of the target container
 */
export function containerNamespaces(options: NamespaceOption__Output | null, plan: SandboxPlan, targetPid: number | undefined, host: Pick<HostFacts, 'cgroup'>): Linux['namespaces'] {
  const { network, ipc, uts, pid, user } = plan.namespaces;
  const joined = ([['network', network], ['ipc', ipc], ['uts', uts], ['user', user]] as const).flatMap(([type, path]) => (path ? [{ type, path }] : []));
  return [{ type: 'mount' }, ...joined, ...pidNamespace(), ...(host.cgroup === 'v2' ? [{ type: 'cgroup' as const }] : [])];

  function pidNamespace(): Linux['namespaces'] {
    switch (options?.pid) {
      case 'NODE': return [];
      case 'TARGET': return [{ type: 'pid', path: `/proc/${targetPid}/ns/pid` }];
      case 'POD': return pid ? [{ type: 'pid', path: pid }] : [{ type: 'pid' }];
      default: return [{ type: 'pid' }];
    }
  }
}

/** cgroupsPath as the driver wants it: PARENT/ID, or SLICE:PREFIX:ID for systemd (runc and crun read it so). */
export function cgroupsPath(parent: string, containerId: string, systemd: boolean): string {
  return systemd ? `${parent.split('/').filter(Boolean).at(-1) ?? 'system.slice'}:crisp:${containerId}` : `${parent.replace(/\/+$/, '')}/${containerId}`;
}
