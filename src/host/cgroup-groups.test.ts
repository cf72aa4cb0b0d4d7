// Groups and their processes in the kernel's v2 tree, which a host with v1 has as well; the files
// of v1's cpuset and systemd's tool are fakes.
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { execFileSync, spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import {
  cgroupOfProcess,
  cgroupProcesses,
  cgroupsIn,
  killCgroup,
  makePodCgroup,
  processesOf,
  removeCgroup,
  removePodCgroup,
  signalCgroup,
  writeResources,
  type CgroupLayout,
} from './cgroup.js';
import { bindMount, mount, unmount } from './mounts.js';

let base: string;
/** The folder of a group of our own, which stands for the whole tree. */
let tree: string;
let top: string;
const parent = '/pods';
const children: ChildProcess[] = [];

beforeEach(async () => {
  base = await mkdtemp(join(tmpdir(), 'crisp-cgroup-'));
  tree = join(base, 'tree');
  top = join(base, 'kernel', basename(base));
  for (const folder of ['kernel', 'tree']) await mkdir(join(base, folder));
  await mount('cgroup2', 'none', join(base, 'kernel'), '');
  await mkdir(top);
  await bindMount(top, tree);
});
afterEach(async () => {
  for (const child of children.splice(0)) {
    child.kill('SIGKILL');
    if (child.exitCode === null && child.signalCode === null) await once(child, 'exit');
  }
  await unmount(tree);
  await writeFile(join(top, 'cgroup.kill'), '1');
  execFileSync('find', [top, '-depth', '-type', 'd', '-delete']); // rmdir(2): files of a group cannot be removed
  await unmount(join(base, 'kernel'));
  await rm(base, { recursive: true });
});

const v2 = (): CgroupLayout => ({ version: 'v2', controllers: {}, unified: tree });
/** v1's code on the same tree: a group, its processes and its removal are the same there. */
const v1 = (): CgroupLayout => ({ version: 'v1', controllers: { memory: tree }, unified: undefined });
const there = (...path: string[]): boolean => existsSync(join(tree, parent, ...path));

/** A program in a group. */
async function inGroup(name: string, script = 'exec sleep 1000'): Promise<ChildProcess & { pid: number }> {
  const child = spawn('sh', ['-c', `read go; echo in; ${script}`], { stdio: ['pipe', 'pipe', 'inherit'] });
  children.push(child);
  await writeFile(join(tree, name, 'cgroup.procs'), String(child.pid));
  child.stdin.write('go\n');
  await once(child.stdout, 'data');
  return child as ChildProcess & { pid: number };
}
const signalOf = async (child: ChildProcess): Promise<unknown> =>
  child.signalCode ?? (await once(child, 'exit'))[1];

describe('the group of a pod', () => {
  test('is made with its parents, and made again without an error', async () => {
    await makePodCgroup(`${parent}/pod`, v2());
    await makePodCgroup(`${parent}/pod`, v2());
    expect(there('pod')).toBe(true);
  });

  test('has the controllers that its parent has, each enabled by itself', async () => {
    for (const name of ['', 'pods', 'pods/pod']) await mkdir(join(base, 'plain', name), { recursive: true });
    const controllers = { '': 'cpu memory', pods: 'cpu', 'pods/pod': 'cpu' };
    for (const [name, text] of Object.entries(controllers))
      await writeFile(join(base, 'plain', name, 'cgroup.controllers'), `${text}\n`);
    await makePodCgroup('/pods/pod', { ...v2(), unified: join(base, 'plain') });
    const enabled = (name: string): Promise<string> =>
      readFile(join(base, 'plain', name, 'cgroup.subtree_control'), 'utf8');
    expect([await enabled(''), await enabled('pods')]).toEqual(['+memory', '+cpu']); // the last write
    expect(existsSync(join(base, 'plain', 'pods/pod', 'cgroup.subtree_control'))).toBe(false);
  });

  test('is made although a controller cannot be enabled', async () => {
    const plain = join(base, 'plain');
    await mkdir(join(plain, 'cgroup.subtree_control'), { recursive: true }); // every write fails
    await writeFile(join(plain, 'cgroup.controllers'), 'cpu memory\n');
    await makePodCgroup('/pod', { ...v2(), unified: plain });
    expect(existsSync(join(plain, 'pod'))).toBe(true);
  });

  test('of v1 is made in the tree of every controller', async () => {
    const layout: CgroupLayout = {
      version: 'v1',
      controllers: { memory: join(base, 'memory'), pids: join(base, 'pids') },
      unified: tree,
    };
    for (const folder of Object.values(layout.controllers)) await mkdir(folder);
    await makePodCgroup(`${parent}/pod`, layout);
    for (const folder of Object.values(layout.controllers))
      expect(existsSync(join(folder, parent, 'pod'))).toBe(true);
    expect(there()).toBe(false); // the runtimes make it there
  });

  test("of v1's cpuset starts with the processors and memory nodes of its parent, and keeps its own", async () => {
    const cpuset = join(base, 'cpuset');
    const set = async (folder: string, cpus: string, mems: string): Promise<void> => {
      await mkdir(folder, { recursive: true });
      await writeFile(join(folder, 'cpuset.cpus'), cpus);
      await writeFile(join(folder, 'cpuset.mems'), mems);
    };
    await set(cpuset, '0-3\n', '0-1\n');
    await set(join(cpuset, 'pod'), '\n', '\n');
    await set(join(cpuset, 'pod/inner'), '2\n', '1\n');
    const layout: CgroupLayout = { version: 'v1', controllers: { cpuset }, unified: undefined };
    await makePodCgroup('/pod/inner', layout);
    const read = (...path: string[]): Promise<string> => readFile(join(cpuset, ...path), 'utf8');
    expect([await read('pod/cpuset.cpus'), await read('pod/cpuset.mems')]).toEqual(['0-3', '0-1']);
    expect([await read('pod/inner/cpuset.cpus'), await read('pod/inner/cpuset.mems')]).toEqual([
      '2\n',
      '1\n',
    ]);
  });

  test('cannot be made in a cpuset that never gets a processor, or in a tree that is gone: an error', async () => {
    const cpuset = join(base, 'cpuset');
    await mkdir(join(cpuset, 'pod'), { recursive: true });
    for (const folder of [cpuset, join(cpuset, 'pod')]) await writeFile(join(folder, 'cpuset.cpus'), '\n');
    const layout: CgroupLayout = { version: 'v1', controllers: { cpuset }, unified: undefined };
    await expect(makePodCgroup('/pod', layout)).rejects.toThrow(`${cpuset} has no cpuset.cpus`);
    await expect(makePodCgroup('/pod', { ...v2(), unified: join(base, 'gone') })).rejects.toThrow(/ENOENT/);
    await expect(makePodCgroup('/pod', { ...v2(), unified: '/proc/self/stat' })).rejects.toThrow(/ENOTDIR/);
  });

  test('is made and removed while others are in the same parent, whose removal is no error', async () => {
    const cycles = async (name: string): Promise<void> => {
      for (let round = 0; round < 50; round++) {
        await makePodCgroup(`${parent}/${name}`, v2());
        await removePodCgroup(`${parent}/${name}`, v2());
      }
    };
    await Promise.all(['a', 'b', 'c', 'd'].map(cycles));
    expect(there()).toBe(false);
  });
});

describe('removal', () => {
  test('takes the empty groups below it and an empty parent, and repeats without an error', async () => {
    await mkdir(join(tree, parent, 'pod', 'container', 'inner'), { recursive: true });
    await removePodCgroup(`${parent}/pod`, v2());
    await removePodCgroup(`${parent}/pod`, v2());
    expect(there()).toBe(false);
  });

  test('leaves a parent with other groups', async () => {
    await mkdir(join(tree, parent, 'other'), { recursive: true });
    await mkdir(join(tree, parent, 'pod'));
    await removePodCgroup(`${parent}/pod`, v2());
    expect([there('pod'), there('other')]).toEqual([false, true]);
  });

  test('of a group alone leaves its parent, even if it is empty', async () => {
    await mkdir(join(tree, parent, 'pod'), { recursive: true });
    await removeCgroup(`${parent}/pod`, v2());
    expect([there('pod'), there()]).toEqual([false, true]);
  });

  test.each(['pod', 'pod/inner'])('with a process in %s is an error, and the group stays', async (name) => {
    await mkdir(join(tree, parent, name), { recursive: true });
    await inGroup(join(parent, name));
    await expect(removePodCgroup(`${parent}/pod`, v2())).rejects.toMatchObject({
      id: 'Internal',
      message: expect.stringContaining(`${join(tree, parent, name)} `),
    });
    expect(there('pod')).toBe(true);
  });

  test('waits for a process that is just ending', async () => {
    await mkdir(join(tree, parent, 'pod'), { recursive: true });
    const child = await inGroup(`${parent}/pod`);
    child.kill('SIGKILL');
    await removePodCgroup(`${parent}/pod`, v2());
    expect(there('pod')).toBe(false);
  });

  test('takes the folders that a runtime made beside the trees of v1', async () => {
    await mkdir(join(tree, parent, 'pod'), { recursive: true });
    const stray = join(base, 'unified', parent);
    await mkdir(join(stray, 'pod'), { recursive: true });
    await writeFile(join(stray, 'pod', 'cgroup.procs'), '1'); // a plain file, and no group of the kernel
    await removePodCgroup(`${parent}/pod`, v1());
    expect([there(), existsSync(stray)]).toEqual([false, false]);
  });

  test('also goes through the v2 tree of a host that has v1 as well', async () => {
    await mkdir(join(tree, parent, 'pod'), { recursive: true });
    const stray = join(base, 'unified', parent, 'pod');
    await mkdir(stray, { recursive: true });
    const memory = join(base, 'memory');
    await mkdir(join(memory, parent, 'pod'), { recursive: true });
    await removePodCgroup(`${parent}/pod`, { version: 'v1', controllers: { memory }, unified: tree });
    expect([there(), existsSync(join(memory, parent)), existsSync(stray)]).toEqual([false, false, true]);
  });
});

test('the groups in a group are named, once for all trees', async () => {
  await mkdir(join(tree, parent, 'a'), { recursive: true });
  await mkdir(join(tree, parent, 'b'));
  await mkdir(join(base, 'memory', parent, 'b'), { recursive: true });
  await mkdir(join(base, 'memory', parent, 'c'));
  const layout: CgroupLayout = {
    version: 'v1',
    controllers: { memory: join(base, 'memory') },
    unified: tree,
  };
  expect([...(await cgroupsIn(parent, layout))].sort()).toEqual(['a', 'b', 'c']);
  expect([...(await cgroupsIn(`${parent}/none`, layout))]).toEqual([]);
});

describe('the processes of a group', () => {
  beforeEach(async () => {
    await mkdir(join(tree, parent, 'pod', 'inner'), { recursive: true });
    await mkdir(join(tree, parent, 'other'));
  });

  test('are those in it and below it', async () => {
    const [own, below] = [await inGroup(`${parent}/pod`), await inGroup(`${parent}/pod/inner`)];
    await inGroup(`${parent}/other`);
    for (const layout of [v1(), v2()])
      expect((await cgroupProcesses(`${parent}/pod`, layout)).sort()).toEqual([own.pid, below.pid].sort());
    expect(await processesOf(join(tree, parent, 'pod', 'inner'))).toEqual([below.pid]);
  });

  test('are none in a group or tree that is not there', async () => {
    expect(await cgroupProcesses(`${parent}/none`, v2())).toEqual([]);
    expect(await cgroupProcesses(`${parent}/pod`, { ...v1(), controllers: {} })).toEqual([]);
  });

  test('outside of the pid namespace, which the kernel shows as 0, are left out', async () => {
    await mkdir(join(base, 'plain'));
    await writeFile(join(base, 'plain', 'cgroup.procs'), '0\n17\n');
    expect(await processesOf(join(base, 'plain'))).toEqual([17]);
  });

  test('get a signal once each, those of other groups not', async () => {
    const script = 'trap "echo usr1" USR1; while :; do read next; done';
    const [own, below, other] = [
      await inGroup(`${parent}/pod`, script),
      await inGroup(`${parent}/pod/inner`),
      await inGroup(`${parent}/other`),
    ];
    const answer = once(own.stdout as NodeJS.ReadableStream, 'data');
    await signalCgroup(`${parent}/pod`, 10, v2());
    expect(String((await answer)[0])).toBe('usr1\n');
    expect(await signalOf(below)).toBe('SIGUSR1');
    expect(other.signalCode).toBeNull();
    await signalCgroup(`${parent}/pod`, 10, { ...v1(), controllers: {} }); // no tree, and no error
  });

  test.each(['v1', 'v2'] as const)('are all killed, and waited for, with %s', async (version) => {
    const layout = version === 'v1' ? v1() : v2();
    const [own, below, other] = [
      await inGroup(`${parent}/pod`),
      await inGroup(`${parent}/pod/inner`),
      await inGroup(`${parent}/other`),
    ];
    await killCgroup(`${parent}/pod`, layout);
    expect(await cgroupProcesses(`${parent}/pod`, layout)).toEqual([]);
    expect([await signalOf(own), await signalOf(below)]).toEqual(['SIGKILL', 'SIGKILL']);
    expect(other.signalCode).toBeNull();
    await killCgroup(`${parent}/pod`, layout);
    await killCgroup(`${parent}/none`, layout);
    await killCgroup(`${parent}/pod`, { ...layout, version: 'v1', controllers: {} });
  });

  test('are killed by the kernel itself where it can, which no fork escapes, else one by one', async () => {
    for (const name of ['with', 'without']) {
      await mkdir(join(base, name));
      await writeFile(join(base, name, 'cgroup.procs'), '');
    }
    await writeFile(join(base, 'with', 'cgroup.kill'), '');
    const layout = { ...v2(), unified: base };
    await killCgroup('/with', layout);
    await killCgroup('/without', layout);
    expect(await readFile(join(base, 'with', 'cgroup.kill'), 'utf8')).toBe('1');
    expect(existsSync(join(base, 'without', 'cgroup.kill'))).toBe(false);
    await mkdir(join(base, 'without', 'cgroup.kill'));
    await expect(killCgroup('/without', layout)).rejects.toMatchObject({ code: 'EISDIR' }); // refused, and not absent
  });
});

test('the group of a process is known with v2, and with v1 it differs between controllers', async () => {
  await mkdir(join(tree, parent, 'pod'), { recursive: true });
  const { pid } = await inGroup(`${parent}/pod`);
  expect(await cgroupOfProcess(pid, v2())).toBe(`/${basename(base)}${parent}/pod`);
  expect(await cgroupOfProcess(pid, v1())).toBeUndefined();
  expect(await cgroupOfProcess(2 ** 22 + 1, v2())).toBeUndefined();
  await writeFile(join(base, 'kernel', 'cgroup.procs'), String(pid));
  expect(await cgroupOfProcess(pid, v2())).toBeUndefined(); // the top is nobody's group
});

test('a limit that the kernel refuses is an error with its reason', async () => {
  await makePodCgroup(`${parent}/pod`, v2());
  const refused = writeResources(`${parent}/pod`, { unified: { 'cgroup.max.depth': 'deep' } }, v2());
  await expect(refused).rejects.toMatchObject({
    id: 'InvalidArgument',
    message: expect.stringMatching(/refuses deep for .*\/pod\/cgroup.max.depth: EINVAL/),
  });
  await writeResources(`${parent}/pod`, { unified: { 'cgroup.max.depth': '7' } }, v2());
  expect(await readFile(join(tree, parent, 'pod', 'cgroup.max.depth'), 'utf8')).toBe('7\n');
});
