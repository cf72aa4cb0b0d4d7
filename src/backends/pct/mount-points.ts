// Volumes of Proxmox (mpN) that replace mounts of a container.  Each belongs to one
// CT and is removed with it, like an emptyDir of one container.  A volume that
// several containers of a pod share cannot be replaced.
import { CrispError } from '../../errors.js';
import type { Mount, Spec } from '../../shapes/spec.js';
import type { ContainerPlan, ContainerRef } from '../backend.js';
import { isFolder } from './bundle.js';
import { annotationPrefix, type GuestOptions, type MountPoint } from './guest-options.js';
import { isBind } from './lxc-config.js';
import { specOf, stateOf } from './state.js';

/** The mount points of this container, which replace its mounts at the same paths. */
export function mountPointsOf(
  { spec }: Pick<ContainerPlan, 'spec'>,
  { mountPoints }: Pick<GuestOptions, 'mountPoints'>,
): readonly MountPoint[] {
  return mountPoints.filter(({ path }) => spec.mounts.some((mount) => isAt(mount, path)));
}

/** The spec without the replaced mounts. */
export function withoutMountPoints(spec: Spec, points: readonly MountPoint[]): Spec {
  return points.length === 0
    ? spec
    : {
        ...spec,
        mounts: spec.mounts.filter((mount) => !points.some(({ path }) => isAt(mount, path))),
      };
}

/** Whether this is a bind mount at the path, regardless of a trailing slash. */
export function isAt(mount: Mount, path: string): boolean {
  return isBind(mount) && mount.destination.replace(/\/+$/, '') === path;
}

/**
 * Refuses a mount point for a volume that another container of the pod also mounts
 * (an earlier attempt of the same container does not count), for a file, and below
 * another mount: PVE mounts its volumes before liblxc mounts the rest.
 * @param made all existing containers
 * @throws InvalidArgument
 */
export async function checkMountPoints(
  made: Iterable<ContainerRef>,
  plan: Pick<ContainerPlan, 'id' | 'name' | 'sandbox' | 'spec'>,
  { mountPoints }: Pick<GuestOptions, 'mountPoints'>,
): Promise<void> {
  if (mountPoints.length === 0) return;
  const { mounts } = withoutMountPoints(plan.spec, mountPoints);
  for (const point of mountPointsOf(plan, { mountPoints })) {
    const above = mounts.find(({ destination }) =>
      point.path.startsWith(`${destination.replace(/\/+$/, '')}/`),
    );
    if (above)
      throw refused(point, `${above.destination}, which the container mounts as well, would hide it`);
    if (plan.spec.mounts.some((mount) => isAt(mount, point.path) && !isFolder(mount.source ?? '')))
      throw refused(point, 'what the container mounts there is no folder');
  }
  for (const other of made) {
    const state = stateOf(other);
    if (other.id === plan.id || state?.sandboxId !== plan.sandbox.id || state.name === plan.name) continue;
    const theirs = await specOf(other);
    const point = mountPoints.find(
      ({ path }) => isShared(plan.spec, theirs, path) || isShared(theirs, plan.spec, path),
    );
    if (point)
      throw refused(
        point,
        `the containers ${state.name} and ${plan.name} share what is mounted there, and a volume of Proxmox is one container's`,
      );
  }
}

function refused({ index, path }: MountPoint, why: string): CrispError {
  return new CrispError('InvalidArgument', `annotation ${annotationPrefix}mp${index}: ${path}: ${why}`);
}

/** Whether `other` mounts, at any path, the source that `one` mounts at this path. */
function isShared(one: Spec, other: Spec, path: string): boolean {
  return one.mounts
    .filter((mount) => isAt(mount, path))
    .some(({ source }) => other.mounts.some((mount) => isBind(mount) && mount.source === source));
}
