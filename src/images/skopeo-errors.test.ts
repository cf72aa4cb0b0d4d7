import { expect, test } from '@jest/globals';
import { explain } from './skopeo-errors.js';

const fatal = (words: string): string =>
  `time="2026-01-01T00:00:00Z" level=fatal msg="${words.replaceAll('"', '\\"')}"\n`;
const source = 'initializing source docker://quay.io/app:1: ';

// What skopeo 1.9 to 1.20 says; the cases that a registry on loopback can be brought to are in test/integration.
test.each([
  ['NotFoundInRegistry', 'reading blob sha256:ab: fetching blob: StatusCode: 404, ""'],
  ['RegistryDenied', 'reading blob sha256:ab: fetching blob: StatusCode: 403, ""'],
  ['RegistryUnavailable', 'reading blob sha256:ab: fetching blob: StatusCode: 503, "busy"'],
  [
    'RegistryUnavailable',
    `${source}pinging container registry quay.io: Get "https://quay.io/v2/": dial tcp 10.0.0.1:443: connect: connection refused`,
  ],
  [
    'RegistryUnavailable',
    `${source}pinging container registry quay.io: Get "https://quay.io/v2/": dial tcp: lookup quay.io on 10.0.0.1:53: no such host`,
  ],
  [
    'RegistryUnavailable',
    `${source}pinging container registry quay.io: Get "https://quay.io/v2/": dial tcp 10.0.0.1:443: i/o timeout`,
  ],
  [
    'RegistryUnavailable',
    `${source}pinging container registry quay.io: Get "https://quay.io/v2/": x509: certificate signed by unknown authority`,
  ],
  [
    'RegistryUnavailable',
    `${source}pinging container registry quay.io: Get "https://quay.io/v2/": http: server gave HTTP response to HTTPS client`,
  ],
  [
    'RegistryUnavailable',
    `${source}reading manifest 1 in docker.io/library/app: toomanyrequests: You have reached your pull rate limit.`,
  ],
  [
    'RegistryUnavailable',
    'reading blob sha256:aa: Error fetching blob: invalid status code from registry 503 (Service Unavailable)',
  ],
  [
    'RegistryUnavailable',
    'writing blob: storing blob to file "/x/storage1/1": happened during read: unexpected EOF',
  ],
  // A blob that was cut twice, or whose rest the registry does not send.
  [
    'RegistryUnavailable',
    'writing blob: happened during read: (heuristic tuning data: total 40000 @1042.104 ms, last retry 20000 @30.2 ms, last progress @ 1.5 ms): unexpected EOF',
  ],
  [
    'RegistryUnavailable',
    'writing blob: happened during read: unexpected EOF (after reconnecting, server did not process a Range: header, status 200)',
  ],
  [
    'RegistryUnavailable',
    'Error reading signatures: Get "https://quay.io/x": dial tcp 10.0.0.1:443: connect: connection refused',
  ],
  ['NotFoundInRegistry', `${source}reading manifest 1 in quay.io/app: manifest unknown: manifest unknown`],
  ['NotFoundInRegistry', `${source}reading manifest 1 in quay.io/app: name unknown: repository not found`],
  [
    'NotFoundInRegistry',
    'choosing an image from manifest list docker://quay.io/app:1: no image found in manifest list for architecture amd64, variant "", OS linux',
  ],
  [
    'NotFoundInRegistry',
    'choosing an image from manifest list docker://quay.io/app:1: no image found in image index for architecture "amd64", variant "", OS "linux"',
  ],
  [
    'RegistryDenied',
    `${source}reading manifest 1 in docker.io/me/app: errors:\ndenied: requested access to the resource is denied\nunauthorized: authentication required`.replaceAll(
      '\n',
      '\\n',
    ),
  ],
  [
    'RegistryDenied',
    `${source}unable to retrieve auth token: invalid username/password: unauthorized: incorrect username or password`,
  ],
  [
    'RegistryDenied',
    `${source}pinging container registry quay.io: invalid status code from registry 403 (Forbidden)`,
  ],
  [
    'SignatureValidationFailed',
    'Source image rejected: Running image docker://quay.io/app:1 is rejected by policy.',
  ],
  ['SignatureValidationFailed', 'Source image rejected: A signature was required, but no signature exists'],
  [
    'ImageCorrupt',
    'writing blob: storing blob to file "/x/1": happened during read: Digest did not match, expected sha256:aa, got sha256:bb',
  ],
  [
    'ImageCorrupt',
    'parsing image configuration: Download config.json digest sha256:aa does not match expected sha256:bb',
  ],
  [
    'ImageCorrupt',
    'writing blob: adding layer with blob "sha256:aa": Error processing tar file(exit status 1): unexpected EOF',
  ],
  [
    'ImageCorrupt',
    'initializing source oci-archive:/x.tar:: creating temp directory: untarring file "/x/oci1": unexpected EOF',
  ],
  [
    'DiskFull',
    'writing blob: adding layer with blob "sha256:aa": Error processing tar file(exit status 1): write /usr/x: no space left on device',
  ],
  [
    'InvalidConfigFile',
    'Error loading trust policy: open /etc/containers/policy.json: no such file or directory',
  ],
  ['ToolMissing', 'flock: failed to execute skopeo: No such file or directory'],
  ['StorageFailed', 'something that nobody has seen yet'],
])('%s: %s', (id, words) => {
  const error = explain('pull of quay.io/app:1', words.startsWith('flock') ? words : fatal(words));
  expect(error.id).toBe(id);
  expect(error.message).toContain(words.slice(0, 40));
  expect(error.message).toContain('pull of quay.io/app:1 failed: ');
});
