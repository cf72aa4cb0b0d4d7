// Image references, normalised as every client means them: "busybox" is
// docker.io/library/busybox:latest.  Pure; called by the image store and pulls.
import { CrispError } from '../errors.js';

export interface Reference {
  /** Registry and repository: "docker.io/library/busybox". */
  readonly repository: string;
  /** undefined with a digest and no tag. */
  readonly tag: string | undefined;
  /** "sha256:…" */
  readonly digest: string | undefined;
  /** The whole normalised name; with a digest it has no tag, since the digest decides. */
  readonly name: string;
}

/** The repository (255, github.com/distribution/reference), a tag and a digest, with room to spare. */
const longestReference = 512;
const longestRepository = 255;
const tagPattern = /^\w[\w.-]{0,127}$/;
const digestPattern = /^sha256:[0-9a-f]{64}$|^sha512:[0-9a-f]{128}$/;
const domainPattern = /^(?:[a-zA-Z0-9](?:[a-zA-Z0-9.-]*[a-zA-Z0-9])?|\[[0-9a-fA-F:]+\])(?::\d+)?$/;
const pathPattern = /^[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*(?:\/[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*)*$/;

/** Parses and normalises a reference. @throws InvalidArgument */
export function parseReference(text: string): Reference {
  const invalid = (why: string): CrispError =>
    new CrispError('InvalidArgument', `image reference "${text.slice(0, 300)}" is malformed: ${why}`);
  const [beforeDigest = '', digest, ...more] = text.split('@');
  if (more.length > 0) throw invalid('more than one @');
  if (digest !== undefined && !digestPattern.test(digest))
    throw invalid('the digest must be sha256: and 64 hex digits');
  const colon = beforeDigest.lastIndexOf(':');
  const hasTag = colon > beforeDigest.lastIndexOf('/');
  const tag = hasTag ? beforeDigest.slice(colon + 1) : undefined;
  if (tag !== undefined && !tagPattern.test(tag)) throw invalid('the tag is not valid');
  const repository = normaliseRepository(hasTag ? beforeDigest.slice(0, colon) : beforeDigest);
  if (text.length > longestReference) throw invalid(`it has more than ${longestReference} characters`);
  if (!repository)
    throw invalid('the repository must be lower case words joined by /, . _ or -, of at most 255 characters');
  if (digest !== undefined) return { repository, tag, digest, name: `${repository}@${digest}` };
  return { repository, tag: tag ?? 'latest', digest: undefined, name: `${repository}:${tag ?? 'latest'}` };
}

/** As Docker Hub was once called, and as its credentials still are: for skopeo and the store it is docker.io. */
const formerHub = 'index.docker.io';

function normaliseRepository(text: string): string | undefined {
  const slash = text.indexOf('/');
  const first = text.slice(0, slash);
  const isDomain = slash > 0 && (first.includes('.') || first.includes(':') || first === 'localhost');
  const domain = isDomain && first !== formerHub ? first : 'docker.io';
  const path = isDomain ? text.slice(slash + 1) : text;
  if (text.length > longestRepository || !domainPattern.test(domain) || !pathPattern.test(path))
    return undefined;
  return `${domain}/${domain === 'docker.io' && !path.includes('/') ? `library/${path}` : path}`;
}

/** Whether a text can only be an image id: "sha256:HEX", or 12 and more hex digits. */
export function looksLikeId(text: string): boolean {
  return /^sha256:[0-9a-f]{12,64}$/.test(text) || /^[0-9a-f]{12,64}$/.test(text);
}

/** One of images.pinned: a reference, or the beginning of names before a trailing *. @throws InvalidConfigFile */
export function pinPattern(text: string): (name: string) => boolean {
  if (text.endsWith('*')) return (name) => name.startsWith(text.slice(0, -1));
  try {
    const wanted = parseReference(text).name;
    return (name) => name === wanted;
  } catch (error) {
    throw new CrispError('InvalidConfigFile', `images.pinned: ${(error as Error).message}`);
  }
}
