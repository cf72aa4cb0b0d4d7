// Maps error messages of skopeo to errors of the catalogue.  Pure; called by
// skopeo.ts and pull.ts.
import { CrispError, lastLines, type ErrorId } from '../errors.js';

const stage = 'pull image';

/** Patterns of messages. The first match decides: a denied request often says "not found" as well. */
const meanings: readonly [RegExp, ErrorId][] = [
  [/no space left on device|disk quota exceeded/i, 'DiskFull'],
  [/failed to execute/, 'ToolMissing'],
  [/invalid reference format/, 'InvalidArgument'],
  [/error loading trust policy|loading registries configuration|authfile/i, 'InvalidConfigFile'],
  [
    /source image rejected|rejected by policy|signature (was|is) required|invalid signature/i,
    'SignatureValidationFailed',
  ],
  [
    /unauthorized|authentication required|access to the resource is denied|denied:|403 \(Forbidden\)|StatusCode: 40[13]|invalid username\/password|unable to retrieve auth token/i,
    'RegistryDenied',
  ],
  [
    /manifest unknown|name unknown|404 \(?Not Found|StatusCode: 404|no image found in (manifest list|image index)|does not exist/i,
    'NotFoundInRegistry',
  ],
  [
    /parsing image configuration|exceeded maximum allowed size|parsing manifest|digest did not match|does not match (expected|provided)|digest mismatch|untarring file|error (processing|unpacking|applying) .*(tar|layer)|invalid (checksum|tar header)|(gzip|zstd|flate|magic number).*(invalid|corrupt|mismatch)/i,
    'ImageCorrupt',
  ],
  [
    /connection (refused|reset)|no such host|name resolution|i\/o timeout|timed? ?out|no route to host|network is unreachable|server misbehaving|EOF|tls:|x509|server gave HTTP response|toomanyrequests|too many requests|invalid status code|StatusCode: (429|5\d\d)|unexpected HTTP status|invalid character .* looking for/i,
    'RegistryUnavailable',
  ],
];
/** A layer that the copy would have shared was removed with another image. */
export const lostLayer = /locating layer for blob|layer not known|parent layer/;

/** The end of skopeo's stderr -> an error of the catalogue. */
export function explain(what: string, stderr: string): CrispError {
  const fatal = /level=fatal msg="(.*)"/.exec(stderr)?.[1]?.replaceAll('\\"', '"');
  const words = fatal ?? stderr;
  const id = meanings.find(([pattern]) => pattern.test(words))?.[1] ?? 'StorageFailed';
  return new CrispError(id, `${what} failed: ${lastLines(words, 400)}`, { stage, tool: 'skopeo' });
}

/**
 * Whether the same pull may succeed a moment later: 429, 5xx, lost and stalled connections. Not a name that
 * is unknown to DNS.
 */
export function isPassing(error: unknown): boolean {
  if (!(error instanceof CrispError)) return false;
  if (error.id === 'PullStalled') return true;
  return (
    error.id === 'RegistryUnavailable' && passing.test(error.message) && !/\blookup /.test(error.message)
  );
}
const passing =
  /\b(429|50[0-4])\b|too ?many ?requests|connection reset|broken pipe|EOF|i\/o timeout|timed out|TLS handshake timeout|timeout (awaiting|exceeded)|http2:/i;
