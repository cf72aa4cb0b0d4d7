import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type CrispError } from '../errors.js';
import { imagesOfStandalone, StandaloneRecords, type StandaloneRecord } from './standalone.js';

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
