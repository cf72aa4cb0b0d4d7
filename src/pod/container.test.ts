// A container before its creation: its bundle, and what is undone if a step fails; a folder as the image.
import { afterEach, beforeEach, expect, test } from '@jest/globals';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import { podConfigOf } from '../../test/helpers/services.js';
import { configSchema } from '../config/config.js';
import { containerConfigOf } from '../cri/proto.js';
import { unmountBelow } from '../host/mounts.js';
import { withUndo } from '../host/undo.js';
import { readHostFacts } from '../oci/host-facts.js';
import { prepareContainer, releaseContainer, removeBundle, type PreparedContainer } from './container.js';
import { planOf } from './plan.js';

let folder: string;
let told: string[];
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'crisp-container-'));
  told = [];
});
afterEach(async () => {
  await unmountBelow(folder);
  rmSync(folder, { recursive: true });
});

const id = 'a'.repeat(64);
const map = [{ containerID: 0, hostID: 300_000, size: 65_536 }];
const idMaps = { uids: map, gids: map };
const bundle = (): string => join(folder, 'bundles', id);

interface Choices {
  readonly config?: object;
  readonly plan?: object;
  readonly source?: object;
  readonly kind?: 'overlay' | 'own';
  readonly rootfs?: object;
  readonly absent?: 'make' | 'refuse';
  readonly runtime?: object;
  readonly request?: object;
}
function prepare(choices: Choices = {}): Promise<PreparedContainer> {
  const rootfs = join(folder, 'rootfs');
  mkdirSync(join(rootfs, 'etc'), { recursive: true });
  const config = configSchema.parse({
    state: folder,
    root: join(folder, 'root'),
    default_container_type: 'fake',
    fallback: {},
    handlers: { fake: { type: 'oci', path: '/usr/bin/false' } },
    routing: { crun_name_patterns: [] },
  });
  Object.assign(config.runtime, choices.runtime);
  const pod = podConfigOf('u');
  const plan = { ...planOf(folder, 'b'.repeat(64), pod, false), ...choices.plan };
  const image = { id: 'image-id', tags: [], digests: [], config: {} };
  return withUndo('test', (undo) =>
    prepareContainer(
      undo,
      {
        config,
        host: { ...readHostFacts(config), systemdCgroup: false },
        images: { find: async () => ({ ...image, id: 'volume-id' }) } as never,
        rootfs: {
          provide: async () => (told.push('provide'), rootfs),
          unmount: async (its: string) => void told.push(`unmount ${its === id}`),
          mountImage: async (name: string) => (told.push(`mountImage ${name}`), rootfs),
          unmountImage: async (name: string) => void told.push(`unmountImage ${name}`),
          volumes: () => join(folder, 'volumes'),
          ...choices.rootfs,
        } as never,
      },
      {
        id,
        config: containerConfigOf({
          metadata: { name: 'c', attempt: 3 },
          command: ['/bin/sh'],
          ...choices.config,
        }),
        sandbox: { config: pod, plan },
        source: { name: 'image:1', config: {}, image: image as never, ...choices.source },
        handler: 'fake',
        folder: bundle(),
        logPath: '/log',
        stopSignal: 'SIGNAL_SIGTERM',
        ...choices.request,
      },
      {
        backend: {
          rootfs: () => ({ kind: choices.kind ?? 'overlay' }),
          notHonoured: () => ['spec.of.the.backend'],
        } as never,
        features: undefined,
        absentMountSources: choices.absent ?? 'make',
      },
    ),
  );
}

test('a bundle is closed to others, and has the spec that the backend gets', async () => {
  const { plan, notHonoured } = await prepare({ config: { stdin: true, stdin_once: false } });
  expect([statSync(bundle()).mode & 0o777, statSync(join(bundle(), 'config.json')).mode & 0o777]).toEqual([
    0o700, 0o600,
  ]);
  expect(JSON.parse(readFileSync(join(bundle(), 'config.json'), 'utf8'))).toEqual(
    JSON.parse(JSON.stringify(plan.spec)),
  );
  expect(plan).toMatchObject({
    id,
    name: 'c',
    attempt: 3,
    image: 'image:1',
    imageId: 'image-id',
    stdin: true,
    stdinOnce: false,
    stopSignal: '15',
    logPath: '/log',
    shiftedSources: [],
  });
  expect(notHonoured).toContain('spec.of.the.backend');
  expect(told).toEqual(['provide']);
});

test.each([
  ['its pod', { namespaces: { ipc: '/proc/self/ns/ipc' } }, /pods\/b{64}\/memory\/shm$/],
  ['the node', {}, /^\/dev\/shm$/],
])('the shared memory of a container is that of %s, with its ipc namespace', async (_, plan, source) => {
  const { plan: made } = await prepare({ plan });
  const shm = made.spec.mounts.find(({ destination }) => destination === '/dev/shm');
  expect(shm?.source).toMatch(source);
});

test('the root of a user namespace may enter the bundle', async () => {
  await prepare({ plan: { idMaps, namespaces: { user: '/proc/self/ns/user' } } });
  const { gid, mode } = statSync(bundle());
  expect([gid, mode & 0o777]).toEqual([300_000, 0o710]);
});

test('a backend that copies the image gets no volumes of the host', async () => {
  const { plan } = await prepare({ kind: 'own' });
  expect(plan).not.toHaveProperty('shiftedSources');
});

test.each<[string, Choices]>([
  ['a backend that copies', { kind: 'own' }],
  ['other ids', { plan: { idMaps } }],
])('a folder cannot be the image of a container with %s', async (_, choices) => {
  await expect(
    prepare({ ...choices, source: { image: undefined, folder: join(folder, 'rootfs') } }),
  ).rejects.toMatchObject({ id: 'Unsupported', message: expect.stringContaining('handler fake') });
  expect([existsSync(bundle()), told]).toEqual([false, []]);
});

test('a folder is used unchanged, without the volumes of an image', async () => {
  const rootfs = join(folder, 'rootfs');
  const { plan } = await prepare({
    source: { image: undefined, folder: rootfs, config: { Volumes: { '/data': {} } } },
  });
  expect([plan.spec.root?.path, plan.imageId, told]).toEqual([rootfs, '', []]);
  expect(plan.spec.mounts.map(({ destination }) => destination)).not.toContain('/data');
});

test('the volumes of an image are made in the place of the container, unless they are mounted over', async () => {
  const config = { Volumes: { '/data': {}, '/cache': {} } };
  const { plan } = await prepare({
    source: { config },
    config: { mounts: [{ container_path: '/cache', host_path: folder }] },
  });
  const sources = Object.fromEntries(
    plan.spec.mounts.map(({ destination, source }) => [destination, source]),
  );
  expect(sources['/cache']).toBe(folder);
  expect(sources['/data']).toMatch(join(folder, 'volumes'));
  expect(plan.shiftedSources).toEqual([sources['/data']]);
});

test('a step that fails undoes the ones before, the newest first', async () => {
  const mounts = [{ container_path: '/i', image: { image: 'volume' }, readonly: true }];
  await expect(
    prepare({
      config: { mounts: [...mounts, { container_path: '/m', host_path: join(folder, 'absent') }] },
      absent: 'refuse',
    }),
  ).rejects.toMatchObject({ id: 'MountSourceMissing' });
  expect(told).toEqual(['provide', `mountImage ${id}-0`, `unmountImage ${id}-0`, 'unmount true']);
  expect([existsSync(bundle()), existsSync(join(folder, 'absent'))]).toEqual([false, false]);
});

test('a source that does not exist is made, unless the configuration rejects it', async () => {
  const mounts = [{ container_path: '/m', host_path: join(folder, 'absent', 'x') }];
  await expect(
    prepare({ config: { mounts }, runtime: { absent_mount_sources_to_reject: [`${folder}/absent/*`] } }),
  ).rejects.toMatchObject({ id: 'MountSourceMissing' });
  const { madeMountSources } = await prepare({ config: { mounts } });
  expect(madeMountSources.length).toBeGreaterThan(0);
  expect(existsSync(join(folder, 'absent', 'x'))).toBe(true);
});

test('an image as a volume is recorded with its mount, and its view is mounted into the container', async () => {
  const { imageVolumes, plan } = await prepare({
    config: { mounts: [{ container_path: '/i', image: { image: 'volume' }, readonly: true }] },
  });
  expect([...imageVolumes]).toEqual([[0, { path: join(folder, 'rootfs'), imageId: 'volume-id' }]]);
  expect(plan.spec.mounts).toContainEqual(
    expect.objectContaining({ destination: '/i', source: expect.stringContaining(join(folder, 'rootfs')) }),
  );
});

test('a container that its backend has deleted loses its rootfs, its image volumes and its bundle', async () => {
  const config = containerConfigOf({
    metadata: { name: 'c' },
    mounts: [{ container_path: '/i', image: { image: 'volume' } }],
  });
  mkdirSync(bundle(), { recursive: true });
  const unmount = (name: string) => async (its: string) => {
    await pause(20);
    told.push(`${name} ${its} ${existsSync(bundle())}`);
  };
  await releaseContainer(
    { rootfs: { unmount: unmount('rootfs'), unmountImage: unmount('image') } as never },
    { id, config, folder: bundle() },
  );
  expect(told).toEqual([`rootfs ${id} true`, `image ${id}-0 true`]);
  expect(existsSync(bundle())).toBe(false);
});

test('a bundle in which a monitor works stays, with the pid of the monitor in the error', async () => {
  mkdirSync(bundle(), { recursive: true });
  const monitor = spawn('sh', ['-c', 'echo up; read line'], {
    cwd: bundle(),
    env: { ...process.env, STARTED_BY: 'crisp' }, // as host/run.ts marks them
    stdio: ['pipe', 'pipe', 'inherit'],
  });
  await once(monitor.stdout, 'data');
  await expect(removeBundle(bundle())).rejects.toMatchObject({
    id: 'WrongContainerState',
    message: expect.stringContaining(bundle()),
    hint: expect.stringContaining(`process ${monitor.pid}`),
  });
  expect(existsSync(bundle())).toBe(true);
  // One that ends in time is waited for.
  const removing = removeBundle(bundle());
  await pause(100);
  monitor.stdin.end();
  await removing;
  expect(existsSync(bundle())).toBe(false);
});
