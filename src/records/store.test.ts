// Records of the previous release are read, and those of the next one are refused
// unchanged (docs/adr/0011). Paths in records are not trusted.
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { StandaloneRecords } from './standalone.js';
import { Store } from './store.js';

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
