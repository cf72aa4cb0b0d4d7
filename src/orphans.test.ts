// Files and mounts without an owner are found and removed; those of records and running
// processes are kept.
import { afterEach, beforeEach, expect, test } from '@jest/globals';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Backend } from './backends/backend.js';
import { containerThing, removeOrphans, thingsIn, type Place, type Thing } from './orphans.js';
import { missing } from '../test/helpers/offenders.js';

let folder: string;
let told: string[];
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'crisp-orphans-'));
  told = [];
});
afterEach(() => rmSync(folder, { recursive: true }));

/** A place with these rootfs and views, which are stand-ins. */
function place(rootfs: readonly string[] = [], views: readonly string[] = []): Place {
  return {
    root: join(folder, 'root'),
    state: join(folder, 'state'),
    cgroup: () => undefined,
    rootfs: {
      list: async () => [...rootfs],
      images: async () => [...views],
      unmount: async (id) => void told.push(`unmount ${id}`),
      unmountImage: async (name) => void told.push(`unmountImage ${name}`),
    },
  };
}
function make(path: string, content?: string): string {
  const whole = join(folder, path);
  mkdirSync(content === undefined ? whole : join(whole, '..'), { recursive: true });
  if (content !== undefined) writeFileSync(whole, content);
  return whole;
}
const everything = async (things: readonly Thing[], known: readonly string[] = []): Promise<void> =>
  removeOrphans(
    things,
    (owner) => known.includes(owner),
    async (thing) => {
      try {
        await thing.remove();
        return true;
      } catch {
        return false;
      }
    },
  );

test('all leftovers in a place are found, with their owner, in the order of removal', async () => {
  make('state/bundles/b');
  make('root/logs/l.log', '');
  make('state/names/n', 'owner');
  make('state/pods/p');
  const things = await thingsIn(place(['r'], ['c-0', 'c-12']));
  expect(things.map(({ kind, name, owner }) => [kind, name, owner])).toEqual([
    ['bundle', 'b', 'b'],
    ['rootfs', 'r', 'r'],
    ['image volume', 'c-0', 'c'],
    ['image volume', 'c-12', 'c'],
    ['log', 'l.log', 'l'],
    ['name', 'n', 'owner'],
    ['pod folder', 'p', 'p'],
  ]);
  await everything(things);
  expect(told).toEqual(['unmount r', 'unmountImage c-0', 'unmountImage c-12']);
  for (const path of ['state/bundles/b', 'root/logs/l.log', 'state/names/n', 'state/pods/p'])
    expect([path, existsSync(join(folder, path))]).toEqual([path, false]);
});

test('a missing place has no leftovers', async () => {
  expect(await thingsIn(place())).toEqual([]);
});

test('what has a record is kept: a running container keeps its writable layer', async () => {
  const bundle = make('state/bundles/c');
  const pod = make('state/pods/p');
  await everything(await thingsIn(place(['c', 'other'], ['c-0', 'other-0'])), ['c', 'p']);
  expect(told).toEqual(['unmount other', 'unmountImage other-0']);
  expect([existsSync(bundle), existsSync(pod)]).toEqual([true, true]);
});

test('a container that cannot be removed keeps its rootfs and its bundle', async () => {
  const bundle = make('state/bundles/runs');
  const backend = {
    name: 'fake',
    delete: ({ id }: { id: string }) => {
      told.push(`delete ${id}`);
      return id === 'runs' ? Promise.reject(new Error('it runs')) : Promise.resolve();
    },
  } as unknown as Backend;
  const containers = ['runs', 'gone'].map((id) => containerThing(backend, { id } as never));
  expect(containers.map(({ kind, name, owner }) => [kind, name, owner])).toEqual([
    ['container', 'runs (fake)', 'runs'],
    ['container', 'gone (fake)', 'gone'],
  ]);
  await everything([...containers, ...(await thingsIn(place(['runs', 'gone'], ['runs-0'])))]);
  expect(told).toEqual(['delete runs', 'delete gone', 'unmount gone']);
  expect(missing(bundle)).toEqual([]);
});

test('a running probe and the view of a copy are kept until their process has ended', async () => {
  const child = spawn('sleep', ['60']);
  const probe = `crisp-probe-crun-${child.pid}-1`;
  const look = () => thingsIn(place([probe], [`bundle-${child.pid}`]));
  await everything(await look());
  expect(told).toEqual([]);
  child.kill('SIGKILL');
  await once(child, 'exit');
  await everything(await look());
  expect(told).toEqual([`unmount ${probe}`, `unmountImage bundle-${child.pid}`]);
});

test('a name is removed with its owner, but not if another owner has taken it since', async () => {
  const [kept, freed, taken] = ['kept', 'freed', 'taken'].map((name) => make(`state/names/${name}`, name));
  const things = await thingsIn(place());
  writeFileSync(String(taken), 'the next');
  await everything(things, ['kept']);
  expect([kept, freed, taken].map((path) => existsSync(String(path)))).toEqual([true, false, true]);
});
