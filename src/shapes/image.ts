// An image as the rooms of crisp speak of it: what ListImages tells, and the
// configuration that a container takes from it.
import type { ImageConfig } from './image-config.js';

export interface Image {
  /** "sha256:…", the digest of its config. */
  readonly id: string;
  /** Full names with tag. */
  readonly tags: readonly string[];
  /** REPOSITORY@sha256:…, first what it was pulled by. */
  readonly digests: readonly string[];
  readonly sizeBytes: number;
  /** Its config's User, as the CRI wants it: by number or by name. */
  readonly user: { readonly uid?: number; readonly name?: string };
  /** Not to be garbage-collected. */
  readonly pinned: boolean;
  readonly config: ImageConfig;
  /** It is this template of Proxmox, and no OCI image: it has no layers. */
  readonly template?: string;
}
