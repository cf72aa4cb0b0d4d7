// The container network: attaches and detaches pods through CNI plugins.  Called by pod/pod,
// sandbox-read, runtime (Status, UpdateRuntimeConfig) and recovery.
//
//   conflist dropped in ──► ready          (watched; no restart)
//   attach: ADD p1 ─► p2 ─► p3   each gets the previous result
//   detach: DEL p3 ─► p2 ─► p1   with the conflist of the ADD, even if the folder has changed
import { join } from 'node:path';
import * as z from 'zod';
import type { Config } from '../config/config.js';
import { CrispError } from '../errors.js';
import { makeFolder, readFileIfThere, readText, writeFileAtomic } from '../host/files.js';
import { withUndo } from '../host/undo.js';
import { log } from '../log.js';
import { ConfiguredNetwork } from './configured.js';
import {
  atLeast,
  attachmentSchema,
  pluginInput,
  podAddresses,
  renderTemplate,
  type AddResult,
  type Attachment,
} from './conflist.js';
import { Leases } from './leases.js';
import { isNamespaceFile } from '../pod/namespaces.js';
import { Plugins, type CallParameters } from './plugins.js';

export interface PodIdentity {
  readonly id: string;
  readonly name: string;
  readonly namespace: string;
  readonly uid: string;
  /** The pinned network namespace. */
  readonly netns: string;
}

/** The properties of a pod that the network uses. */
export interface PodNetwork extends PodIdentity {
  readonly portMappings: readonly PortMapping[];
  readonly bandwidth?:
    | {
        readonly ingressBitsPerSecond?: number | undefined;
        readonly egressBitsPerSecond?: number | undefined;
      }
    | undefined;
  readonly dns?:
    | {
        readonly servers: readonly string[];
        readonly searches: readonly string[];
        readonly options: readonly string[];
      }
    | undefined;
  readonly annotations?: Readonly<Record<string, string>> | undefined;
  readonly cgroupParent?: string | undefined;
}

export interface PortMapping {
  readonly protocol: 'tcp' | 'udp' | 'sctp';
  readonly containerPort: number;
  /** 0: not mapped. */
  readonly hostPort: number;
  /** Empty: every address of the host. */
  readonly hostIp: string;
}

export interface NetworkStatus {
  readonly ready: boolean;
  readonly reason: string;
  readonly message: string;
}

export interface NetworkOptions {
  readonly confDir: string;
  readonly binDirs: readonly string[];
  readonly pluginTimeoutMs: number;
  /** The root folder, with the notes of leases that survive a reboot (root/network). */
  readonly root: string;
  /** The file that setPodCidr() renders; empty or absent: none. */
  readonly template?: string | undefined;
}

/** @param root the folder of its notes: ROOT/network */
export function networkOptionsOf({ network }: Pick<Config, 'network'>, root: string): NetworkOptions {
  return {
    confDir: network.conf_dir,
    binDirs: network.bin_dirs,
    pluginTimeoutMs: network.plugin_timeout_seconds * 1000,
    root,
    template: network.template,
  };
}

/** The names of the pod, and its attachment. The caller provides the path of its namespace. */
const leaseSchema = z.object({
  pod: z.object({ id: z.string(), name: z.string(), namespace: z.string(), uid: z.string() }),
  attachment: attachmentSchema,
});
type Lease = z.infer<typeof leaseSchema>;

/** The interface of every pod, named as by all other runtimes. */
const interfaceName = 'eth0';
const renderedName = '10-crisp.conflist';

/** The pod network: calls the CNI plugins (CNI specification 1.1). */
export class Network {
  private readonly plugins: Plugins;
  private readonly leases: Leases<Lease>;
  private readonly configured: ConfiguredNetwork;
  /** Pods attached since the start, which garbage collection must not release. */
  private readonly held = new Set<string>();

  constructor(private readonly options: NetworkOptions) {
    this.plugins = new Plugins(options.binDirs, options.pluginTimeoutMs);
    this.configured = new ConfiguredNetwork(options.confDir, this.plugins);
    this.leases = new Leases(join(options.root, 'network'), leaseSchema);
  }

  /**
   * Loads the configuration and watches its folder. A missing or invalid one is not an error: status()
   * reports it.
   */
  async start(): Promise<void> {
    this.leases.open();
    await this.configured.load();
  }

  /** Stops watching the configuration; attachments are kept. */
  close(): void {
    this.configured.close();
  }

  /**
   * The last known status. If it can have changed without an event (a plugin
   * that was missing; a STATUS), this also starts a new check for the next
   * call: the kubelet calls Status every few seconds.
   */
  status(): NetworkStatus {
    const { network, problem } = this.configured;
    if (problem || (network && atLeast(network, '1.1.0'))) void this.configured.load();
    return problem
      ? { ready: false, reason: 'NetworkPluginNotReady', message: problem }
      : { ready: true, reason: '', message: '' };
  }

  /**
   * Gives the pod its interface, addresses, ports and limits (not its loopback:
   * bringLoopbackUp).  On failure, everything that was added is deleted again.
   * @throws NetworkNotReady, InvalidArgument, CniFailed, ToolTimeout, Cancelled
   */
  async attach(pod: PodNetwork, signal?: AbortSignal): Promise<Attachment> {
    if (!this.configured.network) await this.configured.load();
    const { network, problem, hint } = this.configured;
    if (!network)
      throw new CrispError('NetworkNotReady', problem, { stage: 'cni add', ...(hint ? { hint } : {}) });
    const parameters = { ...callParameters(pod), netns: pod.netns };
    let attachment: Attachment = {
      ips: [],
      containerId: pod.id,
      interfaceName,
      network,
      runtimeConfig: runtimeConfig(pod),
      result: undefined,
    };

    return withUndo('attach network', async (undo) => {
      this.held.add(pod.id);
      const called: (typeof network.plugins)[number][] = []; // the others have nothing to undo, and may not even be installed
      undo.push('cni del', () =>
        this.detach(pod, { ...attachment, network: { ...network, plugins: called } }),
      );
      this.leases.note(pod.id, { pod, attachment });
      for (const plugin of network.plugins) {
        const input = pluginInput(network, plugin, {
          runtimeConfig: attachment.runtimeConfig,
          prevResult: attachment.result,
        });
        await this.plugins.find(plugin.type);
        called.push(plugin);
        const result = await this.plugins.call('ADD', plugin.type, input, parameters, signal);
        if (!result)
          throw new CrispError('CniFailed', `CNI plugin ${plugin.type} answered ADD with nothing`, {
            stage: 'cni add',
            tool: plugin.type,
          });
        attachment = { ...attachment, result: result as AddResult };
      }
      attachment = { ...attachment, ips: podAddresses(attachment.result ?? {}, interfaceName) };
      if (attachment.ips.length === 0)
        throw new CrispError('CniFailed', `network ${network.name} gave the pod no address`, {
          stage: 'cni add',
          hint: 'its configuration needs a plugin that gives addresses (ipam)',
        });
      this.leases.note(pod.id, { pod, attachment });
      return attachment;
    });
  }

  /** Whether a pod can have host ports: a plugin of the network supports them (portmap). */
  get mapsPorts(): boolean {
    return (
      this.configured.network?.plugins.some(({ capabilities }) => capabilities?.['portMappings']) ?? false
    );
  }

  /** The ids of all attachments that are noted here. */
  async noted(): Promise<string[]> {
    return this.leases.ids();
  }

  /**
   * Detaches the pod from its network: idempotent, also if its namespace is gone. Without
   * an attachment, the note of the ADD is used; without a note, there is nothing to
   * delete. A failing plugin does not stop the other DELs.
   * @throws CniFailed or ToolTimeout of the first plugin that failed; the note is then
   * kept
   */
  async detach(pod: PodIdentity, attachment?: Attachment): Promise<void> {
    this.held.delete(pod.id);
    const noted = attachment ? undefined : await this.leases.read(pod.id);
    const known =
      noted && noted !== 'unreadable'
        ? { ...noted, pod: { ...pod, ...noted.pod, id: pod.id } }
        : { pod, attachment };
    const network = known.attachment?.network ?? (noted ? this.configured.network : undefined);
    if (network) {
      const parameters = {
        ...callParameters(known.pod),
        netns: (await isNamespaceFile(pod.netns)) ? pod.netns : '',
      };
      const failures: unknown[] = [];
      for (const plugin of [...network.plugins].reverse()) {
        const input = pluginInput(network, plugin, {
          runtimeConfig: known.attachment?.runtimeConfig ?? {},
          prevResult: known.attachment?.result,
        });
        await this.plugins
          .call('DEL', plugin.type, input, parameters)
          .catch((error: unknown) => failures.push(error));
      }
      if (failures.length) throw failures[0];
    }
    await this.leases.forget(pod.id);
  }

  /**
   * Whether the pod's network is still as ADD made it.
   * @returns false: this network has CHECK disabled
   * @throws CniFailed if a plugin reports a difference
   */
  async check(pod: PodNetwork, attachment: Attachment): Promise<boolean> {
    const { network } = attachment;
    if (network.disableCheck || !atLeast(network, '0.4.0')) return false;
    const parameters = { ...callParameters(pod), netns: pod.netns };
    for (const plugin of network.plugins) {
      const input = pluginInput(network, plugin, {
        runtimeConfig: attachment.runtimeConfig,
        prevResult: attachment.result,
      });
      await this.plugins.call('CHECK', plugin.type, input, parameters);
    }
    return true;
  }

  /**
   * Releases the resources of pods that are gone: each noted attachment that is
   * neither valid nor made since the start; then the plugins' own GC, if the
   * network supports it. Failures are logged and retried at the next start.
   * @param valid the ids of the pods that are attached
   * @param netnsOf the path of a pod's pinned namespace, if it still exists
   */
  async collectGarbage(valid: readonly string[], netnsOf: (id: string) => string = () => ''): Promise<void> {
    const kept = new Set([...valid, ...this.held]);
    for (const id of await this.leases.ids()) {
      if (kept.has(id)) continue;
      try {
        await this.detach({ id, name: '', namespace: '', uid: '', netns: netnsOf(id) });
        log.info({ podId: id }, 'released the addresses of a pod that is gone');
      } catch (error) {
        log.warn({ err: error, podId: id }, 'cannot release the addresses of a pod that is gone');
      }
    }
    const { network } = this.configured;
    if (!network || network.disableGC || !atLeast(network, '1.1.0')) return;
    const validAttachments = [...kept].map((containerID) => ({ containerID, ifname: interfaceName }));
    for (const plugin of network.plugins) {
      await this.plugins
        .call('GC', plugin.type, pluginInput(network, plugin, { validAttachments }))
        .catch((error: unknown) =>
          log.warn({ err: error, plugin: plugin.type }, 'garbage collection of a CNI plugin failed'),
        );
    }
  }

  /**
   * Renders the configured template with the node's address ranges into the CNI
   * folder; without a template there is nothing to do.
   * @param cidr one range, or an IPv4 and an IPv6 range separated by a comma
   * @throws InvalidArgument, CniConfigInvalid
   */
  async setPodCidr(cidr: string): Promise<void> {
    const { template, confDir } = this.options;
    if (!template) return;
    const text = renderTemplate(await readText(template, { maxBytes: 1 << 20 }), cidr, template);
    const path = join(confDir, renderedName);
    if ((await readFileIfThere(path)) === text) return;
    makeFolder(confDir, 0o755);
    await writeFileAtomic(path, text, 0o644);
    await this.configured.load();
  }
}

/** The names of a pod for the plugins; the keys of CNI_ARGS are the same in all Kubernetes runtimes. */
function callParameters(pod: PodIdentity): Omit<CallParameters, 'netns'> {
  const args = {
    IgnoreUnknown: '1',
    K8S_POD_NAMESPACE: pod.namespace,
    K8S_POD_NAME: pod.name,
    K8S_POD_INFRA_CONTAINER_ID: pod.id,
    K8S_POD_UID: pod.uid,
  };
  for (const value of Object.values(args)) {
    if (/[;=]/.test(value))
      throw new CrispError(
        'InvalidArgument',
        `"${value}" cannot be part of a pod's name: it would be parsed as a CNI argument`,
        { stage: 'cni' },
      );
  }
  return {
    containerId: pod.id,
    interfaceName,
    args: Object.entries(args)
      .map(([key, value]) => `${key}=${value}`)
      .join(';'),
  };
}

/**
 * The values of the capabilities that a plugin can request, by their names in CNI's CONVENTIONS.md and in
 * containerd.
 */
function runtimeConfig(pod: PodNetwork): Record<string, unknown> {
  const ports = pod.portMappings.filter((mapping) => mapping.hostPort > 0);
  const { ingressBitsPerSecond: ingress, egressBitsPerSecond: egress } = pod.bandwidth ?? {};
  return {
    ...(ports.length
      ? {
          portMappings: ports.map(({ hostPort, containerPort, protocol, hostIp }) => ({
            hostPort,
            containerPort,
            protocol,
            hostIP: hostIp,
          })),
        }
      : {}),
    ...(ingress || egress
      ? {
          bandwidth: {
            ...(ingress ? { ingressRate: ingress, ingressBurst: burst(ingress) } : {}),
            ...(egress ? { egressRate: egress, egressBurst: burst(egress) } : {}),
          },
        }
      : {}),
    ...(pod.dns ? { dns: pod.dns } : {}),
    ...(pod.annotations ? { 'io.kubernetes.cri.pod-annotations': pod.annotations } : {}),
    ...(pod.cgroupParent ? { cgroupPath: pod.cgroupParent } : {}),
  };
}

/**
 * The burst in bits: a tenth of a second, but at least one packet of the
 * maximum size (64 KiB), which a smaller token bucket would never let through.
 */
function burst(bitsPerSecond: number): number {
  return Math.max(Math.ceil(bitsPerSecond / 10), 64 * 1024 * 8);
}
