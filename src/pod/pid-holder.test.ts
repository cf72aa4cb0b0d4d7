// On a real runtime: runc, which supports every cgroup layout.
import { afterEach, beforeEach, expect, test } from '@jest/globals';
import { chmod, mkdtemp, readdir, readFile, readlink, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { cgroupProcesses } from '../host/cgroup.js';
import { exists } from '../host/files.js';
import { isAlive } from '../host/proc.js';
import { run, runDetached } from '../host/run.js';
import { pinNamespaces, unpinNamespaces, type Pinned } from './namespaces.js';
import { findHolderTools, startPidHolder, stopPidHolder, type PidHolderPlan } from './pid-holder.js';
import { specIdMap } from '../../test/helpers/user-namespaces.js';

let base: string;
let folder: string;
beforeEach(async () => {
  base = await mkdtemp(join(tmpdir(), 'crisp-holder-'));
  await chmod(base, 0o711); // the root of a user namespace is another uid outside
  folder = join(base, 'holder');
});
afterEach(async () => {
  await stopPidHolder(folder);
  await unpinNamespaces(join(base, 'ns'));
  await rm(base, { recursive: true });
});

const runtimes = [{ path: 'runc', args: [] }];
const plan = async (more: Partial<PidHolderPlan> = {}): Promise<PidHolderPlan> => ({
  tools: await findHolderTools(runtimes),
  folder,
  namespaces: {},
  cgroupsPath: `/${basename(base)}`,
  systemdCgroup: false,
  oomScoreAdj: 7,
  ...more,
});
const read = (pid: number, file: string): Promise<string> => readFile(`/proc/${pid}/${file}`, 'utf8');

test('is the first process of its namespace, alone in its cgroup, until it is stopped', async () => {
  const { path, holder } = await startPidHolder(await plan());
  expect(await read(holder.pid, 'comm')).toBe('catatonit\n');
  expect(await read(holder.pid, 'status')).toMatch(/^NSpid:\t\d+\t1$/m);
  expect(await readlink(path)).not.toBe(await readlink('/proc/self/ns/pid'));
  expect(await cgroupProcesses(`/${basename(base)}`)).toEqual([holder.pid]);
  await stopPidHolder(folder);
  expect(await isAlive(holder)).toBe(false);
  expect(await exists(`/sys/fs/cgroup/memory/${basename(base)}`)).toBe(false);
  expect(await readdir(base)).toEqual([]);
  await stopPidHolder(folder);
});

test.each(['with a user namespace', 'without one'])('is confined as a container is, %s', async (kind) => {
  const map = specIdMap(300_000);
  const idMaps = kind === 'without one' ? undefined : { uids: map, gids: map };
  const pinned: Pinned = await pinNamespaces(
    join(base, 'ns'),
    { network: true, ipc: true, uts: true, user: idMaps },
    { sysctls: {} },
  );
  const { pid } = (await startPidHolder(await plan({ namespaces: pinned, idMaps }))).holder;
  const id = idMaps ? 365_535 : 2_147_483_646;
  const status = await read(pid, 'status');
  for (const line of [
    `Uid:${`\t${id}`.repeat(4)}`,
    `Gid:${`\t${id}`.repeat(4)}`,
    'NoNewPrivs:\t1',
    'Seccomp:\t2',
  ])
    expect(status).toContain(`${line}\n`);
  expect(status).toMatch(/^Groups:\s*$/m);
  for (const set of ['Inh', 'Prm', 'Eff', 'Bnd', 'Amb'])
    expect(status).toContain(`Cap${set}:\t${'0'.repeat(16)}\n`);
  expect((await read(pid, 'environ')).replace('HOME=/\0', '')).toBe(''); // runc's own
  expect((await read(pid, 'oom_score_adj')).trim()).toBe('7');
  // Its root has its program and a /proc of its own processes; no file of the host can be written.
  expect((await readdir(`/proc/${pid}/root`)).sort()).toEqual(['catatonit', 'dev', 'proc']);
  expect(await exists(`/proc/${pid}/root/proc/sys`)).toBe(false);
  const mounts = (await read(pid, 'mountinfo'))
    .trim()
    .split('\n')
    .map((line) => line.split(' '));
  expect(
    mounts.filter(([, , , , target, options]) => !target?.startsWith('/dev/') && !options?.startsWith('ro')),
  ).toEqual([]);
  // Its streams are sockets without a peer: a pod can open nothing through them.
  for (const fd of await readdir(`/proc/${pid}/fd`))
    expect(await readlink(`/proc/${pid}/fd/${fd}`)).toMatch(/^socket:|^pipe:|^anon_inode:\[signalfd\]$/);
  for (const [kind, name] of [
    ['network', 'net'],
    ['ipc', 'ipc'],
    ['uts', 'uts'],
    ['user', 'user'],
  ] as const) {
    if (pinned[kind] === undefined) continue;
    expect(await readlink(`/proc/${pid}/ns/${name}`)).toBe(
      (
        await run(['nsenter', `--${name}=${pinned[kind]}`, 'readlink', `/proc/self/ns/${name}`], {
          timeoutMs: 5_000,
        })
      ).stdout.trim(),
    );
  }
});

test('ends the processes of its namespace when it ends', async () => {
  const { path } = await startPidHolder(await plan());
  const other = await runDetached(['nsenter', `--pid=${path}`, 'sleep', '60']);
  await stopPidHolder(folder);
  await other.exited;
});

test('is distinguished from a later process with its pid, and found without its folder', async () => {
  const { holder } = await startPidHolder(await plan());
  await stopPidHolder(join(base, 'another'), { ...holder, startTime: '1' });
  expect(await isAlive(holder)).toBe(true);
  await stopPidHolder(join(base, 'another'), holder);
  expect(await isAlive(holder)).toBe(false);
});

test('whose runtime fails returns the reason, and leaves nothing behind', async () => {
  await expect(startPidHolder(await plan({ namespaces: { network: '/no/such' } }))).rejects.toMatchObject({
    id: 'NamespaceFailed',
    stderr: expect.stringContaining('/no/such'),
  });
  await stopPidHolder(folder);
  expect(await readdir(base)).toEqual([]);
  await expect(findHolderTools([{ path: '/no/such/crun', args: [] }])).rejects.toMatchObject({
    id: 'ToolMissing',
  });
});
