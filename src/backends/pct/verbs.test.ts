// The verbs on CTs, with shell scripts in place of pct, lxc-info and systemctl, and a folder in place
// of /etc/pve.  Processes and control groups are real.
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { spawn, spawnSync, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { createServer, type Server, type Socket } from 'node:net';
import { hostname, tmpdir } from 'node:os';
import { join } from 'node:path';
import { until } from '../../../test/helpers/wait.js';
import { checkConfig } from '../../config/config.js';
import { flagSource } from '../../config/source.js';
import { cgroupFolder, cgroupLayout, makePodCgroup, removePodCgroup } from '../../host/cgroup.js';
import { mount, mountPoints } from '../../host/mounts.js';
import { log } from '../../log.js';
import type { ContainerRef } from '../backend.js';
import { cgroupOf, monitorCgroupOf } from './cgroups.js';
import { contextOf, type PctContext } from './context.js';
import { addresses, find, formerVmid, initPid, mark, mine, running } from './find.js';
import { describe as description, recoveryLine } from './guest-config.js';
import { kill } from './kill.js';
import { list, reclaim, survey } from './recover.js';
import { remnants, removeContainer } from './remove.js';
import { start } from './start.js';
import { stateOf } from './state.js';
import { update } from './update.js';
import { inDoubt, remember } from './watch.js';

const vmid = 900_000 + (process.pid % 10_000);
const id = 'a'.repeat(64);
let folder: string;
let bundle: string;
let ctx: PctContext;
const children: ChildProcess[] = [];
let watcher: Server | undefined;
const connections: Socket[] = [];

beforeEach(() => {
  log.level = 'silent';
  folder = mkdtempSync(join(tmpdir(), 'crisp-verbs-'));
  bundle = join(folder, 'bundle');
  for (const name of ['pve/lxc', 'pve/nodes', 'state', 'root', 'lock', 'units', 'bundle', 'exits'])
    mkdirSync(join(folder, name), { recursive: true });
  program('pct', `echo "$@" >>'${folder}/called'\n[ "$1" != destroy ] || rm -f "${folder}/pve/lxc/$2.conf"`);
  program(
    'info',
    `[ "$1 $2 $3" = "-P ${folder}/lxc -n" ] || exit 1\ncat "${folder}/info-$4$5" 2>/dev/null || { echo "no CT" >&2; exit 1; }`,
  );
  program('systemctl', '');
  const { lxc } = checkConfig([
    flagSource({
      lxc: {
        tools: {
          pct: join(folder, 'pct'),
          lxc_info: join(folder, 'info'),
          systemctl: join(folder, 'systemctl'),
        },
        pve_folder: join(folder, 'pve'),
        lock_folder: join(folder, 'lock'),
        unit_folder: join(folder, 'units'),
        lxc_folder: join(folder, 'lxc'),
        pct_timeout_seconds: 20,
      },
    }),
  ]);
  ctx = contextOf({
    name: 'lxc',
    lxc,
    allowedAnnotations: [],
    state: join(folder, 'state'),
    root: join(folder, 'root'),
  });
  mkdirSync(ctx.exits.folder, { recursive: true });
});
afterEach(async () => {
  for (const child of children.splice(0)) {
    child.kill('SIGKILL');
    if (child.exitCode === null && child.signalCode === null) await once(child, 'exit');
  }
  for (const socket of connections.splice(0)) socket.destroy();
  watcher?.close();
  watcher = undefined;
  rmSync(folder, { recursive: true });
});

function program(name: string, script: string): void {
  writeFileSync(join(folder, name), `#!/bin/sh\n${script}\n`, { mode: 0o755 });
}
/** pct notes its arguments, and fails with these words for this verb. */
function pctFails(verb: string, words: string): void {
  program('pct', `echo "$@" >>'${folder}/called'\n[ "$1" != ${verb} ] || { echo "${words}" >&2; exit 255; }`);
}
const called = (): string[] =>
  existsSync(join(folder, 'called')) ? readFileSync(join(folder, 'called'), 'utf8').trim().split('\n') : [];

const ref = (change: object = {}, state: object | null = {}): ContainerRef => ({
  id,
  folder: bundle,
  logPath: '',
  state:
    state === null
      ? undefined
      : { vmid, uid: 0, stdin: 'none', terminal: false, ownPidNamespace: true, ...state },
  ...change,
});
const confOf = (of: number): string => join(folder, 'pve/lxc', `${of}.conf`);
/** A CT of ours. */
function seed(more = '', of = vmid, container = id): void {
  const owner = `${hostname()} ${join(folder, 'state')}`;
  const marked = description([], { owner, containerId: container, vmid: String(of) })
    .split('\n')
    .map((line) => `#${line.replaceAll(':', '%3A')}\n`)
    .join('');
  writeFileSync(confOf(of), `${marked}tags: crisp\n${more}`);
}
/** What lxc-info says of the CT. */
function info(option: '-pH' | '-iH', text: string, of = vmid): void {
  writeFileSync(join(folder, `info-${of}${option}`), text);
}
async function programRuns(script = 'exec sleep 1000'): Promise<ChildProcess & { pid: number }> {
  const child = spawn('sh', ['-c', `echo up; ${script}`], { stdio: ['ignore', 'pipe', 'inherit'] });
  children.push(child);
  await once(child.stdout, 'data');
  return child as ChildProcess & { pid: number };
}
/** Listens in place of the watcher. @returns what it is told */
async function watcherListens(): Promise<string[]> {
  const told: string[] = [];
  watcher = createServer((socket) => {
    connections.push(socket);
    socket.on('data', (chunk) => {
      told.push(chunk.toString());
      socket.end('ok\n');
    });
  }).listen(join(bundle, 'watch'));
  await once(watcher, 'listening');
  return told;
}
const endOf = async (child: ChildProcess): Promise<unknown> =>
  child.signalCode ?? (await once(child, 'exit'))[1];
/** Runs `work` while this process is in the CT's group. */
async function inGroup<T>(child: { pid: number }, work: () => Promise<T>): Promise<T> {
  await makePodCgroup(cgroupOf(vmid));
  try {
    const group = cgroupFolder(cgroupLayout(), 'pids', cgroupOf(vmid)) ?? 'no tree of the kernel';
    writeFileSync(join(group, 'cgroup.procs'), String(child.pid));
    return await work();
  } finally {
    for (const one of children) one.kill('SIGKILL');
    await removePodCgroup(cgroupOf(vmid));
  }
}

describe('the CT of a container', () => {
  test('is found by its record, or by its mark after an interrupted creation', async () => {
    seed();
    seed('', vmid + 1, 'b'.repeat(64));
    expect((await find(ctx, ref()))?.vmid).toBe(vmid);
    expect((await find(ctx, ref({}, null)))?.vmid).toBe(vmid);
    expect(await find(ctx, ref({ id: 'c'.repeat(64) }, null))).toBeUndefined();
    expect((await mine(ctx, ref())).vmid).toBe(vmid);
    rmSync(confOf(vmid));
    await expect(mine(ctx, ref())).rejects.toMatchObject({ id: 'GuestMissing' });
  });

  test.each([
    ['77\n', 77],
    ['', undefined],
    ['0', undefined],
    ['-1', undefined],
    ['x', undefined],
    ['1.5', undefined],
  ])('has the first process that lxc-info names: %j', async (text, pid) => {
    info('-pH', text);
    expect(await initPid(ctx, vmid)).toBe(pid);
  });

  test('whose record is invalid is an error', () => {
    expect(() => stateOf(ref({}, { vmid: -1 }))).toThrow(expect.objectContaining({ id: 'RecordUnreadable' }));
    expect(stateOf(ref({}, null))).toBeUndefined();
  });

  test('that lxc-info does not know is not running', async () => {
    expect(await initPid(ctx, vmid)).toBeUndefined();
  });

  test('has the addresses that lxc-info names, except for link-local ones', async () => {
    seed();
    info('-iH', '10.0.0.5\nfe80::1\nfd00::5\n');
    expect(await addresses(ctx, ref())).toEqual(['10.0.0.5', 'fd00::5']);
  });

  test('that is gone leaves its id, unless a guest of the cluster has it', async () => {
    expect(await formerVmid(ctx, ref())).toBe(vmid);
    expect(await formerVmid(ctx, ref({}, null))).toBeUndefined();
    mkdirSync(join(folder, 'pve/nodes/other/lxc'), { recursive: true });
    writeFileSync(join(folder, 'pve/nodes/other/lxc', `${vmid}.conf`), '');
    expect(await formerVmid(ctx, ref())).toBeUndefined();
  });

  test('is the known one while /etc/pve cannot be read, as long as its process runs in it', async () => {
    seed();
    const child = await programRuns();
    info('-pH', String(child.pid));
    renameSync(join(folder, 'pve/lxc'), join(folder, 'pve/away'));
    await expect(running(ctx, ref())).rejects.toMatchObject({ id: 'NoQuorum' });
    await remember(ctx, id, child.pid);
    expect(await running(ctx, ref())).toBe(vmid);
    await expect(running(ctx, ref({}, null))).rejects.toMatchObject({ id: 'NoQuorum' });
    info('-pH', String(child.pid + 1)); // another process runs in it
    await expect(running(ctx, ref())).rejects.toMatchObject({ id: 'NoQuorum' });
    info('-pH', String(child.pid));
    child.kill('SIGKILL');
    await once(child, 'exit');
    await expect(running(ctx, ref())).rejects.toMatchObject({ id: 'NoQuorum' });
    renameSync(join(folder, 'pve/away'), join(folder, 'pve/lxc'));
    expect(await running(ctx, ref())).toBe(vmid);
  });
});

describe('a signal', () => {
  beforeEach(() => seed());

  test('goes to the first process, without pct', async () => {
    const child = await programRuns();
    info('-pH', String(child.pid));
    await kill(ctx, ref(), 10);
    expect(await endOf(child)).toBe('SIGUSR1');
    expect(called()).toEqual([]);
  });

  test.each([
    [9, 'SIGKILL'],
    [10, 'SIGUSR1'],
  ])('%i for all goes to the group', async (signal, name) => {
    const child = await programRuns();
    await inGroup(child, async () => {
      await kill(ctx, ref(), signal, true);
      expect(await endOf(child)).toBe(name); // inGroup() itself kills what is left
    });
  });

  test('that kills a CT which never ran is its exit: no other will be told', async () => {
    await kill(ctx, ref(), 15);
    expect(existsSync(ctx.exits.path(id))).toBe(false);
    await kill(ctx, ref(), 9);
    expect(readFileSync(ctx.exits.path(id), 'utf8')).toBe('137');
  });

  test('that comes after a run leaves the exit to the watcher', async () => {
    writeFileSync(join(bundle, 'stdout'), '');
    await kill(ctx, ref(), 9);
    expect(existsSync(ctx.exits.path(id))).toBe(false);
  });

  test('to a CT that is gone is no error', async () => {
    rmSync(confOf(vmid));
    await kill(ctx, ref(), 9);
    expect(existsSync(ctx.exits.path(id))).toBe(false);
  });
});

describe('removal', () => {
  test('destroys the CT with its disks, and leaves neither its exit nor its memory', async () => {
    seed();
    ctx.made.set(id, ref());
    await remember(ctx, id, process.pid);
    let ended = 0;
    ctx.watched.set(id, () => ended++);
    writeFileSync(ctx.exits.path(id), '0');
    await removeContainer(ctx, ref());
    expect(called()).toEqual([`destroy ${vmid} --force 1 --purge 1`]);
    expect([ctx.made.size, ctx.processes.size, ctx.watched.size, ended]).toEqual([0, 0, 0, 1]);
    expect(existsSync(ctx.exits.path(id))).toBe(false);
    expect(await ctx.intents.all()).toEqual([]);
  });

  test('first makes the CT loadable: liblxc and pct need the file that it includes', async () => {
    seed();
    rmSync(bundle, { recursive: true });
    await removeContainer(ctx, ref());
    expect((statSync(join(bundle, 'lxc.conf')).mode & 0o777).toString(8)).toBe('600');
    expect(readFileSync(join(bundle, 'lxc.conf'), 'utf8')).toBe('');
    expect((statSync(bundle).mode & 0o777).toString(8)).toBe('700');
  });

  test('ends what still runs in the CT', async () => {
    seed();
    const child = await programRuns();
    await inGroup(child, async () => {
      await removeContainer(ctx, ref());
      expect(await endOf(child)).toBe('SIGKILL');
      const group = cgroupFolder(cgroupLayout(), 'pids', cgroupOf(vmid)) ?? '';
      expect(existsSync(group)).toBe(false);
    });
  });

  test('ends the watcher, and removes the mounts of the volumes, the unit and the group of lxc-start', async () => {
    seed();
    const told = await watcherListens();
    const view = join(bundle, 'views/0');
    const unit = join(folder, 'units', `pve-container@${vmid}.service.d`);
    for (const path of [view, unit]) mkdirSync(path, { recursive: true });
    await mount('tmpfs', 'tmpfs', view, '');
    await makePodCgroup(monitorCgroupOf(vmid));
    try {
      await removeContainer(ctx, ref());
      expect(told).toEqual(['quit\n']);
      expect((await mountPoints()).filter(({ target }) => target.startsWith(folder))).toEqual([]);
      expect(existsSync(unit)).toBe(false);
      const group = cgroupFolder(cgroupLayout(), 'pids', monitorCgroupOf(vmid)) ?? '';
      expect(existsSync(group)).toBe(false);
    } finally {
      spawnSync('umount', [view]);
      await removePodCgroup(monitorCgroupOf(vmid));
    }
  });

  test('has its note on disk before pct destroys the CT, and ends each call before the next', async () => {
    seed('lock: create\n');
    program(
      'pct',
      `cd '${folder}'; [ "$1" = destroy ] || sleep 0.3; echo "$1" >>called; [ "$1" != destroy ] || { ls root/intents >>called; sleep 0.3; rm "pve/lxc/$2.conf"; echo done >>called; }`,
    );
    await removeContainer(ctx, ref());
    expect(called()).toEqual(['unlock', 'destroy', `${vmid}.json`, 'done']);
  });

  test('of a CT that is still being made waits for that, and ends it after the time limit of pct', async () => {
    seed();
    const { options } = ctx;
    const hasty = { ...ctx, options: { ...options, lxc: { ...options.lxc, pct_timeout_seconds: 1 } } };
    const script = `trap 'sleep 0.3; echo "creation ends" >>"${folder}/called"; exit' TERM; echo up; while :; do sleep 0.1; done`;
    const child = spawn('sh', ['-c', script], {
      cwd: bundle,
      env: { ...process.env, STARTED_BY: 'crisp' },
      stdio: ['ignore', 'pipe', 'ignore'],
    });
    children.push(child);
    await once(child.stdout, 'data');
    await removeContainer(hasty, ref({}, null));
    expect(called()).toEqual(['creation ends', `destroy ${vmid} --force 1 --purge 1`]);
  });

  test.each([
    ['', [`destroy ${vmid} --force 1 --purge 1`]],
    ['lock: backup\n', [`destroy ${vmid} --force 1 --purge 1`]],
    ['lock: create\n', [`unlock ${vmid}`, `destroy ${vmid} --force 1 --purge 1`]],
  ])('unlocks only a CT that a killed creation has locked: %j', async (lock, calls) => {
    seed(lock);
    await removeContainer(ctx, ref());
    expect(called()).toEqual(calls);
  });

  test('goes on where somebody else has unlocked or destroyed it', async () => {
    seed('lock: create\n');
    pctFails('unlock', 'no lock found trying to remove any lock');
    await removeContainer(ctx, ref());
    pctFails('destroy', `Configuration file 'nodes/x/lxc/${vmid}.conf' does not exist`);
    await removeContainer(ctx, ref());
    expect(called()).toHaveLength(4);
  });

  test.each([
    ['unlock', 'no quorum', 'NoQuorum'],
    ['destroy', 'CT is locked (backup)', 'Locked'],
  ])('that fails at %s is an error, and can be repeated', async (verb, words, error) => {
    seed('lock: create\n');
    writeFileSync(ctx.exits.path(id), '0');
    pctFails(verb, words);
    await expect(removeContainer(ctx, ref())).rejects.toMatchObject({ id: error });
    expect(existsSync(ctx.exits.path(id))).toBe(true);
    expect((await ctx.intents.all()).map((intent) => [intent.verb, intent.vmid])).toEqual(
      verb === 'destroy' ? [['destroy', vmid]] : [],
    );
  });

  test("clears liblxc's folder of what pct leaves, and of nothing else", async () => {
    const at = join(folder, 'lxc', String(vmid));
    for (const name of ['passthrough', 'hook', 'rootfs']) mkdirSync(join(at, name), { recursive: true });
    for (const name of ['config', 'rules.seccomp', 'hook/dhclient.leases', 'hook/of-a-user', 'notes'])
      writeFileSync(join(at, name), '');
    await removeContainer(ctx, ref());
    expect(readdirSync(at).sort()).toEqual(['hook', 'notes']);
    expect(readdirSync(join(at, 'hook'))).toEqual(['of-a-user']);
    for (const name of ['hook/of-a-user', 'notes']) rmSync(join(at, name));
    await removeContainer(ctx, ref());
    expect(existsSync(at)).toBe(false);
  });
});

describe('an interrupted pct', () => {
  const done = [`unlock ${vmid}`, `destroy ${vmid} --force 1 --purge 1 --destroy-unreferenced-disks 1`];

  test.each(['create', 'destroyed'])('that has left "lock: %s" is completed', async (lock) => {
    await ctx.intents.note('destroy', vmid, id);
    writeFileSync(confOf(vmid), `lock: ${lock}\n`);
    const [remnant, ...others] = await remnants(ctx);
    expect(remnant?.name).toBe(`CT ${vmid} of ${id}`);
    expect(others).toEqual([]);
    await remnant?.end();
    expect(called()).toEqual(done);
    expect(await ctx.intents.all()).toEqual([]);
    await remnant?.end(); // it is gone by now
    expect(called()).toEqual(done);
  });

  test('is forgotten only when the calls of pct that complete it have ended, one after the other', async () => {
    await ctx.intents.note('destroy', vmid, id);
    writeFileSync(confOf(vmid), 'lock: destroyed\n');
    program(
      'pct',
      `cd '${folder}'; sleep 0.3; echo "$1" >>called; [ "$1" != destroy ] || { ls root/intents >>called; rm "pve/lxc/$2.conf"; }`,
    );
    const [remnant] = await remnants(ctx);
    await remnant?.end();
    expect(called()).toEqual(['unlock', 'destroy', `${vmid}.json`]);
    expect(await ctx.intents.all()).toEqual([]);
  });

  test('without a note, or with more than its lock, is not ours to complete', async () => {
    writeFileSync(confOf(vmid + 1), 'lock: destroyed\n');
    await ctx.intents.note('create', vmid, id);
    writeFileSync(confOf(vmid), 'lock: create\nhostname: x\n');
    expect(await remnants(ctx)).toEqual([]);
    await removeContainer(ctx, ref({}, null));
    expect(called()).toEqual([]);
  });

  test('is completed before its container is removed', async () => {
    await ctx.intents.note('create', vmid, id);
    await ctx.intents.note('create', vmid + 1, 'b'.repeat(64));
    for (const each of [vmid, vmid + 1]) writeFileSync(confOf(each), 'lock: create\n');
    await removeContainer(ctx, ref({}, null));
    expect(called()).toEqual(done);
  });

  test('that is still at work is waited for', async () => {
    await ctx.intents.note('destroy', vmid, id);
    writeFileSync(confOf(vmid), 'lock: destroyed\n');
    const child = spawn('sh', ['-c', 'echo up; read end', 'pct', 'destroy', String(vmid)], {
      argv0: 'sh',
      stdio: ['pipe', 'pipe', 'inherit'],
    });
    children.push(child);
    await once(child.stdout, 'data');
    expect(await remnants(ctx)).toEqual([]);
    const removed = removeContainer(ctx, ref({}, null));
    await new Promise((resolve) => setTimeout(resolve, 200));
    expect(called()).toEqual([]);
    child.stdin.end();
    await removed;
    expect(called()).toEqual(done);
  });

  test('whose note is old and whose CT is whole has only not forgotten it', async () => {
    await ctx.intents.note('destroy', vmid, id);
    await ctx.intents.note('create', vmid + 1, id);
    const old = Date.now() / 1000 - 21; // the limit of pct is 20 s
    utimesSync(join(folder, 'root/intents', `${vmid}.json`), old, old);
    expect(await remnants(ctx)).toEqual([]);
    expect((await ctx.intents.all()).map((intent) => intent.vmid)).toEqual([vmid + 1]);
  });

  test('whose CT exists is only forgotten: the CT keeps its unit and its folder', async () => {
    seed();
    await ctx.intents.note('create', vmid, id);
    const note = join(folder, 'root/intents', `${vmid}.json`);
    const old = Date.now() / 1000 - 21; // the limit of pct is 20 s
    utimesSync(note, old, old);
    const kept = [join(folder, `units/pve-container@${vmid}.service.d`), join(folder, 'lxc', String(vmid))];
    for (const path of kept) mkdirSync(path, { recursive: true });
    expect(await remnants(ctx)).toEqual([]);
    expect([note, ...kept].map(existsSync)).toEqual([false, true, true]);
    expect(called()).toEqual([]);
  });
});

describe('a survey', () => {
  beforeEach(() => seed());

  test('takes the exit that the watcher has written', async () => {
    writeFileSync(ctx.exits.path(id), '3');
    expect(await survey(ctx, ref())).toMatchObject({ status: 'stopped', exit: { exitCode: 3 } });
    expect(ctx.made.get(id)).toEqual(ref());
  });

  test('of a CT that is gone, or is of somebody else, misses it', async () => {
    rmSync(confOf(vmid));
    expect(await survey(ctx, ref())).toEqual({ status: 'missing' });
    seed('', vmid, 'b'.repeat(64));
    expect(await survey(ctx, ref())).toEqual({ status: 'missing' });
  });

  test('of a running CT knows its process from then on', async () => {
    const child = await programRuns();
    info('-pH', String(child.pid));
    expect(await survey(ctx, ref())).toEqual({ status: 'running', pid: child.pid });
    expect(await inDoubt(ctx, ref())).toBe(false);
    child.kill('SIGKILL');
    await once(child, 'exit');
    expect(await inDoubt(ctx, ref())).toBe(true);
  });

  test('of a running CT holds its watcher, unless the start was interrupted', async () => {
    const told = await watcherListens();
    info('-pH', String((await programRuns()).pid));
    await survey(ctx, ref());
    expect(ctx.watched.size).toBe(0);
    writeFileSync(join(bundle, 'stdout'), '');
    await survey(ctx, ref());
    expect(ctx.watched.size).toBe(1);
    await until(() => connections.length === 1);
    expect(told).toEqual([]);
    ctx.watched.get(id)?.();
  });

  test('of a CT that has ended holds no watcher', async () => {
    await watcherListens();
    writeFileSync(join(bundle, 'stdout'), '');
    await survey(ctx, ref());
    expect(ctx.watched.size).toBe(0);
  });

  test('distinguishes a CT that never ran from one that ended without an exit', async () => {
    expect(await survey(ctx, ref())).toEqual({ status: 'created', pid: 0 });
    writeFileSync(join(bundle, 'stdout'), '');
    expect(await survey(ctx, ref())).toEqual({ status: 'stopped', exit: undefined });
  });

  test.each([
    [true, null],
    [false, 'SIGKILL'],
  ])(
    'of an ended CT whose pid namespace was its own (%p) ends the rest: %p',
    async (ownPidNamespace, signal) => {
      writeFileSync(join(bundle, 'stdout'), '');
      const child = await programRuns();
      const ended = await inGroup(child, async () => {
        await survey(ctx, ref({}, { ownPidNamespace }));
        return ownPidNamespace ? child.signalCode : endOf(child);
      });
      expect(ended).toBe(signal);
    },
  );
});

describe('the list', () => {
  test('has the CTs with our mark, and their labels unless these are forged', async () => {
    const label = recoveryLine(ctx.seal.on(mark(ctx, vmid, id), 'cG9k'));
    seed(`${label}\n`);
    seed(`${label}\n`, vmid + 1, 'b'.repeat(64)); // copied from the other CT
    seed('', vmid + 2, 'c'.repeat(64));
    seed('', 50, 'd'.repeat(64)); // outside of the range
    const found = [...(await list(ctx))].sort((a, b) => a.id.localeCompare(b.id));
    expect(found).toEqual([
      {
        id,
        folder: join(folder, 'state/bundles', id),
        logPath: '',
        recoveryLabel: 'cG9k',
        state: { vmid, uid: 0, stdin: 'none', terminal: false },
      },
      expect.objectContaining({ id: 'b'.repeat(64), recoveryLabel: 'forged' }),
      expect.objectContaining({ id: 'c'.repeat(64), recoveryLabel: undefined }),
    ]);
  });

  test('a CT without a watcher is reclaimed with its process, and its folder is for root alone', async () => {
    seed();
    info('-pH', '77');
    rmSync(bundle, { recursive: true });
    expect(await reclaim(ctx, ref())).toBe(77);
    expect((statSync(bundle).mode & 0o777).toString(8)).toBe('700');
    expect(existsSync(join(bundle, 'lxc.conf'))).toBe(true);
    rmSync(join(folder, `info-${vmid}-pH`));
    expect(await reclaim(ctx, ref())).toBeUndefined();
  });
});

describe('an update', () => {
  const included = (): string => readFileSync(join(bundle, 'lxc.conf'), 'utf8');
  const v2 = (): PctContext => ({ ...ctx, node: { ...ctx.node, cgroup: 'v2' } });
  beforeEach(() => {
    seed();
    writeFileSync(join(bundle, 'config.json'), JSON.stringify({ linux: {} }));
    writeFileSync(join(bundle, 'lxc.conf'), '');
  });

  test('goes through pct, and for a CT that does not run into its file', async () => {
    await update(v2(), ref(), { memory: { limit: 64 << 20 }, pids: { limit: 7 } });
    expect(called()).toEqual([`set ${vmid} --memory 64`]);
    expect(included()).toBe('lxc.cgroup2.memory.max = 67108864\nlxc.cgroup2.pids.max = 7\n');
  });

  test('of what pct does not know needs no pct; on v1 the file has no exact values', async () => {
    await update(v2(), ref(), { pids: { limit: 7 } });
    expect(called()).toEqual([]);
    writeFileSync(join(bundle, 'lxc.conf'), '');
    await update({ ...ctx, node: { ...ctx.node, cgroup: 'v1' } }, ref(), { pids: { limit: 7 } });
    expect(included()).toBe('');
  });

  test('of the processors is pinned in the configuration of the CT, once', async () => {
    const key = 'lxc.cgroup2.cpuset.cpus';
    await update(v2(), ref(), { cpu: { cpus: '0-1' } });
    await update(v2(), ref(), { cpu: { cpus: '2' } });
    const lines = readFileSync(confOf(vmid), 'utf8').split('\n');
    expect(lines.filter((line) => line.startsWith(key))).toEqual([`${key}: 0-1`]);
    expect(included()).toBe(`${key} = 0-1\n${key} = 2\n`);
  });

  test('of a running CT is written into its group', async () => {
    const child = await programRuns();
    info('-pH', String(child.pid));
    await inGroup(child, async () => {
      await update(ctx, ref(), { pids: { limit: 77 } });
      const group = cgroupFolder(cgroupLayout(), 'pids', cgroupOf(vmid)) ?? '';
      expect(readFileSync(join(group, 'pids.max'), 'utf8')).toBe('77\n');
    });
    expect(included()).toBe('');
  });
});

test('a container that was never made, or whose pod has a running CT on the same bridge, is not started', async () => {
  const net0 = 'net0: name=eth0,bridge=vmbr0,hwaddr=02:00:00:00:00:01,ip=dhcp\n';
  seed(net0);
  await expect(start(ctx, ref({}, null))).rejects.toMatchObject({ id: 'WrongContainerState' });
  seed(net0, vmid + 1, 'b'.repeat(64));
  info('-pH', String((await programRuns()).pid), vmid + 1);
  await expect(start(ctx, ref())).rejects.toMatchObject({
    id: 'WrongContainerState',
    message: expect.stringContaining(`CT ${vmid + 1} of this pod is running`),
  });
  rmSync(join(folder, `info-${vmid + 1}-pH`)); // it has ended: the next refusal is that of the absent config.json
  await expect(start(ctx, ref())).rejects.toThrow(/config.json/);
  seed(net0.replace('00:01', '00:02'), vmid + 1, 'b'.repeat(64));
  info('-pH', String((await programRuns()).pid), vmid + 1);
  await expect(start(ctx, ref())).rejects.toThrow(/config.json/);
  info('-pH', String((await programRuns()).pid)); // by an earlier call for this container
  await expect(start(ctx, ref())).rejects.toThrow(/config.json/);
  expect(called()).toEqual([]);
});
