// Kernel files that a container cannot see, or cannot write, by default. A
// kubelet sends these lists itself, for each container that is not privileged
// and has the default procMount; other callers may send none.
import type { LinuxContainerSecurityContext__Output } from '../cri/generated/runtime/v1/LinuxContainerSecurityContext.js';
import type { PodSandboxConfig__Output } from '../cri/generated/runtime/v1/PodSandboxConfig.js';

/** The default of masked_paths, for callers that send none. */
export const maskedPaths: readonly string[] = [
  '/proc/asound',
  '/proc/acpi',
  '/proc/interrupts',
  '/proc/kcore',
  '/proc/keys',
  '/proc/latency_stats',
  '/proc/timer_list',
  '/proc/timer_stats',
  '/proc/sched_debug',
  '/proc/scsi',
  '/sys/firmware',
  '/sys/devices/virtual/powercap',
];
/** The default of readonly_paths, for callers that send none. */
export const readonlyPaths: readonly string[] = [
  '/proc/bus',
  '/proc/fs',
  '/proc/irq',
  '/proc/sys',
  '/proc/sysrq-trigger',
];

/**
 * The masked and read-only paths of a container. An empty list has two meanings,
 * which gRPC cannot distinguish: a kubelet sends it for procMount Unmasked, other
 * callers if they do not set it. Kubernetes accepts Unmasked only for a pod with
 * a user namespace (hostUsers: false), in which root has no rights over these
 * files, so there it means Unmasked, and otherwise "not set".
 */
export function hiddenPaths(
  security: LinuxContainerSecurityContext__Output | null,
  pod: PodSandboxConfig__Output,
): { maskedPaths?: string[]; readonlyPaths?: string[] } {
  if (security?.privileged) return {};
  const unmasked = pod.linux?.security_context?.namespace_options?.userns_options?.mode === 'POD';
  const orDefault = (named: readonly string[] = [], defaults: readonly string[]): string[] =>
    named.length || unmasked ? [...named] : [...defaults];
  return {
    maskedPaths: orDefault(security?.masked_paths, maskedPaths),
    readonlyPaths: orDefault(security?.readonly_paths, readonlyPaths),
  };
}
