// Image references, normalised as in every client: "busybox" is
// docker.io/library/busybox:latest.  Pure; called by the image store and pulls.
import { CrispError } from '../errors.js';

export interface Reference {
  /** Registry and repository: "docker.io/library/busybox". */
  readonly repository: string;
  /** undefined with a digest and no tag. */
  readonly tag: string | undefined;
  /** "sha256:…" */
  readonly digest: string | undefined;
  /** The full normalised name; with a digest it has no tag, since the digest decides. */
  readonly name: string;
}

/** The repository (255, github.com/distribution/reference), a tag and a digest, with room to spare. */
const tagPattern = /^\w[\w.-]{0,127}$/;
const digestPattern = /^sha256:[0-9a-f]{64}$|^sha512:[0-9a-f]{128}$/;
const domainPattern = /^(?:[a-zA-Z0-9](?:[a-zA-Z0-9.-]*[a-zA-Z0-9])?|\[[0-9a-fA-F:]+\])(?::\d+)?$/;
const pathPattern = /^[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*(?:\/[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*)*$/;

/** The limit of registries and clients (NameTotalLengthMax of the distribution project). */
const maxRepositoryLength = 255;
/** A repository, a tag of 128 characters and a sha512 digest, with some room. */
const maxReferenceLength = 640;

/** Parses and normalises a reference. @throws InvalidArgument */
export function parseReference(text: string): Reference {
  const invalid = (why: string): CrispError =>
    new CrispError('InvalidArgument', `image reference "${text.slice(0, 100)}" is malformed: ${why}`);
  if (text.length > maxReferenceLength) throw invalid(`it is longer than ${maxReferenceLength} characters`);
  const transport = /^[a-z-]+:\/\//.exec(text)?.[0];
  if (transport) throw invalid(`leave out "${transport}"; images are pulled from registries only`);
  const [beforeDigest = '', digest, ...more] = text.split('@');
  if (more.length > 0) throw invalid('more than one @');
  if (digest !== undefined && !digestPattern.test(digest))
    throw invalid('the digest must be sha256: and 64 hex digits');
  const colon = beforeDigest.lastIndexOf(':');
  const hasTag = colon > beforeDigest.lastIndexOf('/');
  const tag = hasTag ? beforeDigest.slice(colon + 1) : undefined;
  if (tag !== undefined && !tagPattern.test(tag)) throw invalid('the tag is not valid');
  const repository = normaliseRepository(hasTag ? beforeDigest.slice(0, colon) : beforeDigest);
  if (!repository) throw invalid('the repository must be lower case words joined by /, . _ or -');
  if (repository.length > maxRepositoryLength)
    throw invalid(`the repository is longer than ${maxRepositoryLength} characters`);
  if (digest !== undefined) return { repository, tag, digest, name: `${repository}@${digest}` };
  return { repository, tag: tag ?? 'latest', digest: undefined, name: `${repository}:${tag ?? 'latest'}` };
}

/**
 * The former name of Docker Hub, still used for its credentials: for skopeo and the store it is docker.io.
 */
const formerHub = 'index.docker.io';

function normaliseRepository(text: string): string | undefined {
  const slash = text.indexOf('/');
  const first = text.slice(0, slash);
  const isDomain = slash > 0 && (first.includes('.') || first.includes(':') || first === 'localhost');
  const domain = isDomain && first !== formerHub ? first : 'docker.io';
  const path = isDomain ? text.slice(slash + 1) : text;
  if (!domainPattern.test(domain) || !pathPattern.test(path)) return undefined;
  return `${domain}/${domain === 'docker.io' && !path.includes('/') ? `library/${path}` : path}`;
}

/**
 * Whether a registry, given by its host without the port, is on this machine. It then needs no TLS, as with
 * the other runtimes.
 */
export function isLoopback(host: string): boolean {
  return (
    host === 'localhost' || host === '[::1]' || /^127(\.(\d|[1-9]\d|1\d\d|2[0-4]\d|25[0-5])){3}$/.test(host)
  );
}

/** Whether a text can only be an image id: "sha256:HEX", or 12 and more hex digits. */
export function looksLikeId(text: string): boolean {
  return /^sha256:[0-9a-f]{12,64}$/.test(text) || /^[0-9a-f]{12,64}$/.test(text);
}

/** An entry of images.pinned: a reference, or a prefix of names followed by *. @throws InvalidConfigFile */
export function pinPattern(text: string): (name: string) => boolean {
  if (text.endsWith('*')) return (name) => name.startsWith(text.slice(0, -1));
  try {
    const wanted = parseReference(text).name;
    return (name) => name === wanted;
  } catch (error) {
    throw new CrispError('InvalidConfigFile', `images.pinned: ${(error as Error).message}`);
  }
}
