import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { mkdtemp, readdir, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type CrispError } from '../errors.js';
import { setAside } from '../set-aside.js';
import {
  idsOfStandalone,
  imagesOfStandalone,
  refOf,
  StandaloneRecords,
  type StandaloneRecord,
} from './standalone.js';

let folder = '';
let records: StandaloneRecords;
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'crisp-standalone-'));
  records = new StandaloneRecords(folder, join(folder, 'root'));
});
afterEach(async () => {
  await rm(folder, { recursive: true });
});

/** @param beginning of its id */
function record(beginning: string, name: string, createdAt = '1'): StandaloneRecord {
  const id = idOfOne(beginning);
  return {
    version: 1,
    id,
    name,
    image: 'busybox',
    imageId: 'sha256:1',
    handler: 'crun',
    rule: 'default_container_type',
    complete: false,
    createdAt,
    folder: '/f',
    logPath: '/l',
    stopSignal: 'SIGNAL_SIGTERM',
    terminal: false,
    notHonoured: [],
    backendState: undefined,
    plan: {
      id,
      name,
      namespace: '',
      uid: id,
      attempt: 0,
      labels: {},
      annotations: {},
      folder: '/f',
      hostname: undefined,
      namespaces: {},
      cgroupParent: `/crisp-cli/${id}`,
    },
  };
}
function idOfOne(beginning: string): string {
  return beginning.padEnd(64, '0');
}
async function idOf(work: Promise<unknown>): Promise<string | undefined> {
  try {
    await work;
  } catch (error) {
    return (error as CrispError).id;
  }
  return undefined;
}

describe('the records of standalone containers', () => {
  test('can be read by another process, oldest first, including those of an interrupted create', async () => {
    await records.put(record('bb', 'two', '20'));
    await records.put(record('aa', 'one', '3'));
    expect((await new StandaloneRecords(folder, join(folder, 'root')).all()).map(({ name }) => name)).toEqual(
      ['one', 'two'],
    );
    expect(await imagesOfStandalone(folder)).toEqual(['sha256:1', 'sha256:1']);
  });

  test('are empty without a folder', async () => {
    expect(await imagesOfStandalone(join(folder, 'none'))).toEqual([]);
  });

  test('of another version are skipped, but their images are kept', async () => {
    await records.put(record('aa', 'one'));
    await writeFile(
      join(folder, 'containers/bb.json'),
      JSON.stringify({ version: 2, id: 'bb', imageId: 'sha256:2' }),
    );
    await writeFile(join(folder, 'containers/cc.json'), '{');
    expect((await records.all()).map(({ id }) => id)).toEqual([idOfOne('aa')]);
    expect((await records.find('one')).id).toBe(idOfOne('aa'));
    expect((await imagesOfStandalone(folder)).sort()).toEqual(['sha256:1', 'sha256:2']);
  });

  test('are found by name, id and prefix of an id', async () => {
    await records.put(record('abc1', 'one'));
    await records.put(record('abd2', 'abc'));
    expect((await records.find('one')).id).toBe(idOfOne('abc1'));
    expect((await records.find('abd')).id).toBe(idOfOne('abd2'));
    expect((await records.find('abc')).id).toBe(idOfOne('abd2')); // a name is before the beginning of an id
    expect(await idOf(records.find('ab'))).toBe('InvalidArgument');
    expect(await idOf(records.find('x'))).toBe('ContainerNotFound');
    expect(await idOf(records.find(''))).toBe('ContainerNotFound');
  });

  test('a name is taken once, and is free after its container is removed', async () => {
    await records.takeName('web', idOfOne('aa'));
    expect(await idOf(records.takeName('web', 'bb'))).toBe('NameInUse');
    await records.delete(record('bb', 'web')); // not the one that has it
    expect(await idOf(records.takeName('web', 'bb'))).toBe('NameInUse');
    await records.delete(record('aa', 'web'));
    expect(await idOf(records.takeName('web', 'bb'))).toBeUndefined();
  });
});

describe('a standalone record', () => {
  test('gets its paths from its id, and keeps the hostname and the kinds of namespaces', async () => {
    const given = record('aa', 'one');
    const { id } = given;
    await records.put({
      ...given,
      complete: true,
      backendState: { of: 'the backend' },
      plan: { ...given.plan, hostname: 'of-one', namespaces: { network: '/elsewhere', uts: '/elsewhere' } },
    });
    const [read] = await records.all();
    const pod = join(folder, 'pods', id);
    expect(read).toMatchObject({
      folder: join(folder, 'bundles', id),
      logPath: join(folder, 'root', 'logs', `${id}.log`),
      plan: { id, uid: id, attempt: 0, hostname: 'of-one', folder: pod },
    });
    expect(read?.plan.namespaces).toEqual({ network: join(pod, 'ns/net'), uts: join(pod, 'ns/uts') });
    expect(read && refOf(read)).toEqual({
      id,
      folder: join(folder, 'bundles', id),
      logPath: join(folder, 'root', 'logs', `${id}.log`),
      state: { of: 'the backend' },
    });
    expect(records.logOf('x')).toBe(join(folder, 'root', 'logs', 'x.log'));
  });

  test.each<[string, boolean, (one: StandaloneRecord) => object]>([
    ['the cgroup of services', true, (one) => ({ plan: { ...one.plan, cgroupParent: '/system.slice' } })],
    ['a foreign cgroup', false, (one) => ({ plan: { ...one.plan, cgroupParent: '/kubepods' } })],
    ['the cgroup of another one', false, (one) => ({ plan: { ...one.plan, cgroupParent: '/crisp-cli/bb' } })],
    ['no cgroup', false, (one) => ({ plan: { ...one.plan, cgroupParent: '' } })],
    ['another version', false, () => ({ version: 2 })],
    ['a signal that is a number', false, () => ({ stopSignal: 15 })],
    [
      'the id of another one',
      false,
      (one) => ({ id: idOfOne('bb'), plan: { ...one.plan, cgroupParent: '/system.slice' } }),
    ],
  ])('with %s is valid: %j', async (_, isValid, change) => {
    const one = record('aa', 'one');
    await records.put(one);
    const path = join(folder, 'containers', `${one.id}.json`);
    await writeFile(path, JSON.stringify({ ...one, ...change(one) }));
    const before = setAside.all().filter(({ name }) => name === path).length;
    expect((await records.all()).length).toBe(isValid ? 1 : 0);
    const named = setAside.all().filter(({ name }) => name === path);
    expect([before, named.map(({ kind }) => kind)]).toEqual([0, isValid ? [] : ['standalone record']]);
    setAside.replace('standalone record', []);
  });

  test('that is ambiguous is named by the beginnings of the ids, and one that cannot be read by its file', async () => {
    await records.put(record('abc1', 'one'));
    await records.put(record('abd2', 'two'));
    await expect(records.find('ab')).rejects.toThrow('"ab" matches 2 containers: abc100000000, abd200000000');
    const unreadable = idOfOne('cc');
    const path = join(folder, 'containers', `${unreadable}.json`);
    await writeFile(path, '{');
    await expect(records.find(unreadable)).rejects.toThrow(`cannot read ${path}`);
    expect(await idOf(records.find(idOfOne('dd')))).toBe('ContainerNotFound');
    expect(await idOf(records.find('cc'))).toBe('ContainerNotFound');
    setAside.replace('standalone record', []);
  });

  test('is found by its full id before any other match', async () => {
    await records.put(record('ab', 'one', '2'));
    await records.put(record('cd', 'two', '1'));
    expect((await records.find(idOfOne('ab'))).name).toBe('one');
  });

  test('goes with its file and its name', async () => {
    const one = record('aa', 'one');
    await records.takeName('one', one.id);
    expect(await readdir(join(folder, 'names'))).toEqual(['one']);
    await records.put(one);
    await writeFile(join(folder, 'containers', 'README'), 'text');
    await writeFile(join(folder, 'containers', '.half.json'), '{');
    expect(await idsOfStandalone(folder)).toEqual([one.id]);
    expect(await records.all()).toHaveLength(1);
    await records.delete(one);
    expect(await readdir(join(folder, 'containers'))).toEqual(['.half.json', 'README']);
    expect(await readdir(join(folder, 'names'))).toEqual([]);
    expect(await idsOfStandalone(join(folder, 'none'))).toEqual([]);
  });

  test('keeps its order if many were made', async () => {
    const names = Array.from({ length: 12 }, (_, index) => `n${index}`);
    for (const place of names.keys()) {
      const index = (5 * place) % names.length; // neither the order of the files nor its reverse
      await records.put(record(`a${index.toString(16)}`, names[index] ?? '', String(9 + index)));
    }
    expect((await records.all()).map(({ name }) => name)).toEqual(names);
  });

  test('passes on other errors of the file system', async () => {
    await expect(records.takeName('a/b', 'id')).rejects.toMatchObject({ code: 'ENOENT' });
  });
});
