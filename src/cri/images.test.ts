import { afterEach, expect, test } from '@jest/globals';
import { Bench, call, type StandIns } from '../../test/helpers/services.js';
import type { Image } from '../shapes/image.js';
import type { Services } from './services.js';
import { imageFsInfo, imageStatus, listImages, pullImage, removeImage, streamImages } from './images.js';

let bench: Bench;
afterEach(() => bench?.end());

const image = (id: string, more: Partial<Image> = {}): Image => ({
  id,
  tags: [`docker.io/library/${id}:1`],
  digests: [`docker.io/library/${id}@sha256:0`],
  sizeBytes: 123,
  user: {},
  pinned: false,
  config: {},
  ...more,
});
const item = (id: string, more: object = {}) => ({
  id,
  repo_tags: [`docker.io/library/${id}:1`],
  repo_digests: [`docker.io/library/${id}@sha256:0`],
  size: '123',
  pinned: false,
  uid: null,
  username: '',
  spec: { image: id, annotations: {} },
  ...more,
});
const named = (name: string) => ({ image: { image: name } }) as Parameters<typeof removeImage>[1];
const withImages = (images: StandIns['images'], more: StandIns = {}) => {
  bench = new Bench({ ...more, images });
};
const has = (...all: readonly Image[]): StandIns['images'] => ({
  find: async (name: string) => all.find(({ id }) => id === name),
  list: async () => all,
  layers: async () => ['top', 'base'],
});

test('images are listed with all their data, or filtered by image', async () => {
  withImages(has(image('a', { pinned: true, user: { uid: 0 } }), image('b', { user: { name: 'www' } })));
  const [a, b] = [item('a', { pinned: true, uid: { value: '0' } }), item('b', { username: 'www' })];
  const all = { filter: null };
  const one = (name: string) => ({ filter: named(name) }) as Parameters<typeof listImages>[1];
  expect(await listImages(bench.services, all)).toEqual({ images: [a, b] });
  expect(await listImages(bench.services, one(''))).toEqual({ images: [a, b] });
  expect(await listImages(bench.services, one('b'))).toEqual({ images: [b] });
  expect(await listImages(bench.services, one('c'))).toEqual({ images: [] });
  const pages = [];
  for await (const page of streamImages(bench.services, all)) pages.push(...(page.images ?? []));
  expect(pages).toEqual([a, b]);
});

test('the verbose status of an image has its layers; an unknown image has no status', async () => {
  withImages(has(image('a', { config: { Cmd: ['sh'] } })));
  const ask = (name: string, verbose: boolean) => imageStatus(bench.services, { ...named(name), verbose });
  expect(await ask('a', false)).toEqual({ image: item('a'), info: {} });
  const { info } = await ask('a', true);
  expect(JSON.parse(String(info?.['info']))).toEqual({
    imageSpec: { config: { Cmd: ['sh'] } },
    layers: ['top', 'base'],
  });
  expect(await ask('b', true)).toEqual({ image: null });
});

test('a pull uses its own credentials, prepares the layers, and returns the id', async () => {
  let given: unknown[] = [];
  withImages({ pull: async (...all: unknown[]) => ((given = all), image('a')) });
  const auth = {
    username: 'user',
    password: 'pass',
    auth: 'both',
    server_address: 'server',
    identity_token: 'identity',
    registry_token: 'registry',
  };
  const request = { ...named('a'), auth, sandbox_config: null } as Parameters<typeof pullImage>[1];
  expect(await pullImage(bench.services, request, call)).toEqual({ image_ref: 'a' });
  expect(given).toEqual([
    'a',
    {
      username: 'user',
      password: 'pass',
      auth: 'both',
      serverAddress: 'server',
      identityToken: 'identity',
      registryToken: 'registry',
    },
    call.signal,
  ]);
  expect(bench.toldOf('rootfs.prepare')).toEqual(['rootfs.prepare a']);
  await pullImage(bench.services, { ...request, auth: null }, call);
  expect(given[1]).toBeUndefined();
});

test('a pull succeeds even if preparing the layers fails; a failed pull returns the reason', async () => {
  withImages(
    { pull: async () => image('a') },
    { rootfs: { prepare: () => Promise.reject(new Error('not ready')) } },
  );
  const request = { ...named('a'), auth: null, sandbox_config: null } as Parameters<typeof pullImage>[1];
  expect(await pullImage(bench.services, request, call)).toEqual({ image_ref: 'a' });
  await bench.end();
  withImages({ pull: () => Promise.reject(new Error('no such image')) });
  await expect(pullImage(bench.services, request, call)).rejects.toThrow('no such image');
  expect(bench.toldOf('rootfs.prepare')).toEqual([]);
});

test('an image in use as rootfs or volume is not removed', async () => {
  let used: readonly string[] = [];
  withImages({
    ...has(image('a')),
    remove: async (_: string, usedIds: Parameters<Services['images']['remove']>[1]) =>
      void (used = await usedIds()),
  });
  const pod = await bench.pod();
  await bench.running(pod, { imageId: 'rootfs', imageVolumes: { 0: 'volume', 3: 'other volume' } });
  await bench.container(pod, { imageId: 'not started' });
  await removeImage(bench.services, named('a'));
  expect([...used].sort()).toEqual(['not started', 'other volume', 'rootfs', 'volume']);
  expect(bench.toldOf('backend.forgetImage')).toEqual(['backend.forgetImage a']);
});

test('the backends keep an image whose removal failed', async () => {
  withImages({ ...has(image('a')), remove: () => Promise.reject(new Error('in use')) });
  await expect(removeImage(bench.services, named('a'))).rejects.toThrow('in use');
  expect(bench.toldOf('backend.forgetImage')).toEqual([]);
});

test('removing an unknown image succeeds', async () => {
  withImages(has());
  expect(await removeImage(bench.services, named('a'))).toEqual({});
  expect(bench.toldOf('images.remove')).toHaveLength(1); // also an unusable image in the store
  expect(bench.toldOf('backend.forgetImage')).toEqual([]);
});

test.each<[string, () => Promise<unknown>]>([
  ['removed', () => removeImage(bench.services, named(''))],
  ['looked at', () => imageStatus(bench.services, { image: null, verbose: false, annotations: {} } as never)],
  ['pulled', () => pullImage(bench.services, { image: null, auth: null, sandbox_config: null }, call)],
])('an image without a name is not %s', async (_, ask) => {
  withImages(has(image('')));
  await expect(ask()).rejects.toMatchObject({ id: 'InvalidArgument' });
  expect(bench.toldOf('images')).toEqual([]);
});

test('the usage of the image filesystem is in bytes and inodes', async () => {
  withImages({ usage: async () => ({ mountpoint: '/var/lib/crisp', usedBytes: 1000, inodesUsed: 7 }) });
  const { image_filesystems: images, container_filesystems: containers } = await imageFsInfo(
    bench.services,
    {},
  );
  const { timestamp, ...rest } = images?.[0] ?? {};
  expect(Number(timestamp)).toBeGreaterThan(1e18); // nanoseconds
  expect(rest).toEqual({
    fs_id: { mountpoint: '/var/lib/crisp' },
    used_bytes: { value: '1000' },
    inodes_used: { value: '7' },
  });
  expect(containers).toEqual(images);
});
