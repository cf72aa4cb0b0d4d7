// The ImageService.
import type { Image as CriImage } from './generated/runtime/v1/Image.js';
import type { ImageFsInfoRequest__Output } from './generated/runtime/v1/ImageFsInfoRequest.js';
import type { ImageFsInfoResponse } from './generated/runtime/v1/ImageFsInfoResponse.js';
import type { ImageSpec__Output } from './generated/runtime/v1/ImageSpec.js';
import type { ImageStatusRequest__Output } from './generated/runtime/v1/ImageStatusRequest.js';
import type { ImageStatusResponse } from './generated/runtime/v1/ImageStatusResponse.js';
import type { ListImagesRequest__Output } from './generated/runtime/v1/ListImagesRequest.js';
import type { ListImagesResponse } from './generated/runtime/v1/ListImagesResponse.js';
import type { PullImageRequest__Output } from './generated/runtime/v1/PullImageRequest.js';
import type { PullImageResponse } from './generated/runtime/v1/PullImageResponse.js';
import type { RemoveImageRequest__Output } from './generated/runtime/v1/RemoveImageRequest.js';
import type { RemoveImageResponse } from './generated/runtime/v1/RemoveImageResponse.js';
import type { StreamImagesRequest__Output } from './generated/runtime/v1/StreamImagesRequest.js';
import type { StreamImagesResponse } from './generated/runtime/v1/StreamImagesResponse.js';
import { CrispError, toCrispError } from '../errors.js';
import type { RegistryAuth } from '../images/store.js';
import type { Image } from '../shapes/image.js';
import { log } from '../log.js';
import { metrics } from '../metrics.js';
import { now } from '../records/records.js';
import { imagesOfStandalone } from '../records/standalone.js';
import type { Call, Services } from './services.js';
import { paginate } from './paginate.js';

/** What these calls use. */
type Used = Pick<Services, 'config' | 'store' | 'handlers' | 'images' | 'rootfs'>;

/** ListImages: all, or the image of the filter. */
export async function listImages(
  services: Used,
  request: ListImagesRequest__Output,
): Promise<ListImagesResponse> {
  return { images: (await filtered(services, request.filter?.image ?? null)).map(imageItem) };
}

/** StreamImages (KEP-5825): as ListImages, in pages. */
export async function* streamImages(
  services: Used,
  request: StreamImagesRequest__Output,
): AsyncGenerator<StreamImagesResponse> {
  for (const page of paginate(await filtered(services, request.filter?.image ?? null)))
    yield { images: page.map(imageItem) };
}

async function filtered(services: Used, filter: ImageSpec__Output | null): Promise<readonly Image[]> {
  if (!filter?.image) return services.images.list();
  const image = await services.images.find(filter.image);
  return image ? [image] : [];
}

/** A missing image is not an error: the answer has no image. */
export async function imageStatus(
  services: Used,
  request: ImageStatusRequest__Output,
): Promise<ImageStatusResponse> {
  const image = await services.images.find(named(request.image));
  if (!image) return { image: null };
  return {
    image: imageItem(image),
    info: request.verbose
      ? {
          info: JSON.stringify({
            imageSpec: { config: image.config },
            layers: await services.images.layers(image),
          }),
        }
      : {},
  };
}

/**
 * PullImage. Concurrent calls for one reference share a pull.
 * @throws InvalidArgument, NotFoundInRegistry, RegistryDenied, RegistryUnavailable, ImageCorrupt,
 * PullStalled, DiskFull
 */
export async function pullImage(
  services: Used,
  request: PullImageRequest__Output,
  call: Call,
): Promise<PullImageResponse> {
  const reference = named(request.image);
  const started = performance.now();
  const image = await services.images
    .pull(reference, authOf(request), call.signal)
    .catch((error: unknown) => {
      metrics.imagePulls.observe({ result: toCrispError(error).id }, (performance.now() - started) / 1000);
      throw error;
    });
  await services.rootfs.prepare(image).catch((error: unknown) => {
    log.warn({ err: error, image: reference }, 'layers not prepared: this is left to the first container');
  });
  metrics.imagePulls.observe({ result: 'ok' }, (performance.now() - started) / 1000);
  log.info({ image: reference, id: image.id, ms: Math.round(performance.now() - started) }, 'image pulled');
  return { image_ref: image.id };
}

function authOf({ auth }: PullImageRequest__Output): RegistryAuth | undefined {
  return auth
    ? {
        username: auth.username,
        password: auth.password,
        auth: auth.auth,
        serverAddress: auth.server_address,
        identityToken: auth.identity_token,
        registryToken: auth.registry_token,
      }
    : undefined;
}

/**
 * RemoveImage: removes all names of the image. No error if it does not exist.
 * @throws ImageInUse, InvalidArgument
 */
export async function removeImage(
  services: Used,
  request: RemoveImageRequest__Output,
): Promise<RemoveImageResponse> {
  const image = await services.images.find(named(request.image));
  await services.images.remove(named(request.image), async () => [
    ...services.store.usedImages(),
    ...(await imagesOfStandalone(services.config.cli_state)),
  ]);
  if (image) for (const { backend } of services.handlers.values()) await backend.forgetImage?.(image.id);
  return {};
}

/** ImageFsInfo: one filesystem for images and containers, in bytes and inodes. */
export async function imageFsInfo(
  services: Used,
  _request: ImageFsInfoRequest__Output,
): Promise<ImageFsInfoResponse> {
  const usage = await services.images.usage();
  const filesystem = {
    timestamp: now(),
    fs_id: { mountpoint: usage.mountpoint },
    used_bytes: { value: String(usage.usedBytes) },
    inodes_used: { value: String(usage.inodesUsed) },
  };
  return { image_filesystems: [filesystem], container_filesystems: [filesystem] };
}

function named(spec: ImageSpec__Output | null): string {
  if (!spec?.image) throw new CrispError('InvalidArgument', 'image.image is empty');
  return spec.image;
}

function imageItem(image: Image): CriImage {
  return {
    id: image.id,
    repo_tags: [...image.tags],
    repo_digests: [...image.digests],
    size: String(image.sizeBytes),
    pinned: image.pinned,
    uid: image.user.uid === undefined ? null : { value: String(image.user.uid) },
    username: image.user.name ?? '',
    spec: { image: image.id, annotations: {} },
  };
}
