// Registries on loopback.  startRegistry: a real docker-registry on a folder of
// its own, in front of which startProxy misbehaves where a test says so; used by
// the image tests.  startBadRegistry: a stub that only misbehaves; used by the
// tests of bad input.
import { execFile, spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { mkdir, writeFile } from 'node:fs/promises';
import {
  createServer,
  request as httpRequest,
  type IncomingMessage,
  type Server,
  type ServerResponse,
} from 'node:http';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { promisify } from 'node:util';
import { diesWithUs } from './machine.js';

const run = promisify(execFile);

export interface RegistryOptions {
  /** Asks for these credentials (HTTP basic, checked against an htpasswd file). */
  readonly credentials?: { readonly username: string; readonly password: string };
  /** Serves TLS with a certificate that only certsDir vouches for. */
  readonly tls?: boolean;
}

export interface Registry {
  /** HOST:PORT, the first part of its images' names. */
  readonly address: string;
  /** containers-certs.d(5): trusts the certificate of this registry. */
  readonly certsDir: string;
  /** Pushes an OCI layout with all that its index names; "repository:tag" -> the full name. */
  push(layout: { readonly path: string }, name: string): Promise<string>;
  close(): Promise<void>;
}

/** Starts a real docker-registry that keeps its things below `folder`. */
export async function startRegistry(
  folder: string,
  { credentials, tls = false }: RegistryOptions = {},
): Promise<Registry> {
  const certsDir = join(folder, 'certs.d');
  await mkdir(join(folder, 'blobs'), { recursive: true });
  const http: Record<string, unknown> = { addr: '127.0.0.1:0' };
  if (tls) {
    http['tls'] = { certificate: join(folder, 'cert.pem'), key: join(folder, 'key.pem') };
    await run('openssl', [
      'req',
      '-x509',
      '-newkey',
      'ec',
      '-pkeyopt',
      'ec_paramgen_curve:P-256',
      '-nodes',
      '-days',
      '2',
      '-subj',
      '/CN=registry',
      '-addext',
      'subjectAltName=IP:127.0.0.1',
      '-keyout',
      join(folder, 'key.pem'),
      '-out',
      join(folder, 'cert.pem'),
    ]);
  }
  if (credentials)
    await writeFile(
      join(folder, 'htpasswd'),
      `${credentials.username}:${await bcrypt(credentials.password)}\n`,
    );
  // JSON is YAML too
  await writeFile(
    join(folder, 'registry.yml'),
    JSON.stringify({
      version: 0.1,
      log: { level: 'info', formatter: 'json' },
      storage: { filesystem: { rootdirectory: join(folder, 'blobs') } },
      http,
      ...(credentials ? { auth: { htpasswd: { realm: 'test', path: join(folder, 'htpasswd') } } } : {}),
    }),
  );
  const [tool = '', ...args] = diesWithUs(['docker-registry', 'serve', join(folder, 'registry.yml')]);
  const child = spawn(tool, args, { stdio: ['ignore', 'ignore', 'pipe'] });
  const closed = once(child, 'close');
  let said = '';
  const address = await new Promise<string>((resolve, reject) => {
    createInterface({ input: child.stderr })
      .on('line', (line) => {
        said += line;
        const listening = /listening on (127\.0\.0\.1:\d+)/.exec(line);
        if (listening?.[1]) resolve(listening[1]);
      })
      .on('close', () => reject(new Error(`docker-registry has ended: ${said.slice(-2000)}`)));
  });
  if (tls) {
    await mkdir(join(certsDir, address), { recursive: true });
    await run('cp', [join(folder, 'cert.pem'), join(certsDir, address, 'ca.crt')]);
  }
  return {
    address,
    certsDir,
    push: async (layout, name) => {
      await run('skopeo', [
        '--insecure-policy',
        'copy',
        '--quiet',
        '--all',
        '--preserve-digests',
        ...(tls ? ['--dest-cert-dir', join(certsDir, address)] : ['--dest-tls-verify=false']),
        ...(credentials ? ['--dest-creds', `${credentials.username}:${credentials.password}`] : []),
        `oci:${layout.path}`,
        `docker://${address}/${name}`,
      ]);
      return `${address}/${name}`;
    },
    close: async () => {
      child.kill('SIGKILL');
      await closed;
    },
  };
}

/** bcrypt, which the registry wants in its htpasswd file: from libcrypt, by way of Perl. */
async function bcrypt(password: string): Promise<string> {
  const { stdout } = await run('perl', [
    '-e',
    'print crypt($ARGV[0], q($2y$05$saltsaltsaltsaltsaltsa))',
    password,
  ]);
  return stdout;
}

/**
 * Handles a request: true if it was answered here; otherwise it is passed on to the
 * registry, and with `cutAfter` the connection is cut after that many bytes of the answer.
 * @param blob the digest, if it is a blob that is asked for
 */
export type Interception = (
  response: ServerResponse,
  request: IncomingMessage,
  blob: string | undefined,
) => Handling | Promise<Handling>;
type Handling = boolean | { readonly cutAfter: number };

export interface Proxy {
  readonly address: string;
  /** The requests: "GET /v2/…". */
  readonly requests: readonly string[];
  /** Changes its behaviour from now on; undefined: pass everything on. */
  intercept(interception: Interception | undefined): void;
  close(): Promise<void>;
}

/**
 * A proxy in front of a registry (without TLS), which passes on all requests that it does not answer itself.
 */
export async function startProxy(registry: Registry, first?: Interception): Promise<Proxy> {
  let interception = first;
  const requests: string[] = [];
  const [host, port] = registry.address.split(':');
  const server = createServer(
    (request, response) =>
      void (async () => {
        const { method = '', url = '', headers } = request;
        requests.push(`${method} ${url}`);
        const blob = method === 'GET' ? /\/blobs\/(sha256:\w+)$/.exec(url)?.[1] : undefined;
        const handling = (await interception?.(response, request, blob)) ?? false;
        if (handling === true) return;
        const onward = httpRequest({ host, port, method, path: url, headers }, (answer) => {
          response.writeHead(answer.statusCode ?? 502, answer.headers);
          if (handling) void passPart(answer, response, handling.cutAfter);
          else answer.pipe(response);
        });
        onward.on('error', () => response.destroy());
        request.pipe(onward);
      })(),
  );
  const address = await listening(server);
  return {
    address,
    requests,
    intercept: (next) => {
      interception = next;
    },
    close: () => closed(server),
  };
}

async function passPart(answer: IncomingMessage, response: ServerResponse, bytes: number): Promise<void> {
  let left = bytes;
  for await (const chunk of answer as AsyncIterable<Buffer>) {
    const part = chunk.subarray(0, left);
    await new Promise((resolve) => response.write(part, resolve));
    left -= part.length;
    if (left === 0) break;
  }
  response.destroy();
}

export interface BadRegistry {
  readonly address: string;
  /** Until a client waits for a blob that does not come. */
  readonly hanging: Promise<void>;
  close(): Promise<void>;
}

/**
 * denies: requires credentials that do not exist.  lies: a blob differs from
 * its digest.  hangs: never sends a blob.
 */
export async function startBadRegistry(manner: 'denies' | 'lies' | 'hangs'): Promise<BadRegistry> {
  const config = Buffer.from(
    JSON.stringify({
      architecture: 'amd64',
      os: 'linux',
      rootfs: { type: 'layers', diff_ids: [] },
      config: {},
    }),
  );
  const digest = `sha256:${createHash('sha256').update(config).digest('hex')}`;
  const manifest = JSON.stringify({
    schemaVersion: 2,
    mediaType: 'application/vnd.oci.image.manifest.v1+json',
    config: { mediaType: 'application/vnd.oci.image.config.v1+json', digest, size: config.length },
    layers: [],
  });
  let hangs = (): void => undefined;
  const hanging = new Promise<void>((resolve) => {
    hangs = resolve;
  });
  const server = createServer((request, response) => {
    if (manner === 'denies') {
      response
        .writeHead(401, { 'www-authenticate': 'Basic realm="nobody"' })
        .end('{"errors":[{"code":"UNAUTHORIZED","message":"authentication required"}]}');
    } else if (request.url?.includes('/manifests/')) {
      response.writeHead(200, { 'content-type': 'application/vnd.oci.image.manifest.v1+json' }).end(manifest);
    } else if (request.url?.includes('/blobs/')) {
      if (manner === 'lies')
        response.writeHead(200, { 'content-length': config.length }).end(Buffer.alloc(config.length, 'x'));
      else hangs();
    } else {
      response.writeHead(200).end('{}');
    }
  });
  return { address: await listening(server), hanging, close: () => closed(server) };
}

async function listening(server: Server): Promise<string> {
  await new Promise<void>((resolve) => {
    server.listen(0, '127.0.0.1', resolve);
  });
  return `127.0.0.1:${(server.address() as AddressInfo).port}`;
}

/** An address on which no process listens. */
export async function closedAddress(): Promise<string> {
  const registry = await startBadRegistry('denies');
  await registry.close();
  return registry.address;
}

function closed(server: Server): Promise<void> {
  server.closeAllConnections();
  return new Promise((resolve) => {
    server.close(() => resolve());
  });
}
