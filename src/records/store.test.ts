// Records of the previous release are read, and those of the next one are refused
// unchanged (docs/adr/0011). Paths in records are not trusted.
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { StandaloneRecords } from './standalone.js';
import { setAside } from '../set-aside.js';
import type { SandboxRecord } from './records.js';
import { imagesOfRecords, Store } from './store.js';

const fixture = (name: string): Record<string, unknown> =>
  JSON.parse(readFileSync(join('test/fixtures/records', `${name}.json`), 'utf8')) as Record<string, unknown>;
const [podId, containerId, standaloneId] = ['1', '2', '3'].map((digit) => digit.repeat(64)) as [
  string,
  string,
  string,
];

let state: string;
beforeEach(() => {
  state = mkdtempSync(join(tmpdir(), 'crisp-store-'));
  for (const folder of ['sandboxes', 'containers']) mkdirSync(join(state, folder));
});
afterEach(() => rmSync(state, { recursive: true }));

function write(path: string, record: object): string {
  const text = JSON.stringify(record);
  writeFileSync(join(state, path), text);
  return text;
}

async function loaded(sandbox: object, container: object): Promise<Store> {
  write(`sandboxes/${podId}.json`, sandbox);
  write(`containers/${containerId}.json`, container);
  const store = new Store(state);
  await store.load();
  return store;
}

describe('records of the previous release', () => {
  test('of a pod and its container are read, with paths that follow from their ids', async () => {
    const store = await loaded(fixture('sandbox'), fixture('container'));
    const folder = join(state, 'pods', podId);
    expect(store.sandboxes.get(podId)).toMatchObject({
      config: fixture('sandbox')['config'],
      attachment: fixture('sandbox')['attachment'],
      plan: {
        ...(fixture('sandbox')['plan'] as object),
        folder,
        namespaces: {
          network: join(folder, 'ns/net'),
          ipc: join(folder, 'ns/ipc'),
          uts: join(folder, 'ns/uts'),
          pid: '/proc/4711/ns/pid',
        },
      },
    });
    const container = store.containers.get(containerId);
    expect(container).toMatchObject({
      folder: join(state, 'bundles', containerId),
      logPath: '/var/log/pods/default_web_u1/app/0.log',
      backendState: fixture('container')['backendState'],
      stopSignal: 'SIGTERM',
    });
    expect(container?.config.envs).toEqual([{ key: 'COLOUR', value: Buffer.from('blue') }]);
  });

  test('of a standalone container as well', async () => {
    write(`containers/${standaloneId}.json`, fixture('standalone'));
    const [record] = await new StandaloneRecords(state, '/var/lib/crisp/cli').all();
    const pod = join(state, 'pods', standaloneId); // it had its pod in the bundle
    expect(record).toMatchObject({
      name: 'web',
      folder: join(state, 'bundles', standaloneId),
      logPath: fixture('standalone')['logPath'],
      plan: { folder: pod, namespaces: { network: join(pod, 'ns/net') } },
    });
  });
});

describe('records of the next release', () => {
  const next = (name: string): object => ({ ...fixture(name), version: 2, config: { of: 'another shape' } });

  test('are kept, are known by their ids, and are refused', async () => {
    const store = await loaded(next('sandbox'), next('container'));
    expect(store.sandboxes.all()).toEqual([]);
    expect(store.containers.all()).toEqual([]);
    expect([store.sandboxes.has(podId), store.containers.has(containerId)]).toEqual([true, true]);
    const refused = expect.objectContaining({ id: 'RecordUnreadable' });
    expect(() => store.sandboxes.checkReadable(podId)).toThrow(refused);
    expect(() => store.checkContainersReadable(podId)).toThrow(refused);
    expect(store.usedImages()).toEqual([fixture('container')['imageId']]);
    expect(readdirSync(join(state, 'containers'))).toEqual([`${containerId}.json`]);
    expect(readFileSync(join(state, 'containers', `${containerId}.json`), 'utf8')).toBe(
      JSON.stringify(next('container')),
    );
  });

  test('of a standalone container as well', async () => {
    const text = write(`containers/${standaloneId}.json`, next('standalone'));
    const records = new StandaloneRecords(state, '/var/lib/crisp/cli');
    expect(await records.all()).toEqual([]);
    await expect(records.find(standaloneId)).rejects.toMatchObject({ id: 'RecordUnreadable' });
    expect(readFileSync(join(state, 'containers', `${standaloneId}.json`), 'utf8')).toBe(text);
  });
});

describe('an invalid record', () => {
  const plan = fixture('sandbox')['plan'] as object;
  test.each<[string, object]>([
    ['another id', { id: '4'.repeat(64) }],
    ['a path as its id', { id: '../../etc' }],
    ['a foreign cgroup', { plan: { ...plan, cgroupParent: '/system.slice' } }],
    ['a holder that is PID 1', { holder: { pid: 1, startTime: '1' } }],
    ['an invalid config', { config: { labels: 'none' } }],
    [
      'a plugin that is a path',
      {
        attachment: {
          ...(fixture('sandbox')['attachment'] as object),
          network: {
            ...(fixture('sandbox')['attachment'] as { network: object }).network,
            plugins: [{ type: '../../tmp/x' }],
          },
        },
      },
    ],
  ])('a pod with %s is not read', async (_, change) => {
    const store = await loaded({ ...fixture('sandbox'), ...change }, fixture('container'));
    expect(store.sandboxes.all()).toEqual([]);
    expect(store.sandboxes.has(podId)).toBe(true);
    expect(store.containers.all()).toHaveLength(1); // the others live
  });

  test.each<[string, object]>([
    ['an invalid pod id', { sandboxId: '..' }],
    ['a log outside the log folder', { logPath: '/etc/shadow' }],
  ])('a container with %s is not read', async (_, change) => {
    const store = await loaded(fixture('sandbox'), { ...fixture('container'), ...change });
    expect(store.containers.all()).toEqual([]);
    expect(store.sandboxes.all()).toHaveLength(1);
  });
});

describe('a table of records', () => {
  const record = { ...fixture('sandbox'), id: podId } as unknown as SandboxRecord;
  const onDisk = (): unknown => JSON.parse(readFileSync(join(state, 'sandboxes', `${podId}.json`), 'utf8'));

  test('shows a record when it is on disk, and no longer when it is removed', async () => {
    const { sandboxes } = new Store(state);
    const putting = sandboxes.put(record);
    expect([sandboxes.get(podId), sandboxes.has(podId), sandboxes.all()]).toEqual([undefined, false, []]);
    await putting;
    expect(onDisk()).toEqual(record);
    expect([sandboxes.get(podId), sandboxes.has(podId), sandboxes.all()]).toEqual([record, true, [record]]);
    const deleting = sandboxes.delete(podId);
    expect(sandboxes.has(podId)).toBe(true);
    await deleting;
    expect([sandboxes.has(podId), readdirSync(join(state, 'sandboxes'))]).toEqual([false, []]);
  });

  test('a record that cannot be written is not shown', async () => {
    const { sandboxes } = new Store(state);
    rmSync(join(state, 'sandboxes'), { recursive: true });
    await expect(sandboxes.put(record)).rejects.toThrow('ENOENT');
    expect(sandboxes.has(podId)).toBe(false);
  });

  test('changes follow one another, and do not bring back a removed record', async () => {
    const { sandboxes } = new Store(state);
    await sandboxes.put(record);
    await Promise.all([
      sandboxes.change(podId, { stoppedAt: '1' }),
      sandboxes.change(podId, ({ stoppedAt }) => ({ endedAt: `${stoppedAt}0` })),
    ]);
    expect(sandboxes.get(podId)).toEqual({ ...record, stoppedAt: '1', endedAt: '10' });
    expect(onDisk()).toEqual({ ...record, stoppedAt: '1', endedAt: '10' });
    const [, changed] = await Promise.all([
      sandboxes.delete(podId),
      sandboxes.change(podId, { stoppedAt: '2' }),
    ]);
    expect([changed, sandboxes.has(podId), readdirSync(join(state, 'sandboxes'))]).toEqual([
      undefined,
      false,
      [],
    ]);
  });

  test('a write that was cut off is removed, and other files are left alone', async () => {
    const folder = join(state, 'containers');
    writeFileSync(join(folder, '.half'), '{');
    writeFileSync(join(folder, 'README'), 'text');
    const store = new Store(state);
    await store.load();
    expect(readdirSync(folder)).toEqual(['README']);
    expect(store.containers.unreadable().size).toBe(0);
  });

  test('a record in the file of another id is not read', async () => {
    const other = 'c'.repeat(64);
    write(`sandboxes/${podId}.json`, fixture('sandbox'));
    write(`containers/${other}.json`, fixture('container'));
    const store = new Store(state);
    await store.load();
    expect([store.containers.all(), [...store.containers.unreadable().keys()]]).toEqual([[], [other]]);
  });

  test('an id without a record can be read: it is unknown', () => {
    const { containers } = new Store(state);
    containers.checkReadable(containerId);
    expect(containers.has(containerId)).toBe(false);
  });

  test('the folders are made if they are absent', async () => {
    const fresh = join(state, 'fresh');
    await new Store(fresh).load();
    expect(readdirSync(fresh).sort()).toEqual(['containers', 'sandboxes']);
  });

  test('an unreadable record is listed with its reason', async () => {
    const before = setAside.all().length;
    await loaded({ ...fixture('sandbox'), version: 2 }, {});
    const named = setAside.all().slice(before);
    expect(named.map(({ kind, name }) => [kind, name])).toEqual([
      ['pod record', join(state, 'sandboxes', `${podId}.json`)],
      ['container record', join(state, 'containers', `${containerId}.json`)],
    ]);
    expect(named.every(({ reason }) => reason.length > 0)).toBe(true);
  });

  test('a record whose file was renamed by an earlier version stays set aside', async () => {
    const text = write(`containers/${containerId}.json.unreadable`, fixture('container'));
    const store = new Store(state);
    await store.load();
    expect([store.containers.all(), store.containers.has(containerId)]).toEqual([[], true]);
    expect(readFileSync(join(state, 'containers', `${containerId}.json.unreadable`), 'utf8')).toBe(text);
    expect(store.usedImages()).toEqual([]);
  });
});

test('the containers of a pod are its own, and an unreadable one blocks its own pod only', async () => {
  const store = await loaded(fixture('sandbox'), fixture('container'));
  const other = 'b'.repeat(64);
  expect(store.containersOf(podId).map(({ id }) => id)).toEqual([containerId]);
  expect(store.containersOf(other)).toEqual([]);
  const unreadable = new Store(state);
  write(`containers/${containerId}.json`, { ...fixture('container'), version: 2 });
  await unreadable.load();
  unreadable.checkContainersReadable(other);
  expect(() => unreadable.checkContainersReadable(podId)).toThrow(
    expect.objectContaining({ id: 'RecordUnreadable', message: expect.stringContaining(containerId) }),
  );
});

test('the images in use are those of all records, of containers and of volumes, read from memory or disk', async () => {
  const volumes = { ...fixture('container'), imageVolumes: { 0: 'volume-image', 2: 'other-image' } };
  const store = await loaded(fixture('sandbox'), volumes);
  const images = [fixture('container')['imageId'], 'volume-image', 'other-image'];
  expect(store.usedImages()).toEqual(images);
  writeFileSync(join(state, 'containers', '.half'), '{"imageId":"cut off"}');
  writeFileSync(join(state, 'containers', 'README'), '{"imageId":"not a record"}');
  writeFileSync(join(state, 'containers', `${'c'.repeat(64)}.json`), '{"imageId":');
  write(`containers/${'d'.repeat(64)}.json.unreadable`, { imageId: 'set aside' });
  expect((await imagesOfRecords(state)).sort()).toEqual([...images, 'set aside'].map(String).sort());
  expect(await imagesOfRecords(join(state, 'absent'))).toEqual([]);
});
