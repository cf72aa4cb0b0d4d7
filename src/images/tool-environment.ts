// The environment of skopeo and of the credential helpers that it starts.  Pure;
// called by pull.ts.

/** What Go programs know of proxies (golang.org/x/net/http/httpproxy) and of certificates (crypto/x509). */
const passedOn = ['HTTP_PROXY', 'HTTPS_PROXY', 'ALL_PROXY', 'NO_PROXY'].flatMap((name) => [
  name,
  name.toLowerCase(),
]);
const certificates = ['SSL_CERT_FILE', 'SSL_CERT_DIR'];

/**
 * A Go program asks a server that does not answer for 20 s; with this variable
 * it leaves the question to the C library, which ends after 8 s (resolv.conf(5)).
 */
const resolver = { RES_OPTIONS: 'timeout:2 attempts:2' };

/** @param service the environment of the service @param configured images.environment, which decides */
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
