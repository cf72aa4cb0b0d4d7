// The image commands of the real crictl, on a daemon and a registry that wants
// credentials.
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { startDaemon, type Daemon } from '../helpers/daemon.js';
import { makeLayout } from '../helpers/image.js';
import { startRegistry, type Registry } from '../helpers/registry.js';

interface Listed {
  readonly images: {
    readonly id: string;
    readonly repoTags: string[];
    readonly repoDigests: string[];
    readonly size: string;
    readonly uid?: { value: string };
    readonly username: string;
    readonly pinned: boolean;
  }[];
}

let folder: string;
let registry: Registry;
let daemon: Daemon;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'crisp-'));
  registry = await startRegistry(folder, { credentials: { username: 'me', password: 'open-sesame' } });
  await writeFile(
    join(folder, 'registries.conf'),
    `[[registry]]\nlocation = "${registry.address}"\ninsecure = true\n`,
  );
  daemon = await startDaemon({
    network: false,
    config: {
      images: { registries_conf: join(folder, 'registries.conf'), pinned: [`${registry.address}/kept:*`] },
    },
  });
});
afterAll(async () => {
  await daemon?.destroy();
  await registry?.close();
  await rm(folder, { recursive: true, force: true });
});

async function crictl(...args: string[]): Promise<string> {
  const { stdout, stderr, exitCode } = await daemon.crictl(...args);
  if (exitCode !== 0) throw new Error(stderr);
  return stdout;
}
const listed = async (...args: string[]): Promise<Listed['images']> =>
  (JSON.parse(await crictl('images', '-o', 'json', ...args)) as Listed).images;

test('pull, images, inspecti, imagefsinfo and rmi', async () => {
  const layout = await makeLayout(folder, {
    layers: [{ 'etc/name': 'one' }],
    compression: 'zstd',
    config: { User: '1000:50', Labels: { a: 'b' } },
  });
  const one = await registry.push(layout, 'one:1');
  const two = await registry.push(layout, 'two:1');
  const kept = await registry.push(
    await makeLayout(folder, { layers: [{ 'etc/name': 'kept' }], config: { User: 'web' } }),
    'kept:1',
  );

  await expect(crictl('pull', one)).rejects.toThrow(/RegistryDenied: /);
  await expect(crictl('pull', '--creds', 'me:guessed', one)).rejects.toThrow(/RegistryDenied: /);
  for (const name of [one, two, kept])
    expect(await crictl('pull', '--creds', 'me:open-sesame', name)).toMatch(
      /Image is up to date for sha256:[0-9a-f]{64}/,
    );
  expect(await crictl('pull', '--auth', Buffer.from('me:open-sesame').toString('base64'), one)).toContain(
    'up to date',
  );
  expect(daemon.logs()).toContain('image pulled');
  expect(daemon.logs()).not.toMatch(/open-sesame|guessed|bWU6/);

  const images = await listed();
  expect(images).toHaveLength(2);
  const image = images.find(({ repoTags }) => repoTags.includes(one));
  expect(image).toMatchObject({
    id: expect.stringMatching(/^sha256:/),
    uid: { value: '1000' },
    username: '',
    pinned: false,
  });
  expect([...(image?.repoTags ?? [])].sort()).toEqual([one, two].sort());
  expect([...(image?.repoDigests ?? [])].sort()).toEqual([
    `${registry.address}/one@${layout.digest}`,
    `${registry.address}/two@${layout.digest}`,
  ]);
  expect(images.find(({ repoTags }) => repoTags.includes(kept))).toMatchObject({
    username: 'web',
    pinned: true,
  });
  expect(await listed(two)).toEqual([image]);
  expect(await listed('none')).toEqual([]);

  expect(JSON.parse(await crictl('inspecti', one))).toMatchObject({
    status: { id: image?.id },
    info: { imageSpec: { config: { User: '1000:50', Labels: { a: 'b' } } } },
  });
  await expect(crictl('inspecti', 'none')).rejects.toThrow(/no such image/);

  const { status } = JSON.parse(await crictl('imagefsinfo')) as {
    status: {
      imageFilesystems: {
        fsId: { mountpoint: string };
        usedBytes: { value: string };
        inodesUsed: { value: string };
      }[];
    };
  };
  const store = join(daemon.root, 'storage');
  const count = async (unit: string): Promise<string> =>
    (await daemon.machine.must(['du', '--summarize', unit, store])).split('\t')[0] ?? '';
  expect(status.imageFilesystems).toMatchObject([
    {
      fsId: { mountpoint: store },
      usedBytes: { value: await count('--block-size=1') },
      inodesUsed: { value: await count('--inodes') },
    },
  ]);

  await crictl('rmi', image?.id.slice('sha256:'.length, 'sha256:'.length + 13) ?? '');
  expect(await listed(one)).toEqual([]);
  await crictl('rmi', kept);
  expect(await listed()).toEqual([]);
});

test('a registry on this machine that a drop-in of registries.conf wants TLS of is held to it', async () => {
  const name = await registry.push(await makeLayout(folder, { layers: [{ 'etc/name': 'tls' }] }), 'tls:1');
  const dropIns = await mkdtemp(join(folder, 'drop-ins-'));
  await writeFile(join(dropIns, 'local.conf'), "[[registry]]\nlocation = 'localhost'\ninsecure = false\n");
  const pull = () => crictl('pull', '--creds', 'me:open-sesame', name.replace('127.0.0.1', 'localhost'));
  await daemon.machine.must(['mount', '--bind', dropIns, '/etc/containers/registries.conf.d']);
  await expect(pull()).rejects.toThrow(/server gave HTTP response to HTTPS client/);
  await daemon.machine.must(['umount', '/etc/containers/registries.conf.d']);
  expect(await pull()).toContain('up to date');
});
