// The environment of skopeo and of the credential helpers that it starts.  Pure;
// called by pull.ts.

/**
 * The variables of Go programs for proxies (golang.org/x/net/http/httpproxy) and certificates (crypto/x509).
 */
const passedOn = ['HTTP_PROXY', 'HTTPS_PROXY', 'ALL_PROXY', 'NO_PROXY'].flatMap((name) => [
  name,
  name.toLowerCase(),
]);
const certificates = ['SSL_CERT_FILE', 'SSL_CERT_DIR'];

/**
 * Go's resolver waits 20 s for a server that does not answer; with this variable
 * the C library resolves names, which gives up after 8 s (resolv.conf(5)).
 */
const resolver = { RES_OPTIONS: 'timeout:2 attempts:2' };

/**
 * @param service the environment of the service @param configured images.environment, which takes precedence
 */
export function toolEnvironment(
  service: Readonly<Record<string, string | undefined>>,
  configured: Readonly<Record<string, string>>,
): Record<string, string> {
  const own = [...passedOn, ...certificates].flatMap((name) => {
    const value = service[name];
    return value === undefined ? [] : [[name, value] as const];
  });
  return { ...resolver, ...Object.fromEntries(own), ...configured };
}
