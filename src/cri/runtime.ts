// Version, Status, RuntimeConfig and UpdateRuntimeConfig.
import { withoutSecrets } from '../config/config.js';
import { toCrispError } from '../errors.js';
import { log } from '../log.js';
import { findHolderTools } from '../pod/pid-holder.js';
import type { RuntimeConfigRequest__Output } from './generated/runtime/v1/RuntimeConfigRequest.js';
import type { RuntimeConfigResponse } from './generated/runtime/v1/RuntimeConfigResponse.js';
import type { StatusRequest__Output } from './generated/runtime/v1/StatusRequest.js';
import type { StatusResponse } from './generated/runtime/v1/StatusResponse.js';
import type { UpdateRuntimeConfigRequest__Output } from './generated/runtime/v1/UpdateRuntimeConfigRequest.js';
import type { UpdateRuntimeConfigResponse } from './generated/runtime/v1/UpdateRuntimeConfigResponse.js';
import type { VersionRequest__Output } from './generated/runtime/v1/VersionRequest.js';
import type { VersionResponse } from './generated/runtime/v1/VersionResponse.js';
import { setAside } from '../set-aside.js';
import { refreshHandlers } from './handlers.js';
import type { Services } from './services.js';
import { holderRuntimes } from './sandbox-run.js';

/** What these calls use. */
type Used = Pick<Services, 'config' | 'version' | 'host' | 'handlers' | 'network' | 'images'>;

/** The version of the kubelet's runtime API: always 0.1.0 so far. */
const kubeApiVersion = '0.1.0';

/** Version: that of the API, and that of crisp. */
export async function version(services: Used, _request: VersionRequest__Output): Promise<VersionResponse> {
  return {
    version: kubeApiVersion,
    runtime_name: 'crisp',
    runtime_version: services.version,
    runtime_api_version: 'v1',
  };
}

/**
 * Status, from the last probes: RuntimeReady with at least one ready handler, NetworkReady with a valid CNI
 * configuration.
 */
export async function status(services: Used, request: StatusRequest__Output): Promise<StatusResponse> {
  void refreshHandlers(services.handlers); // for the next call: the kubelet calls Status every few seconds
  const handlers = [...services.handlers].map(([name, { probe }]) => ({ name, ...probe }));
  const ready = handlers.filter((handler) => handler.ready);
  const network = services.network.status();
  const fallback = services.handlers.get(services.config.default_container_type)?.probe;
  if (request.verbose) await services.images.list(); // updates the images that are set aside
  return {
    status: {
      conditions: [
        ready.length > 0
          ? { type: 'RuntimeReady', status: true, reason: '', message: '' }
          : {
              type: 'RuntimeReady',
              status: false,
              reason: 'NoHandlerReady',
              message: handlers.map((handler) => `${handler.name}: ${handler.reason}`).join('; '),
            },
        { type: 'NetworkReady', status: network.ready, reason: network.reason, message: network.message },
        ...(await sharedPidCondition(services)),
      ],
    },
    runtime_handlers: [
      // The handler without a name is the default one.
      ...(fallback ? [{ name: '', features: features(fallback.features) }] : []),
      ...ready.map((handler) => ({ name: handler.name, features: features(handler.features) })),
    ],
    features: { supplemental_groups_policy: true, user_namespaces_host_network: false, mount_options: true },
    info: request.verbose
      ? {
          config: JSON.stringify(withoutSecrets(services.config)),
          // Objects, since crictl shows a JSON list as one string.
          handlers: JSON.stringify(
            Object.fromEntries([...services.handlers].map(([name, { probe }]) => [name, probe])),
          ),
          network: JSON.stringify(network),
          setAside: JSON.stringify({ records: setAside.all() }),
        }
      : {},
  };
}

/** Only present if false: the node is ready without it, for pods without a shared pid namespace. */
async function sharedPidCondition(services: Used) {
  try {
    await findHolderTools(holderRuntimes(services));
    return [];
  } catch (error) {
    const { id, message, hint } = toCrispError(error);
    return [{ type: 'SharedPidNamespaceReady', status: false, reason: id, message: `${message} (${hint})` }];
  }
}

function features(of: { recursiveReadOnlyMounts: boolean; userNamespaces: boolean }) {
  return { recursive_read_only_mounts: of.recursiveReadOnlyMounts, user_namespaces: of.userNamespaces };
}

/** RuntimeConfig (KEP-4033): the cgroup driver. */
export async function runtimeConfig(
  services: Used,
  _request: RuntimeConfigRequest__Output,
): Promise<RuntimeConfigResponse> {
  return {
    linux: {
      cgroup_driver: services.host.systemdCgroup ? 'SYSTEMD' : 'CGROUPFS',
    },
  };
}

/** UpdateRuntimeConfig: the pod CIDR, for the CNI template. @throws InvalidArgument */
export async function updateRuntimeConfig(
  services: Used,
  request: UpdateRuntimeConfigRequest__Output,
): Promise<UpdateRuntimeConfigResponse> {
  const podCidr = request.runtime_config?.network_config?.pod_cidr;
  if (podCidr) {
    await services.network.setPodCidr(podCidr);
    log.info({ podCidr }, 'pod CIDR set');
  }
  return {};
}
