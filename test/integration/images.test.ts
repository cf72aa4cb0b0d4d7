// Images are pulled from a real registry, found by every name, and removed.
import { afterAll, afterEach, beforeAll, describe, expect, test } from '@jest/globals';
import { randomBytes } from 'node:crypto';
import { readFile, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { toCrispError } from '../../src/errors.js';
import { architecture, makeLayout, type SmallImage } from '../helpers/image.js';
import { startProxy, type Proxy, type Registry } from '../helpers/registry.js';
import { noneUsed, commandsIn, noAuth, TestStore } from '../helpers/store.js';
import { eventually } from '../helpers/wait.js';

const other = architecture === 'arm64' ? 'amd64' : 'arm64';

let store: TestStore;
let registry: Registry;
let proxy: Proxy;
beforeAll(async () => {
  store = await TestStore.open();
  registry = await store.registry();
  proxy = await startProxy(registry);
  await store.trust([registry.address, proxy.address]);
});
afterEach(async () => {
  proxy.intercept(undefined);
  await removeAll();
});
afterAll(async () => {
  await proxy?.close();
  await store?.destroy();
});

/** Makes an image, pushes it under a name, and says how it is pulled. */
async function pushed(name: string, image: SmallImage | readonly SmallImage[]) {
  const made = await makeLayout(store.folder, image);
  const reference = await registry.push(made, name);
  return {
    ...made,
    reference,
    repository: reference.replace(/:[^:/]*$/, ''),
    proxied: reference.replace(registry.address, proxy.address),
  };
}
/** The content of a file in a read-only view of an image. */
async function fileOf(reference: string, path: string): Promise<string> {
  const image = await store.images.find(reference);
  if (!image) throw new Error(`${reference} is not there`);
  const view = await store.rootfs.mountImage('view', image);
  try {
    return await readFile(join(view, path), 'utf8');
  } finally {
    await store.rootfs.unmountImage('view');
  }
}
async function removeAll(): Promise<void> {
  for (const image of await store.images.list()) await store.images.remove(image.id, noneUsed);
}

describe('a pull', () => {
  test.each([
    ['none', undefined],
    ['gzip', 'gzip'],
    ['zstd', 'zstd'],
  ] as const)('accepts layers with the compression %s', async (name, compression) => {
    const { reference, digest, repository } = await pushed(`layers-${name}:1`, {
      layers: [{ 'etc/low': name, 'etc/both': 'low' }, { 'etc/both': 'high' }],
      ...(compression ? { compression } : {}),
      config: { Env: ['A=b'], Cmd: ['run'], StopSignal: 'SIGINT' },
    });
    const image = await store.images.pull(reference, undefined);
    expect(image).toMatchObject({
      tags: [reference],
      digests: [`${repository}@${digest}`],
      user: {},
      pinned: false,
      config: { Env: ['A=b'], Cmd: ['run'], StopSignal: 'SIGINT' },
    });
    expect(image.id).toMatch(/^sha256:[0-9a-f]{64}$/);
    expect(image.sizeBytes).toBeGreaterThan(1024);
    expect(await fileOf(reference, 'etc/low')).toBe(name);
    expect(await fileOf(reference, 'etc/both')).toBe('high');
    expect(await store.images.layers(image)).toHaveLength(2);
    expect(await readFile(join((await store.images.layers(image))[0] ?? '', 'etc/both'), 'utf8')).toBe(
      'high',
    );
  });

  test("selects this machine's image of an index, by each name of it", async () => {
    const { reference, digest, repository, manifests } = await pushed('multi:1', [
      { layers: [{ which: other }], architecture: other },
      { layers: [{ which: architecture }] },
    ]);
    const image = await store.images.pull(reference, undefined);
    expect(await fileOf(reference, 'which')).toBe(architecture);
    expect(image.digests).toEqual([`${repository}@${digest}`]);
    const names = [
      reference,
      image.id,
      image.id.slice('sha256:'.length),
      image.id.slice(0, 20),
      image.id.slice(7, 20),
      `${repository}@${digest}`,
      `${repository}@${manifests[1]?.digest}`,
      `${repository}:other@${digest}`,
    ];
    for (const name of names) expect(await store.images.find(name)).toBe(image);
    for (const name of [
      repository,
      `${repository}:2`,
      `${repository}@${manifests[0]?.digest}`,
      `${repository}x@${digest}`,
      `sha256:${'0'.repeat(64)}`,
      'f'.repeat(12),
    ])
      expect(await store.images.find(name)).toBeUndefined();
  });

  test('by digest has no tag, only that digest', async () => {
    const { digest, repository, manifests } = await pushed('by-digest:1', [
      { layers: [{ which: other }], architecture: other },
      { layers: [{ which: 'by digest' }] },
    ]);
    const image = await store.images.pull(`${repository}@${digest}`, undefined);
    expect(image).toMatchObject({ tags: [], digests: [`${repository}@${digest}`] });
    const same = await store.images.pull(`${repository}@${manifests[1]?.digest}`, undefined);
    expect(same.id).toBe(image.id);
    expect([...same.digests].sort()).toEqual(
      [`${repository}@${digest}`, `${repository}@${manifests[1]?.digest}`].sort(),
    );
    await store.images.pull(`${repository}:1`, undefined);
    expect(await store.images.list()).toMatchObject([{ id: image.id, tags: [`${repository}:1`] }]);
  });

  test.each<[string, object]>([
    ['', {}],
    ['0', { uid: 0 }],
    ['1000', { uid: 1000 }],
    ['1000:50', { uid: 1000 }],
    ['web', { name: 'web' }],
    ['web:staff', { name: 'web' }],
  ])('records the user "%s"', async (user, expected) => {
    const { reference } = await pushed(`user-${user.replace(':', '-')}x:1`, {
      layers: [{ a: '' }],
      config: { User: user },
    });
    expect((await store.images.pull(reference, undefined)).user).toEqual(expected);
  });

  test('of a moved tag removes the tag from the old image', async () => {
    const first = await pushed('moving:1', { layers: [{ version: '1' }] });
    const old = await store.images.pull(first.reference, undefined);
    const second = await pushed('moving:1', { layers: [{ version: '2' }] });
    const image = await store.images.pull(second.reference, undefined);
    expect(image.id).not.toBe(old.id);
    expect(await store.images.find(second.reference)).toBe(image);
    expect(await store.images.find(old.id)).toMatchObject({
      id: old.id,
      tags: [],
      digests: [`${first.repository}@${first.digest}`],
    });
    await removeAll();
    expect(await store.kept()).toEqual([]);
  });

  test('reports which images are pinned', async () => {
    const [one, two] = [
      await pushed('pinned/one:1', { layers: [{ a: '1' }] }),
      await pushed('pinned/two:1', { layers: [{ a: '2' }] }),
    ];
    for (const [pinned, expected] of [
      [`${registry.address}/pinned/*`, [true, true]],
      [one.reference, [true, false]],
      [`${two.repository}@${two.digest}`, [false, true]],
    ] as const) {
      const { images } = await store.reopened({ pinned: [pinned] });
      await store.trust([registry.address, proxy.address]);
      expect(
        [await images.pull(one.reference, undefined), await images.pull(two.reference, undefined)].map(
          (image) => image.pinned,
        ),
      ).toEqual(expected);
    }
    await expect(store.reopened({ pinned: ['No Image'] })).rejects.toMatchObject({ id: 'InvalidConfigFile' });
  });
});

describe('pulls of one reference', () => {
  const blobRequests = (digest: string): number =>
    proxy.requests.filter((line) => line.startsWith('GET ') && line.endsWith(digest)).length;

  test('are one pull if they are concurrent', async () => {
    const { proxied, manifests } = await pushed('together:1', {
      layers: [{ data: randomBytes(100_000) }],
      compression: 'gzip',
    });
    const images = await Promise.all(Array.from({ length: 5 }, () => store.images.pull(proxied, undefined)));
    expect(new Set(images.map(({ id }) => id)).size).toBe(1);
    expect(blobRequests(manifests[0]?.layers[0] ?? 'none')).toBe(1);
  });

  test('continue while one caller waits, and end with the last', async () => {
    const { proxied, manifests } = await pushed('waiting:1', { layers: [{ data: randomBytes(100_000) }] });
    const layer = manifests[0]?.layers[0];
    let release: () => void = () => undefined;
    let asked: () => void = () => undefined;
    const hold = (): Promise<void> => {
      const isAsked = new Promise<void>((resolve) => {
        asked = resolve;
      });
      const released = new Promise<void>((resolve) => {
        release = resolve;
      });
      proxy.intercept(async (_response, _request, blob) => {
        if (blob === layer) {
          asked();
          await released;
        }
        return false;
      });
      return isAsked;
    };
    let waiting = hold();
    const [one, two] = [new AbortController(), new AbortController()];
    const first = store.images.pull(proxied, undefined, one.signal);
    const second = store.images.pull(proxied, undefined, two.signal);
    await waiting;
    one.abort();
    await expect(first).rejects.toMatchObject({ id: 'Cancelled' });
    release();
    expect((await second).tags).toEqual([proxied]);
    await removeAll();

    waiting = hold();
    const gone = new AbortController();
    const pulls = [
      store.images.pull(proxied, undefined, gone.signal),
      store.images.pull(proxied, undefined, gone.signal),
    ];
    await waiting;
    gone.abort();
    for (const pull of pulls) await expect(pull).rejects.toMatchObject({ id: 'Cancelled' });
    // who comes now starts anew, while the old one is still ending
    proxy.intercept(undefined);
    expect((await store.images.pull(proxied, undefined)).tags).toEqual([proxied]);
    release();
    await removeAll();
    await eventually(async () => {
      expect(await store.kept()).toEqual([]);
      expect(await commandsIn(join(store.root, 'pulls'))).toEqual([]);
    });
  });
});

describe('a registry that requires credentials', () => {
  const credentials = { username: 'me', password: 'open-sesame' };
  let guarded: Registry;
  let reference: string;
  beforeAll(async () => {
    guarded = await store.registry({ credentials, tls: true });
    reference = await guarded.push(
      await makeLayout(store.folder, { layers: [{ secret: 'yes' }] }),
      'guarded:1',
    );
  });

  test('gets those of the request, and is trusted by the folder of certificates', async () => {
    await expect(store.images.pull(reference, { ...noAuth, ...credentials })).rejects.toMatchObject({
      id: 'RegistryUnavailable',
      message: expect.stringMatching(/x509|certificate/),
    });
    const trusting = await store.reopened({ certs_dir: guarded.certsDir });
    await store.trust([registry.address, proxy.address]);
    for (const auth of [
      { ...noAuth, ...credentials },
      {
        ...noAuth,
        auth: Buffer.from('me:open-sesame').toString('base64'),
        serverAddress: `https://${guarded.address}`,
      },
    ]) {
      expect(await trusting.images.pull(reference, auth)).toMatchObject({ tags: [reference] });
      await removeAll();
    }
    const wrong = trusting.images.pull(reference, { ...noAuth, ...credentials, password: 'guessed' });
    const right = trusting.images.pull(reference, { ...noAuth, ...credentials });
    await expect(wrong).rejects.toMatchObject({ id: 'RegistryDenied' });
    expect(await right).toMatchObject({ tags: [reference] });
    await removeAll();
    for (const auth of [undefined, noAuth, { ...noAuth, ...credentials, serverAddress: 'elsewhere.example' }])
      await expect(trusting.images.pull(reference, auth)).rejects.toMatchObject({ id: 'RegistryDenied' });
    await expect(trusting.images.pull(reference, { ...noAuth, registryToken: 'x' })).rejects.toMatchObject({
      id: 'UnsupportedField',
    });
    expect(await store.kept()).toEqual([]);
  });

  test('gets those of the node if the request has none', async () => {
    const file = join(store.folder, 'auth.json');
    await writeFile(
      file,
      JSON.stringify({
        auths: { [guarded.address]: { auth: Buffer.from('me:open-sesame').toString('base64') } },
      }),
    );
    const withFile = await store.reopened({ certs_dir: guarded.certsDir, auth_file: file });
    await store.trust([registry.address, proxy.address]);
    expect(await withFile.images.pull(reference, undefined)).toMatchObject({ tags: [reference] });
    expect(await withFile.images.pull(reference, noAuth)).toMatchObject({ tags: [reference] });
  });

  test('has credentials that never appear in arguments', async () => {
    const plain = await store.registry({ credentials });
    const before = await startProxy(plain, (response, _request, blob) => {
      if (blob) asked();
      return blob !== undefined && !response.destroyed;
    });
    let asked: () => void = () => undefined;
    const hangs = new Promise<void>((resolve) => {
      asked = resolve;
    });
    try {
      await plain.push(await makeLayout(store.folder, { layers: [{ secret: 'yes' }] }), 'guarded:1');
      await store.trust([registry.address, proxy.address, before.address]);
      const gone = new AbortController();
      const pull = store.images.pull(
        `${before.address}/guarded:1`,
        { ...noAuth, ...credentials },
        gone.signal,
      );
      await hangs;
      const commands = await commandsIn(join(store.root, 'pulls'));
      const authFile = /--src-authfile (\S+)/.exec(commands[0]?.argv ?? '')?.[1] ?? 'none';
      expect(commands.map(({ argv }) => argv).join()).not.toMatch(/open-sesame|bWU6/);
      for (const { pid } of commands)
        expect(await readFile(`/proc/${pid}/environ`, 'utf8')).not.toMatch(/open-sesame|bWU6/);
      expect((await stat(authFile)).mode & 0o777).toBe(0o600);
      gone.abort();
      await expect(pull).rejects.toMatchObject({ id: 'Cancelled' });
      await eventually(async () => {
        expect(await store.kept()).toEqual([]);
      });
    } finally {
      await before.close();
      await store.trust([registry.address, proxy.address]);
    }
  });
});

test('a mirror of registries.conf is used first, without the credentials', async () => {
  const { proxied } = await pushed('team/mirrored:1', { layers: [{ a: 'mirrored' }] });
  const seen: (string | undefined)[] = [];
  proxy.intercept((_response, request) => {
    seen.push(request.headers.authorization);
    return false;
  });
  await store.trust([], { 'registry.example.invalid': proxied.split('/')[0] ?? '' });
  const image = await store.images.pull('registry.example.invalid/team/mirrored:1', {
    ...noAuth,
    username: 'me',
    password: 'x',
  });
  proxy.intercept(undefined);
  await store.trust([registry.address, proxy.address]);
  expect(image.tags).toEqual(['registry.example.invalid/team/mirrored:1']);
  expect(seen.length).toBeGreaterThan(1);
  expect(new Set(seen)).toEqual(new Set([undefined]));
});

describe('a removal', () => {
  test('concurrent with pulls of the same image causes no internal error', async () => {
    const { proxied } = await pushed('raced:1', {
      layers: [{ low: randomBytes(1000) }, { high: randomBytes(1000) }],
    });
    const failures: string[] = [];
    for (let round = 0; round < 12; round++) {
      const note = (error: unknown): void => {
        failures.push(toCrispError(error).id);
      };
      await Promise.all([
        store.images.pull(proxied, undefined).catch(note),
        store.images.remove(proxied, noneUsed).catch(note),
        (async () => {
          await new Promise((resolve) => {
            setTimeout(resolve, round * 8);
          });
          await store.images.remove(proxied, noneUsed).catch(note);
        })(),
      ]);
    }
    for (const id of failures) expect(['ImageNotFound', 'Locked']).toContain(id);
    expect((await store.images.pull(proxied, undefined)).tags).toEqual([proxied]);
  });

  test('by one name removes all names', async () => {
    const made = await makeLayout(store.folder, { layers: [{ a: 'names' }] });
    const names = [
      await registry.push(made, 'names:1'),
      await registry.push(made, 'names:2'),
      await registry.push(made, 'elsewhere:1'),
    ];
    for (const name of names) await store.images.pull(name, undefined);
    expect((await store.images.list()).map(({ tags }) => [...tags].sort())).toEqual([[...names].sort()]);
    await store.images.remove(names[1] ?? '', noneUsed);
    for (const name of names) expect(await store.images.find(name)).toBeUndefined();
    expect(await store.kept()).toEqual([]);
  });

  test('of a missing image succeeds, and of an invalid name does not', async () => {
    for (const reference of ['none', `none@sha256:${'0'.repeat(64)}`, `sha256:${'0'.repeat(64)}`])
      await store.images.remove(reference, noneUsed);
    await expect(store.images.remove('No Image', noneUsed)).rejects.toMatchObject({ id: 'InvalidArgument' });
  });

  test('of an image in use is refused without waiting', async () => {
    const { reference } = await pushed('used:1', { layers: [{ a: 'used' }] });
    const image = await store.images.pull(reference, undefined);
    await expect(
      store.images.remove(reference, async () => ['sha256:other', image.id]),
    ).rejects.toMatchObject({
      id: 'ImageInUse',
    });
    await store.rootfs.mount('c1', image);
    await expect(store.images.remove(reference, noneUsed)).rejects.toMatchObject({ id: 'ImageInUse' });
    await store.rootfs.unmount('c1');
    await Promise.all([store.images.remove(reference, noneUsed), store.images.remove(image.id, noneUsed)]);
    expect(await store.kept()).toEqual([]);
  });

  test('and a concurrent mount exclude each other', async () => {
    const { reference } = await pushed('raced:1', { layers: [{ a: 'raced' }] });
    const outcomes: string[] = [];
    for (const later of [0, 1, 2, 3]) {
      const image = await store.images.pull(reference, undefined);
      const removal = store.images.remove(image.id, noneUsed);
      for (let time = 0; time < later; time++) await store.images.find(image.id);
      const [removed, mounted] = await Promise.allSettled([removal, store.rootfs.mount('c', image)]);
      const failures = [removed, mounted].flatMap((one) =>
        one.status === 'rejected' ? [(one.reason as { id: string }).id] : [],
      );
      expect(failures).toEqual([
        removed.status === 'rejected'
          ? 'ImageInUse'
          : expect.stringMatching(/^(ImageNotFound|RootfsMissing)$/),
      ]);
      outcomes.push(...failures);
      await store.rootfs.unmount('c');
    }
    expect(outcomes[0]).toBe('ImageInUse');
    expect(outcomes.at(-1)).not.toBe('ImageInUse');
  });

  test('keeps the layers that another image uses', async () => {
    const base = { 'etc/base': 'shared' };
    const below = await pushed('base:1', { layers: [base] });
    const above = await pushed('above:1', { layers: [base, { 'etc/top': 'own' }] });
    await store.images.pull(below.reference, undefined);
    await store.images.pull(above.reference, undefined);
    await store.images.remove(below.reference, noneUsed);
    expect(await fileOf(above.reference, 'etc/base')).toBe('shared');
    await store.images.remove(above.reference, noneUsed);
    expect(await store.kept()).toEqual([]);
  });

  test('of an image whose layer a concurrent pull shares does not fail the pull', async () => {
    const base = { 'etc/base': 'shared' };
    const below = await pushed('shared-base:1', { layers: [base] });
    const above = await pushed('shared-above:1', { layers: [base, { 'etc/top': 'own' }] });
    await store.images.pull(below.reference, undefined);
    let shared = false;
    proxy.intercept(async (_response, _request, blob) => {
      if (blob === above.manifests[0]?.layers[1] && !shared) {
        shared = true;
        await store.images.remove(below.reference, noneUsed);
      }
      return false;
    });
    await store.images.pull(above.proxied, undefined);
    proxy.intercept(undefined);
    expect({ shared }).toEqual({ shared: true });
    expect(await fileOf(above.proxied, 'etc/base')).toBe('shared');
  });
});

test('the usage always agrees with du', async () => {
  const agrees = async (): Promise<void> =>
    expect(await store.images.usage()).toEqual({ mountpoint: store.storage, ...(await store.du()) });
  await agrees();
  const { reference, proxied, manifests } = await pushed('measured:1', {
    layers: [{ data: randomBytes(50_000), more: 'x' }, { data: randomBytes(70_000) }],
  });
  await store.images.pull(reference, undefined);
  await agrees();
  const before = await store.images.usage();
  await store.images.pull(
    (await pushed('measured:2', { layers: [{ data: randomBytes(90_000) }] })).reference,
    undefined,
  );
  await agrees();
  expect((await store.images.usage()).usedBytes - before.usedBytes).toBeGreaterThan(90_000);
  await store.images.remove(reference, noneUsed);
  await agrees();
  // with half of an image there, and without it again
  let release: () => void = () => undefined;
  const released = new Promise<void>((resolve) => {
    release = resolve;
  });
  proxy.intercept(async (response, _request, blob) => {
    if (blob !== manifests[0]?.layers[1]) return false;
    await released;
    response.writeHead(500).end();
    return true;
  });
  const failing = expect(store.images.pull(proxied, undefined)).rejects.toMatchObject({
    id: 'RegistryUnavailable',
  });
  await eventually(async () => {
    expect(
      [...(await store.images.layout.readLayers()).values()].filter(({ flags }) => !flags?.incomplete),
    ).toHaveLength(2);
  });
  await agrees();
  release();
  await failing;
  await agrees();
  proxy.intercept(undefined);
  await store.images.pull(proxied, undefined); // with what the failed one has left
  await removeAll();
  await agrees();
  expect(await store.kept()).toEqual([]);
});
