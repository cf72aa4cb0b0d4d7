// The volumes of a CT in a user namespace: each is bound through an idmapped
// view in the bundle, so that files of root on the host (the kubelet makes
// volumes as root) belong to root in the CT, as expected by a pod without a user
// namespace of its own.
import { mkdir, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { mountIdMapped } from '../../host/idmap.js';
import { bindMount, unmountBelow } from '../../host/mounts.js';
import type { Mount, Spec } from '../../shapes/spec.js';
import { log } from '../../log.js';
import { isBind } from './lxc-config.js';

/** The folder of a bundle's views. */
function viewsOf(bundle: string): string {
  return join(bundle, 'views');
}

/**
 * The spec with its volumes replaced by their views.  Not for mounts with
 * propagation, since a view does not get later mounts on its source; and mounts on
 * filesystems without idmapped mounts (nfs, overlay) are not changed.
 * @param shiftedSources see ContainerPlan
 */
export async function shiftedBinds(
  spec: Spec,
  bundle: string,
  namespaceFile: string,
  shiftedSources: readonly string[] = [],
): Promise<Spec> {
  const mounts = await Promise.all(
    spec.mounts.map((mount, index) => {
      const view = join(viewsOf(bundle), String(index));
      return shiftedSources.includes(mount.source ?? '')
        ? plainView(mount, view)
        : shifted(mount, view, namespaceFile);
    }),
  );
  return { ...spec, mounts };
}

/** The owners are right, but only root can traverse the folders above the source. */
async function plainView(mount: Mount, view: string): Promise<Mount> {
  await mkdir(view, { recursive: true });
  await bindMount(mount.source ?? '', view);
  return { ...mount, source: view };
}

async function shifted(mount: Mount, view: string, namespaceFile: string): Promise<Mount> {
  const { source, options = [] } = mount;
  if (
    !isBind(mount) ||
    source === undefined ||
    options.some((option) => option.endsWith('slave') || option.endsWith('shared'))
  )
    return mount;
  if ((await stat(source)).isDirectory()) await mkdir(view, { recursive: true });
  else {
    await mkdir(join(view, '..'), { recursive: true });
    await writeFile(view, '');
  }
  try {
    await mountIdMapped(source, view, namespaceFile);
    return { ...mount, source: view };
  } catch (error) {
    log.warn(
      { err: error, source, destination: mount.destination },
      'a volume keeps its owners: its filesystem has no idmapped mounts',
    );
    return mount;
  }
}

/** Unmounts the views of a bundle; the caller removes the bundle. */
export async function releaseBinds(bundle: string): Promise<void> {
  await unmountBelow(viewsOf(bundle));
}
