// An image, as shared by the folders of crisp: the data of ListImages, and
// the configuration for containers.
import type { ImageConfig } from './image-config.js';

export interface Image {
  /** "sha256:…", the digest of its config. */
  readonly id: string;
  /** Full names with tag. */
  readonly tags: readonly string[];
  /** REPOSITORY@sha256:…, first the reference by which it was pulled. */
  readonly digests: readonly string[];
  readonly sizeBytes: number;
  /** The User of its config, in the form of the CRI: by number or by name. */
  readonly user: { readonly uid?: number; readonly name?: string };
  /** Not to be garbage-collected. */
  readonly pinned: boolean;
  readonly config: ImageConfig;
  /** Set if it is a template of Proxmox and not an OCI image: it has no layers. */
  readonly template?: string;
}
