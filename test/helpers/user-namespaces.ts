// The ids of user namespaces, as requests and as runtimes have them.
import type { IDMapping } from '../../src/cri/generated/runtime/v1/IDMapping.js';
import type { UserNamespace } from '../../src/cri/generated/runtime/v1/UserNamespace.js';

/** All 65,536 ids, from this one of the host on. */
export function idMap(host_id: number): IDMapping[] {
  return [{ host_id, container_id: 0, length: 65_536 }];
}

/** The same in the words of the runtime specification. */
export function specIdMap(hostID: number) {
  return [{ hostID, containerID: 0, size: 65_536 }];
}

export function userNamespaceFrom(hostId: number): UserNamespace {
  return { mode: 'POD', uids: idMap(hostId), gids: idMap(hostId) };
}

/** What a pod asks for. */
export function podInUserNamespace(hostId: number) {
  return {
    linux: { security_context: { namespace_options: { userns_options: userNamespaceFrom(hostId) } } },
  };
}
