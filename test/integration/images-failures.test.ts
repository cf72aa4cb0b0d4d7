// Pulls that cannot succeed, or are cut off: a clear answer, and nothing left.
import { afterAll, afterEach, beforeAll, describe, expect, test } from '@jest/globals';
import { execFile } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { mkdir, readdir, rm, watch, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { waitUntil } from '../../src/host/wait.js';
import { startDaemon } from '../helpers/daemon.js';
import { hintPattern } from '../helpers/hints.js';
import { makeLayout } from '../helpers/image.js';
import {
  closedAddress,
  startProxy,
  type Interception,
  type Proxy,
  type Registry,
} from '../helpers/registry.js';
import { noneUsed, commandsIn, TestStore } from '../helpers/store.js';
import { eventually } from '../helpers/wait.js';

const run = promisify(execFile);

let store: TestStore;
let registry: Registry;
let proxy: Proxy;
/** An image of two layers behind the proxy, of which the second is where it goes wrong. */
let reference: string;
let second: string;
let digest: string;
let size: number;
beforeAll(async () => {
  store = await TestStore.open({ pull_progress_timeout_seconds: 3 });
  registry = await store.registry();
  proxy = await startProxy(registry);
  const image = await makeLayout(store.folder, {
    layers: [{ first: randomBytes(20_000) }, { second: randomBytes(300_000) }],
  });
  reference = (await registry.push(image, 'failing:1')).replace(registry.address, proxy.address);
  digest = image.digest;
  second = image.manifests[0]?.layers[1] ?? '';
  size = 307_200; // a tar of one such file
});
afterEach(() => proxy.intercept(undefined));
afterAll(async () => {
  await proxy?.close();
  await store?.destroy();
});

async function nothingLeft(of = store): Promise<void> {
  expect(await of.images.list()).toEqual([]);
  expect(await of.kept()).toEqual([]);
  expect(await commandsIn(join(of.root, 'pulls'))).toEqual([]);
  expect(await of.images.usage()).toMatchObject(await of.du());
}
/** When the first layer has been stored, which the next pull continues with, or after a moment. */
const atSecond =
  (what: (response: Parameters<Interception>[0]) => void): Interception =>
  async (response, _request, blob) => {
    if (blob !== second) return false;
    await waitUntil(async () => (await store.images.layout.unusedLayers()).length > 0, {
      everyMs: 50,
      withinMs: 1000,
    });
    what(response);
    return true;
  };
const atManifest =
  (what: (response: Parameters<Interception>[0]) => void): Interception =>
  (response, request) => {
    const asked = request.url?.includes('/manifests/') ?? false;
    if (asked) what(response);
    return asked;
  };

const willBeTriedAgain = [
  'the connection is cut',
  'nothing comes any more',
  'nothing comes at all',
  'the registry fails',
];

describe('a pull fails', () => {
  beforeAll(() => store.trust([registry.address, proxy.address]));

  test.each<[string, string, Interception]>([
    [
      'other bytes come',
      'ImageCorrupt',
      atSecond((response) =>
        response.writeHead(200, { 'content-length': size }).end(Buffer.alloc(size, 'x')),
      ),
    ],
    [
      'fewer bytes come',
      'ImageCorrupt',
      atSecond((response) => response.writeHead(200).end(Buffer.alloc(1000, 'x'))),
    ],
    [
      'the connection is cut',
      'RegistryUnavailable',
      atSecond((response) => {
        response
          .writeHead(200, { 'content-length': size })
          .write(Buffer.alloc(1000, 'x'), () => response.destroy());
      }),
    ],
    [
      'nothing comes any more',
      'PullStalled',
      atSecond((response) => {
        response.writeHead(200, { 'content-length': size }).write(Buffer.alloc(1000, 'x'));
      }),
    ],
    ['nothing comes at all', 'PullStalled', atSecond(() => undefined)],
    [
      'the registry fails',
      'RegistryUnavailable',
      atSecond((response) => response.writeHead(503).end('busy')),
    ],
    ['a layer is missing', 'NotFoundInRegistry', atSecond((response) => response.writeHead(404).end())],
    [
      'the registry forbids it',
      'RegistryDenied',
      atManifest((response) =>
        response
          .writeHead(403, { 'content-type': 'application/json' })
          .end('{"errors":[{"code":"DENIED","message":"no"}]}'),
      ),
    ],
    [
      'a login page answers',
      'RegistryUnavailable',
      atManifest((response) =>
        response.writeHead(200, { 'content-type': 'text/html' }).end('<html>Welcome to our Wi-Fi</html>'),
      ),
    ],
    [
      'its tag has just gone',
      'NotFoundInRegistry',
      atManifest((response) =>
        response
          .writeHead(404, { 'content-type': 'application/json' })
          .end('{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}'),
      ),
    ],
  ])('when %s: %s', async (what, id, interception) => {
    proxy.intercept(interception);
    await expect(store.images.pull(reference, undefined)).rejects.toMatchObject({
      id,
      tool: 'skopeo',
      stage: 'pull image',
      message: expect.stringContaining(reference),
    });
    if (willBeTriedAgain.includes(what)) {
      expect(await store.images.layout.unusedLayers()).toHaveLength(1); // for the next pull
      await store.removeLeftovers();
    }
    await nothingLeft();
  });

  test('until what its hint names is mended', async () => {
    const image = await makeLayout(store.folder, { layers: [{ mended: randomBytes(20_000) }] });
    const name = (await registry.push(image, 'mended:1')).replace(registry.address, proxy.address);
    const blob = image.manifests[0]?.layers[0];
    const pull = () => store.images.pull(name, undefined);
    proxy.intercept((response, _request, asked) => {
      if (asked === blob) response.writeHead(200).end('other bytes');
      return asked === blob;
    });
    await expect(pull()).rejects.toMatchObject({
      report: expect.stringMatching(
        hintPattern('push the image again; check the proxy or mirror in between'),
      ),
    });
    proxy.intercept((_response, _request, asked) => asked === blob);
    await expect(pull()).rejects.toMatchObject({
      report: expect.stringMatching(
        hintPattern('check the network; the limit is images.pull_progress_timeout_seconds'),
      ),
    });
    proxy.intercept(undefined);
    await store.images.remove((await pull()).id, noneUsed);
    await store.removeLeftovers();
    await nothingLeft();
  });

  test('when another manifest comes than the digest names: ImageCorrupt', async () => {
    proxy.intercept(
      atManifest((response) =>
        response
          .writeHead(200, { 'content-type': 'application/vnd.oci.image.manifest.v1+json' })
          .end('{"schemaVersion":2}'),
      ),
    );
    await expect(store.images.pull(reference.replace(/:1$/, `@${digest}`), undefined)).rejects.toMatchObject({
      id: 'ImageCorrupt',
    });
    await nothingLeft();
  });

  test('and the next one succeeds', async () => {
    proxy.intercept(atSecond((response) => response.writeHead(500).end()));
    await expect(store.images.pull(reference, undefined)).rejects.toMatchObject({
      id: 'RegistryUnavailable',
    });
    proxy.intercept(undefined);
    await store.images.pull(reference, undefined);
    await store.images.remove(reference, noneUsed);
    await nothingLeft();
  });

  test('and leaves alone what another one is unpacking', async () => {
    const layout = await makeLayout(store.folder, { layers: [{ a: 'neighbour' }, { b: 'neighbour' }] });
    const neighbour = (await registry.push(layout, 'neighbour:1')).replace(registry.address, proxy.address);
    let release: () => void = () => undefined;
    const released = new Promise<void>((resolve) => {
      release = resolve;
    });
    proxy.intercept(async (response, _request, blob) => {
      if (blob === second) {
        response.writeHead(404).end();
        return true;
      }
      if (blob === layout.manifests[0]?.layers[1]) await released;
      return false;
    });
    const patient = await store.reopened();
    await store.trust([registry.address, proxy.address]);
    const other = patient.images.pull(neighbour, undefined);
    const unpacked = async (): Promise<unknown[]> =>
      [...(await store.images.layout.readLayers()).values()].filter(({ flags }) => !flags?.incomplete);
    await eventually(async () => {
      expect(await unpacked()).toHaveLength(1);
    });
    // one that we copy ourselves, and one of another process, as a command line's import is
    for (const { images } of [patient, store]) {
      await expect(images.pull(reference, undefined)).rejects.toMatchObject({ id: 'NotFoundInRegistry' });
      expect((await unpacked()).length).toBeGreaterThanOrEqual(1);
    }
    release();
    await other;
    expect((await store.images.list()).map(({ tags }) => tags)).toEqual([[neighbour]]);
    expect(await readdir(join(store.storage, 'overlay', 'l'))).toHaveLength(2);
    await store.images.remove(neighbour, noneUsed);
    await eventually(() => nothingLeft());
  });

  test.each<[string, () => Promise<string> | string, string]>([
    ['nobody listens', async () => `${await closedAddress()}/box:1`, 'RegistryUnavailable'],
    ['its host has no address', () => 'registry.invalid/box:1', 'RegistryUnavailable'],
    [
      'it speaks no TLS and is not trusted so',
      async () => {
        await writeFile(
          join(store.folder, 'registries.conf'),
          `[[registry]]\nprefix = "registry.example"\nlocation = "${proxy.address}"\n`,
        );
        return 'registry.example/failing:1';
      },
      'RegistryUnavailable',
    ],
    ['it has no such image', () => `${proxy.address}/none:1`, 'NotFoundInRegistry'],
    ['it has no such tag', () => `${proxy.address}/failing:none`, 'NotFoundInRegistry'],
    [
      'it has no such digest',
      () => `${proxy.address}/failing@sha256:${'0'.repeat(64)}`,
      'NotFoundInRegistry',
    ],
    ['the reference is malformed', () => `${proxy.address}/Failing:1`, 'InvalidArgument'],
    ['the reference is an option', () => '--help', 'InvalidArgument'],
  ])('because %s', async (_, referenceOf, id) => {
    await store.trust([registry.address, proxy.address]);
    await expect(store.images.pull(await referenceOf(), undefined)).rejects.toMatchObject({ id });
    await nothingLeft();
  });

  test.each<[string, string, string]>([
    ['rejects it', '{"default":[{"type":"reject"}]}', 'SignatureValidationFailed'],
    [
      'wants a signature',
      '{"default":[{"type":"signedBy","keyType":"GPGKeys","keyData":""}]}',
      'SignatureValidationFailed',
    ],
    ['does not parse', '{', 'InvalidConfigFile'],
  ])('because policy.json %s', async (_, policy, id) => {
    await store.trust([registry.address, proxy.address]);
    await writeFile(join(store.folder, 'policy.json'), policy);
    try {
      await expect(store.images.pull(reference, undefined)).rejects.toMatchObject({ id });
      await nothingLeft();
    } finally {
      await writeFile(join(store.folder, 'policy.json'), '{"default":[{"type":"insecureAcceptAnything"}]}');
    }
  });

  test('because registries.conf does not parse', async () => {
    await writeFile(join(store.folder, 'registries.conf'), '[[registry]\n');
    await expect(store.images.pull(reference, undefined)).rejects.toMatchObject({ id: 'InvalidConfigFile' });
    await store.trust([registry.address, proxy.address]);
    await nothingLeft();
  });

  test('because it has no image for this machine', async () => {
    const foreign = await registry.push(
      await makeLayout(store.folder, [{ layers: [{ a: '' }], architecture: 'mips64le' }]),
      'foreign:1',
    );
    await expect(store.images.pull(foreign, undefined)).rejects.toMatchObject({ id: 'NotFoundInRegistry' });
    await nothingLeft();
  });
});

test('a full disk is told from other failures, and is free again', async () => {
  const folder = await store.makeFolder('small');
  await run('mount', ['-t', 'tmpfs', '-o', 'size=1m', 'tmpfs', folder]);
  await mkdir(join(folder, 'tmp'));
  const small = await TestStore.open({}, folder);
  await small.trust([registry.address]);
  const big = await registry.push(
    await makeLayout(store.folder, {
      layers: [{ first: randomBytes(100_000) }, { second: randomBytes(600_000) }],
    }),
    'big:1',
  );
  await expect(small.images.pull(big, undefined)).rejects.toMatchObject({ id: 'DiskFull' });
  await nothingLeft(small);
  await rm(join(folder, 'root'), { recursive: true });
  await run('umount', [folder]);
});

describe('a pull that is cut off', () => {
  test('while a layer is unpacked is cleaned up at the next start', async () => {
    await store.trust([registry.address, proxy.address]);
    const large = await registry.push(
      await makeLayout(store.folder, {
        layers: [
          { first: randomBytes(10_000) },
          Object.fromEntries(Array.from({ length: 500 }, (_, index) => [`many/${index}`, `${index}`])),
        ],
      }),
      'large:1',
    );
    const overlay = join(store.storage, 'overlay');
    for (const layersSeen of [1, 2]) {
      const pull = store.images.pull(large, undefined);
      const failed = expect(pull).rejects.toMatchObject({ tool: 'skopeo' });
      let seen = 0;
      for await (const { filename } of watch(overlay))
        if (/^[0-9a-f]{64}$/.test(filename ?? '') && ++seen === layersSeen) break;
      // all at once, as a power cut would
      for (const { pid } of await commandsIn(join(store.root, 'pulls'))) process.kill(pid, 'SIGKILL');
      await failed;
      await writeFile(join(store.storage, 'overlay-layers', '.tmp-cut-off.tar-split.gz1'), ''); // it is rarely cut off while it writes this one
      const { images } = await store.reopened();
      await store.removeLeftovers(); // whole layers, if there are any
      await nothingLeft();
      await store.trust([registry.address, proxy.address]);
      await images.pull(large, undefined);
      await images.remove(large, noneUsed);
      await nothingLeft();
    }
  });

  test('while containers-storage tries what the kernel can do leaves no mount after the next start', async () => {
    const trial = join(store.storage, 'overlay', 'compat3426087255');
    for (const name of ['lower-mapped', 'merged']) {
      await mkdir(join(trial, name), { recursive: true });
      await run('mount', ['-t', 'tmpfs', 'none', join(trial, name)]);
    }
    try {
      await store.reopened();
      expect(await readdir(join(store.storage, 'overlay'))).not.toContain('compat3426087255');
    } finally {
      for (const name of ['lower-mapped', 'merged'])
        await run('umount', [join(trial, name)]).catch(() => undefined);
    }
  });

  test('by the end of the daemon ends too, and is cleaned up at its next start', async () => {
    const daemon = await startDaemon({
      network: false,
      config: { images: { registries_conf: join(store.folder, 'registries.conf') } },
    });
    try {
      await store.trust([registry.address, proxy.address]);
      const clean = await daemon.traces();
      let asked: () => void = () => undefined;
      const waits = new Promise<void>((resolve) => {
        asked = resolve;
      });
      proxy.intercept(atSecond(() => asked()));
      const pull = expect(daemon.client.image.PullImage({ image: { image: reference } })).rejects.toThrow();
      await waits;
      expect(await readdir(join(daemon.root, 'pulls'))).toHaveLength(1);
      await daemon.kill9();
      await pull;
      await eventually(async () => {
        expect(await commandsIn(join(daemon.root, 'pulls'))).toEqual([]);
      });
      await daemon.start();
      expect(await daemon.traces()).toEqual(clean);
      proxy.intercept(undefined);
      await daemon.client.image.PullImage({ image: { image: reference } }); // with the layers that had come
      await daemon.client.image.RemoveImage({ image: { image: reference } });
      expect(await readdir(join(daemon.root, 'storage', 'overlay', 'l'))).toEqual([]);
    } finally {
      await daemon.destroy();
    }
  });
});

test('a damaged image is not there, and pulling it mends it', async () => {
  await store.trust([registry.address, proxy.address]);
  const image = await store.images.pull(reference, undefined);
  const id = image.id.slice('sha256:'.length);
  const config = join(store.storage, 'overlay-images', id, `=${Buffer.from(image.id).toString('base64')}`);
  await writeFile(config, '{"config":');
  const { images } = await store.reopened();
  await store.trust([registry.address, proxy.address]);
  expect(await images.list()).toEqual([]);
  expect(await images.find(reference)).toBeUndefined();
  expect(await images.pull(reference, undefined)).toMatchObject({ id: image.id, tags: [reference] });
  await images.remove(reference, noneUsed);
  await nothingLeft();
});
