// Pulls over connections that break, through proxies, and from registries on this machine.
import { afterAll, afterEach, beforeAll, describe, expect, test } from '@jest/globals';
import { execFile } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { readdir, readFile, utimes, writeFile } from 'node:fs/promises';
import { createServer, request as httpRequest } from 'node:http';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { toolEnvironment } from '../../src/images/tool-environment.js';
import { makeLayout } from '../helpers/image.js';
import { startProxy, type Interception, type Proxy, type Registry } from '../helpers/registry.js';
import { noneUsed, TestStore } from '../helpers/store.js';
import { eventually } from '../helpers/wait.js';

const run = promisify(execFile);

let store: TestStore;
let registry: Registry;
let proxy: Proxy;
beforeAll(async () => {
  store = await TestStore.open({ pull_progress_timeout_seconds: 2 });
  registry = await store.registry();
  proxy = await startProxy(registry);
});
afterEach(async () => {
  proxy.intercept(undefined);
  for (const image of await store.images.list()) await store.images.remove(image.id, noneUsed);
});
afterAll(async () => {
  await proxy?.close();
  await store?.destroy();
});

/** An image of five layers behind the proxy. */
async function pushed(name: string): Promise<{ reference: string; layers: readonly string[] }> {
  const layers = Array.from({ length: 5 }, (_, index) => ({ [`layer${index}`]: randomBytes(50_000) }));
  const made = await makeLayout(store.folder, { layers });
  const reference = (await registry.push(made, name)).replace(registry.address, proxy.address);
  return { reference, layers: made.manifests[0]?.layers ?? [] };
}
/** How often each of these blobs was asked for since the last call. */
function countsOf(layers: readonly string[], from: number): number[] {
  const requests = proxy.requests.slice(from);
  return layers.map(
    (layer) => requests.filter((line) => line.startsWith('GET') && line.endsWith(layer)).length,
  );
}
/** Bytes of a layer, less than a half: skopeo 1.18 resumes a blob that was cut, once, before it gives up. */
const cutAfter = 20_000;
/** Cuts a blob, the first `times` times. Others have come by then. */
function cutting(blob: string, times: number, others: readonly string[]): Interception {
  let left = times;
  const sent = new Set<string>();
  return async (response, _request, asked) => {
    if (asked !== undefined && asked !== blob) {
      response.once('finish', () => sent.add(asked));
      return false;
    }
    if (asked !== blob || left <= 0) return false;
    left--;
    while (!others.every((one) => sent.has(one) || left < times - 1))
      await new Promise((resolve) => {
        setTimeout(resolve, 10);
      });
    return { cutAfter };
  };
}

describe('a connection that is cut in the last of five layers', () => {
  test('once: the pull succeeds, and only that layer is fetched again', async () => {
    const { reference, layers } = await pushed('cut-once:1');
    const from = proxy.requests.length;
    proxy.intercept(cutting(layers[4] ?? '', 1, layers.slice(0, 4)));
    await store.images.pull(reference, undefined);
    expect(countsOf(layers, from)).toEqual([1, 1, 1, 1, 2]);
  });

  test('always: the pull fails, and the next one fetches the rest only', async () => {
    const { reference, layers } = await pushed('cut-always:1');
    const first = proxy.requests.length;
    proxy.intercept(cutting(layers[4] ?? '', Infinity, layers.slice(0, 4)));
    await expect(store.images.pull(reference, undefined)).rejects.toMatchObject({
      id: 'RegistryUnavailable',
    });
    expect(countsOf(layers, first).slice(0, 4)).toEqual([1, 1, 1, 1]);
    // what waits for the next pull is on the disk, and counted
    expect((await store.images.usage()).usedBytes).toBe((await store.du()).usedBytes);
    expect((await store.images.usage()).usedBytes).toBeGreaterThan(200_000);
    proxy.intercept(undefined);
    const second = proxy.requests.length;
    await store.images.pull(reference, undefined);
    expect(countsOf(layers, second)).toEqual([0, 0, 0, 0, 1]);
  });

  test('by the caller who goes away: the next pull fetches the rest only', async () => {
    const { reference, layers } = await pushed('given-up:1');
    const caller = new AbortController();
    const from = proxy.requests.length;
    proxy.intercept((_response, _request, blob) => blob === layers[4]); // which is never answered
    const pull = store.images.pull(reference, undefined, caller.signal);
    pull.catch(() => undefined);
    await eventually(async () => {
      expect(await store.wholeLayers()).toBe(4);
    });
    caller.abort();
    await expect(pull).rejects.toMatchObject({ id: 'Cancelled' });
    proxy.intercept(undefined);
    await store.images.pull(reference, undefined);
    expect(countsOf(layers, from)).toEqual([1, 1, 1, 1, 2]);
  });
});

describe('a connection that is cut in a layer with others above it', () => {
  /** Fails in the second of five layers, again and again, after all others have come. */
  async function failed(name: string): Promise<{ reference: string; layers: readonly string[] }> {
    const image = await pushed(name);
    const [first = '', cut = '', ...above] = image.layers;
    proxy.intercept(cutting(cut, Infinity, [first, ...above]));
    await expect(store.images.pull(image.reference, undefined)).rejects.toMatchObject({
      id: 'RegistryUnavailable',
    });
    proxy.intercept(undefined);
    return image;
  }

  test('the next pull fetches that layer only, also after a restart', async () => {
    const first = proxy.requests.length;
    const { reference, layers } = await failed('middle:1');
    expect(countsOf(layers, first)).toEqual([1, expect.any(Number), 2, 2, 2]); // a second time into the folder, then no more
    const second = proxy.requests.length;
    const { images } = await store.reopened({ pull_progress_timeout_seconds: 2 });
    await images.pull(reference, undefined);
    expect(countsOf(layers, second)).toEqual([0, 1, 0, 0, 0]);
    expect(await images.leftovers()).toEqual([]);
  });

  test('the image is the same as by a direct pull: id, tags and digests', async () => {
    const layers = Array.from({ length: 5 }, (_, index) => ({ [`layer${index}`]: randomBytes(50_000) }));
    const made = await makeLayout(store.folder, [
      { layers },
      { layers: [{ other: 'machine' }], architecture: 's390x' },
    ]);
    const forUs = made.manifests[0]?.layers ?? [];
    const names = [
      await registry.push(made, 'index:1'), // an index of OCI
      `${registry.address}/index@${made.digest}`,
      `${registry.address}/docker:1`, // a manifest of Docker's
    ];
    await run('skopeo', [
      ...['--insecure-policy', 'copy', '--quiet', '--format', 'v2s2'],
      ...['--src-tls-verify=false', '--dest-tls-verify=false'],
      ...[`docker://${names[0]}`, `docker://${names[2]}`],
    ]);
    for (const name of names.map((one) => one.replace(registry.address, proxy.address))) {
      const direct = await store.images.pull(name, undefined);
      await store.images.remove(direct.id, noneUsed);
      const from = proxy.requests.length;
      let cut: string | undefined;
      let times = 2; // then skopeo has given up
      proxy.intercept((_response, _request, blob) => {
        if (blob === undefined || blob === direct.id || times === 0) return false;
        cut ??= blob;
        if (blob !== cut) return false;
        times--;
        return { cutAfter };
      });
      const staged = await store.images.pull(name, undefined);
      expect(cut).toBeDefined();
      expect(proxy.requests.slice(from).filter((line) => line.endsWith(cut ?? ''))).toHaveLength(3);
      expect(staged).toEqual(direct);
      proxy.intercept(undefined);
      await store.images.remove(staged.id, noneUsed);
    }
    expect(forUs).toHaveLength(5);
    expect(await store.images.leftovers()).toEqual([]);
  });

  test('and never pulled again: what was kept is swept after half an hour', async () => {
    await failed('old:1');
    await store.reopened();
    const left = await store.images.leftovers();
    expect(left.map(({ kind }) => kind).sort()).toEqual(['blobs', 'layer']);
    const [layers, staged] = [
      join(store.storage, 'overlay-layers', 'layers.json'),
      join(store.root, 'staged'),
    ];
    const hourAgo = new Date(Date.now() - 3_600_000);
    for (const name of await readdir(staged)) await utimes(join(staged, name), hourAgo, hourAgo);
    await utimes(staged, hourAgo, hourAgo);
    await writeFile(
      layers,
      (await readFile(layers, 'utf8')).replaceAll(
        /"created":"[^"]*"/g,
        `"created":"${hourAgo.toISOString()}"`,
      ),
    );
    const { images } = await store.reopened();
    expect(await images.leftovers()).toEqual([]);
    expect(await store.kept()).toEqual([]);
  });
});

describe('an answer that passes', () => {
  test.each<[string, (response: Parameters<Interception>[0]) => void]>([
    ['429', (response) => response.writeHead(429, { 'retry-after': '1' }).end()],
    ['500', (response) => response.writeHead(500).end()],
    ['503', (response) => response.writeHead(503).end()],
    ['a reset', (response) => response.destroy()],
    ['silence', () => undefined],
  ])('(%s) is followed by another try', async (name, answer) => {
    const { reference, layers } = await pushed(`passing-${name.replace(' ', '-')}:1`);
    for (const at of ['/manifests/', layers[2] ?? '']) {
      let refused = false;
      proxy.intercept((response, request) => {
        if (refused || !request.url?.includes(at)) return false;
        refused = true;
        answer(response);
        return true;
      });
      const image = await store.images.pull(reference, undefined);
      expect(refused).toBe(true);
      await store.images.remove(image.id, noneUsed);
    }
  });

  test('ends with the patience of the caller', async () => {
    const { reference } = await pushed('impatient:1');
    const caller = new AbortController();
    let asked = 0;
    proxy.intercept((response, request) => {
      if (!request.url?.includes('/manifests/')) return false;
      if (++asked === 2) caller.abort();
      response.writeHead(503).end();
      return true;
    });
    await expect(store.images.pull(reference, undefined, caller.signal)).rejects.toMatchObject({
      id: 'Cancelled',
    });
  });

  test('is not expected where the answer is final', async () => {
    await pushed('final:1');
    const from = proxy.requests.length;
    await expect(store.images.pull(`${proxy.address}/final:2`, undefined)).rejects.toMatchObject({
      id: 'NotFoundInRegistry',
    });
    expect(proxy.requests.slice(from).filter((line) => line.includes('/manifests/'))).toHaveLength(1);
  });
});

describe('a registry on this machine', () => {
  test.each(['127.0.0.1', 'localhost'])('needs no TLS and no configuration: %s', async (host) => {
    const { reference } = await pushed(`plain-${host}:1`);
    const image = await store.images.pull(reference.replace('127.0.0.1', host), undefined);
    expect(image.tags).toHaveLength(1);
  });

  test('by another name does: nothing else gets weaker', async () => {
    await pushed('other-name:1');
    await writeFile(
      join(store.folder, 'registries.conf'),
      `[[registry]]\nprefix = "registry.example"\nlocation = "${proxy.address}"\n`,
    );
    await expect(store.images.pull('registry.example/other-name:1', undefined)).rejects.toMatchObject({
      id: 'RegistryUnavailable',
    });
  });

  test('that the operator wants TLS of is held to it', async () => {
    const { reference } = await pushed('with-tls:1');
    await writeFile(
      join(store.folder, 'registries.conf'),
      `[[registry]]\nlocation = "127.0.0.1"\ninsecure = false\n`,
    );
    await expect(store.images.pull(reference, undefined)).rejects.toMatchObject({
      id: 'RegistryUnavailable',
    });
    await store.trust([]);
  });
});

test.each(['of the service', 'of the configuration'])('a proxy %s is used', async (whose) => {
  const { reference } = await pushed(`by-proxy-${whose.split(' ').at(-1)}:1`);
  await writeFile(
    join(store.folder, 'registries.conf'),
    `[[registry]]\nlocation = "registry.example"\ninsecure = true\n`,
  );
  // A forward proxy (RFC 9112, absolute-form) that knows where registry.example is; it refuses tunnels (CONNECT).
  const seen: string[] = [];
  const forward = createServer((request, response) => {
    seen.push(request.url ?? '');
    const [host, port] = proxy.address.split(':');
    const path = (request.url ?? '').replace('http://registry.example', '');
    const onward = httpRequest(
      { host, port, method: request.method, path, headers: request.headers },
      (answer) => {
        response.writeHead(answer.statusCode ?? 502, answer.headers);
        answer.pipe(response);
      },
    );
    request.pipe(onward);
  });
  await new Promise<void>((resolve) => {
    forward.listen(0, '127.0.0.1', resolve);
  });
  const address = `http://127.0.0.1:${(forward.address() as AddressInfo).port}`;
  const name = reference.replace(proxy.address, 'registry.example');
  const variables = { HTTP_PROXY: address, HTTPS_PROXY: address };
  try {
    if (whose === 'of the service') {
      Object.assign(process.env, variables);
      expect((await store.images.pull(name, undefined)).tags).toEqual([name]);
    } else {
      const { images } = await store.reopened({ environment: variables });
      await writeFile(
        join(store.folder, 'registries.conf'),
        `[[registry]]\nlocation = "registry.example"\ninsecure = true\n`,
      );
      expect((await images.pull(name, undefined)).tags).toEqual([name]);
    }
    expect(seen.some((url) => url.startsWith('http://registry.example/v2/'))).toBe(true);
  } finally {
    for (const key of Object.keys(variables)) delete process.env[key];
    forward.closeAllConnections();
    forward.close();
    await store.trust([]);
  }
});

test('a name server that does not answer is waited for less than 10 s', async () => {
  // A network of its own, with a name server (a socket that nobody reads) of its own.
  const resolver = join(store.folder, 'resolv.conf');
  await writeFile(resolver, 'nameserver 127.0.0.1\n');
  const script = `
    mount --make-rprivate / && mount --bind ${resolver} /etc/resolv.conf && ip link set lo up
    perl -MIO::Socket::INET -e 'IO::Socket::INET->new(LocalAddr => "127.0.0.1", LocalPort => 53, Proto => "udp") or die;
      open(my $ready, ">", $ARGV[0]); close $ready; exec "sleep", 30' ${resolver}.ready &
    while ! [ -e ${resolver}.ready ]; do sleep 0.05; done
    timeout --preserve-status --signal KILL 10 skopeo --insecure-policy copy docker://registry.example/app:1 dir:${store.folder}/none
    echo "exit $?"
    kill $!`;
  const { stdout, stderr } = await run('unshare', ['--net', '--mount', 'sh', '-c', script], {
    env: { PATH: process.env['PATH'], ...toolEnvironment({}, {}) },
  });
  expect(stderr).toMatch(/lookup registry\.example/);
  expect(stdout).toContain('exit 1');
});

test('an index in an index is followed, by tag and by digest', async () => {
  const made = await makeLayout(store.folder, [{ layers: [{ nested: 'yes' }] }], { nested: 2 });
  // skopeo pushes no such thing
  for (const [digest, type] of await blobsOf(made.path)) await upload(made.path, digest, type);
  for (const reference of [`${proxy.address}/nested:1`, `${proxy.address}/nested@${made.digest}`]) {
    const image = await store.images.pull(reference, undefined);
    expect(await store.images.find(reference)).toMatchObject({ id: image.id });
    await store.images.remove(image.id, noneUsed);
  }

  /** digest -> media type; undefined: a blob. Manifests before the indexes that name them. */
  async function blobsOf(path: string): Promise<[string, string | undefined][]> {
    const { stdout } = await run('sh', ['-c', `cd ${path}/blobs/sha256 && grep -l '' *`]);
    const all = await Promise.all(
      stdout
        .trim()
        .split('\n')
        .map(async (hex): Promise<[string, string | undefined, number]> => {
          const { stdout: text } = await run('head', ['-c', '200', `${path}/blobs/sha256/${hex}`]);
          const type = /^\{"schemaVersion":2,"mediaType":"([^"]+)"/.exec(text)?.[1];
          const depth = type?.includes('manifest.v1')
            ? 1
            : type
              ? text.includes('image.manifest')
                ? 2
                : 3
              : 0;
          return [`sha256:${hex}`, type, depth];
        }),
    );
    // the outermost index, which is the last, is the one of index.json
    return all
      .sort(
        ([first, , a], [second, , b]) =>
          a - b || (first === made.digest ? 1 : second === made.digest ? -1 : 0),
      )
      .map(([digest, type]) => [digest, type]);
  }
  async function upload(path: string, digest: string, type: string | undefined): Promise<void> {
    const file = `@${path}/blobs/${digest.replace(':', '/')}`;
    const base = `http://${registry.address}/v2/nested`;
    if (type === undefined) {
      const { stdout } = await run('curl', ['-sS', '-i', '-X', 'POST', `${base}/blobs/uploads/`]);
      const location = /^location: (\S+)/im.exec(stdout)?.[1] ?? '';
      await run('curl', [
        '-sSf',
        '-X',
        'PUT',
        '--data-binary',
        file,
        '-H',
        'content-type: application/octet-stream',
        `${location}&digest=${digest}`,
      ]);
    } else {
      for (const tag of digest === made.digest ? [digest, '1'] : [digest])
        await run('curl', [
          '-sSf',
          '-X',
          'PUT',
          '--data-binary',
          file,
          '-H',
          `content-type: ${type}`,
          `${base}/manifests/${tag}`,
        ]);
    }
  }
});
