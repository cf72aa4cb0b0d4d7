// A registry that misbehaves, on loopback: for what a real one does not do on
// demand.  Used by the tests of bad input.
import { createHash } from 'node:crypto';
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';

export interface BadRegistry { readonly address: string; close(): Promise<void> }

/**
 * denies: wants credentials that nobody has.  lies: a blob differs from its
 * digest.  hangs: never sends a blob.
 */
export async function startBadRegistry(manner: 'denies' | 'lies' | 'hangs'): Promise<BadRegistry> {
  const config = Buffer.from(JSON.stringify({ architecture: 'amd64', os: 'linux', rootfs: { type: 'layers', diff_ids: [] }, config: {} }));
  const digest = `sha256:${createHash('sha256').update(config).digest('hex')}`;
  const manifest = JSON.stringify({
    schemaVersion: 2, mediaType: 'application/vnd.oci.image.manifest.v1+json',
    config: { mediaType: 'application/vnd.oci.image.config.v1+json', digest, size: config.length }, layers: [],
  });
  const server = createServer((request, response) => {
    if (manner === 'denies') {
      response.writeHead(401, { 'www-authenticate': 'Basic realm="nobody"' }).end('{"errors":[{"code":"UNAUTHORIZED","message":"authentication required"}]}');
    } else if (request.url?.includes('/manifests/')) {
      response.writeHead(200, { 'content-type': 'application/vnd.oci.image.manifest.v1+json' }).end(manifest);
    } else if (request.url?.includes('/blobs/')) {
      if (manner === 'lies') response.writeHead(200, { 'content-length': config.length }).end(Buffer.alloc(config.length, 'x'));
    } else {
      response.writeHead(200).end('{}');
    }
  });
  await new Promise<void>((resolve) => { server.listen(0, '127.0.0.1', resolve); });
  return { address: `127.0.0.1:${(server.address() as AddressInfo).port}`, close: () => closed(server) };
}

/** An address where nobody listens. */
export async function closedAddress(): Promise<string> {
  const registry = await startBadRegistry('denies');
  await registry.close();
  return registry.address;
}

function closed(server: Server): Promise<void> {
  server.closeAllConnections();
  return new Promise((resolve) => { server.close(() => resolve()); });
}
