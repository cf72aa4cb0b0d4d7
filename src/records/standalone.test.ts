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
  records = new StandaloneRecords(folder);
});
afterEach(async () => {
  await rm(folder, { recursive: true });
});

function record(id: string, name: string, createdAt = '1'): StandaloneRecord {
  return {
    version: 1,
    id,
    name,
    image: 'busybox',
    imageId: 'sha256:1',
    backend: 'crun',
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
      cgroupParent: '',
    },
  };
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
  test('are there for another process, oldest first, also one of a create that was cut off', async () => {
    await records.put(record('bb', 'two', '20'));
    await records.put(record('aa', 'one', '3'));
    expect((await new StandaloneRecords(folder).all()).map(({ name }) => name)).toEqual(['one', 'two']);
    expect(await imagesOfStandalone(folder)).toEqual(['sha256:1', 'sha256:1']);
  });

  test('are none without a folder', async () => {
    expect(await imagesOfStandalone(join(folder, 'none'))).toEqual([]);
  });

  test('of another version are passed over, but not their images', async () => {
    await records.put(record('aa', 'one'));
    await writeFile(
      join(folder, 'containers/bb.json'),
      JSON.stringify({ version: 2, id: 'bb', imageId: 'sha256:2' }),
    );
    await writeFile(join(folder, 'containers/cc.json'), '{');
    expect((await records.all()).map(({ id }) => id)).toEqual(['aa']);
    expect((await records.find('one')).id).toBe('aa');
    expect((await imagesOfStandalone(folder)).sort()).toEqual(['sha256:1', 'sha256:2']);
  });

  test('are found by name, id and beginning of an id', async () => {
    await records.put(record('abc1', 'one'));
    await records.put(record('abd2', 'abc'));
    expect((await records.find('one')).id).toBe('abc1');
    expect((await records.find('abd')).id).toBe('abd2');
    expect((await records.find('abc')).id).toBe('abd2'); // a name is before the beginning of an id
    expect(await idOf(records.find('ab'))).toBe('InvalidArgument');
    expect(await idOf(records.find('x'))).toBe('ContainerNotFound');
    expect(await idOf(records.find(''))).toBe('ContainerNotFound');
  });

  test('a name is taken once, and free again after its container', async () => {
    await records.takeName('web', 'aa');
    expect(await idOf(records.takeName('web', 'bb'))).toBe('NameInUse');
    await records.delete(record('bb', 'web')); // not the one that has it
    expect(await idOf(records.takeName('web', 'bb'))).toBe('NameInUse');
    await records.delete(record('aa', 'web'));
    expect(await idOf(records.takeName('web', 'bb'))).toBeUndefined();
  });
});
