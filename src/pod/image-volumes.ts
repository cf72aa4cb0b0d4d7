// Image volumes: images mounted read-only into containers (Mount.image). One
// view per mount, named CONTAINER-INDEX, so that two users of an image are
// independent of each other.
import { CrispError, toCrispError } from '../errors.js';
import type { Shift } from '../images/overlay.js';
import type { Rootfs } from '../images/rootfs.js';
import type { Images } from '../images/store.js';
import type { ContainerConfig__Output } from '../cri/generated/runtime/v1/ContainerConfig.js';

export interface ImageVolume {
  /** The mount point of the image on the host. */
  readonly path: string;
  readonly imageId: string;
}

/**
 * Mounts all image volumes of a container, by their index in config.mounts; with `shift`, files of root in
 * an image belong to the container's root.
 * @throws ImageVolumeMountFailed
 */
export async function mountImageVolumes(
  { images, rootfs }: { readonly images: Pick<Images, 'find'>; readonly rootfs: Rootfs },
  containerId: string,
  config: ContainerConfig__Output,
  shift: Shift | undefined,
): Promise<Map<number, ImageVolume>> {
  const mounted = new Map<number, ImageVolume>();
  for (const [index, { image: spec }] of config.mounts.entries()) {
    if (!spec?.image) continue;
    const image = await images.find(spec.image);
    if (!image)
      throw new CrispError(
        'ImageVolumeMountFailed',
        `the image ${spec.image} of mounts[${index}] is not on this node`,
      );
    try {
      mounted.set(index, {
        path: await rootfs.mountImage(`${containerId}-${index}`, image, shift),
        imageId: image.id,
      });
    } catch (error) {
      const failure = toCrispError(error);
      throw new CrispError('ImageVolumeMountFailed', `mounts[${index}]: ${failure.message}`, {
        stage: 'mount image volume',
        cause: error,
      });
    }
  }
  return mounted;
}

/** Unmounts them; no error for those that are not mounted. */
export async function unmountImageVolumes(
  { rootfs }: { readonly rootfs: Rootfs },
  { id, config }: { readonly id: string; readonly config: ContainerConfig__Output },
): Promise<void> {
  for (const [index, { image }] of config.mounts.entries()) {
    if (image?.image) await rootfs.unmountImage(`${id}-${index}`);
  }
}
