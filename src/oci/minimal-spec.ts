// The smallest spec that runs an image: the minimal profile of `crisp bundle`. Pure.
import { defaultCapabilities } from './capabilities.js';
import { maskedPaths, readonlyPaths } from './hidden-paths.js';
import type { ImageConfig } from '../shapes/image-config.js';
import { baseMounts, ownSharedMemory, sysfs } from './mounts.js';
import { containerArgs, containerEnv, workingFolder } from './process.js';
import type { Spec } from '../shapes/spec.js';
import { resolveUser, type AccountFiles } from './users.js';

/**
 * The image's own command, in namespaces of its own, without a pod.
 * @param rootfs relative to the bundle, or absolute
 * @throws InvalidArgument if the image has no command, UserNotFound
 */
export function minimalSpec(image: ImageConfig, accounts: AccountFiles, rootfs = 'rootfs'): Spec {
  const {
    uid,
    gid,
    supplementalGroups: additionalGids,
    home,
  } = resolveUser(null, null, image.User ?? '', accounts);
  const capabilities = [...defaultCapabilities];
  return {
    ociVersion: '1.0.2',
    hostname: 'crisp',
    process: {
      user: { uid, gid, additionalGids },
      args: containerArgs({ command: [], args: [] }, image),
      env: containerEnv({ envs: [], tty: false }, image, { hostname: 'crisp', home }),
      cwd: workingFolder({ working_dir: '' }, image),
      capabilities: {
        bounding: capabilities,
        effective: capabilities,
        permitted: capabilities,
        inheritable: [],
        ambient: [],
      },
      noNewPrivileges: true,
    },
    root: { path: rootfs },
    mounts: [...baseMounts, ownSharedMemory, sysfs('ro')],
    linux: {
      namespaces: (['pid', 'network', 'mount', 'ipc', 'uts'] as const).map((type) => ({ type })),
      maskedPaths: [...maskedPaths],
      readonlyPaths: [...readonlyPaths],
    },
  };
}
