// Making a CT on a stand-in for a node: the call of pct, the files for the start, and what is undone.
import { afterEach, beforeEach, expect, test } from '@jest/globals';
import { spawnSync } from 'node:child_process';
import {
  existsSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { StandInNode } from '../../../test/helpers/stand-in-node.js';
import { mount, mountPoints } from '../../host/mounts.js';
import { log } from '../../log.js';
import type { Spec } from '../../shapes/spec.js';
import type { ContainerPlan } from '../backend.js';
import type { PctContext } from './context.js';
import { create } from './create.js';
import { find } from './find.js';
import { annotationPrefix } from './guest-options.js';

let node: StandInNode;
let umask: number;
beforeEach(async () => {
  log.level = 'silent';
  umask = process.umask(0);
  node = await StandInNode.make();
});
afterEach(async () => {
  process.umask(umask);
  await node.remove();
});

const modeOf = (name: string): string => (statSync(node.path(name)).mode & 0o777).toString(8);
const conf = (vmid: number): string => node.read(`pve/lxc/${vmid}.conf`);
function planWith(change: (spec: Spec) => void, other: Partial<ContainerPlan> = {}): ContainerPlan {
  const made = node.plan();
  change(made.spec);
  return { ...made, ...other };
}

test('a CT has its mark, and its files are for root alone', async () => {
  const plan = node.plan();
  const state = await create(node.ctx, plan);
  const { vmid } = state;
  expect(state).toEqual({
    vmid,
    sandboxId: plan.sandbox.id,
    name: 'app',
    uid: 7,
    stdin: 'none',
    terminal: false,
    ownPidNamespace: true,
  });
  expect(node.calls()).toEqual([`create ${vmid}`]);
  expect(node.created()).toMatchObject({
    archive: node.path('root/archives/empty.tar.gz'),
    '--rootfs': plan.spec.root.path,
    '--tags': 'crisp;default',
  });
  const ref = { id: plan.id, folder: plan.folder, logPath: '', state };
  expect((await find(node.ctx, { ...ref, state: undefined }))?.vmid).toBe(vmid); // by its mark
  expect(node.ctx.made.get(plan.id)).toEqual(ref);
  expect(conf(vmid)).toContain(`\nlxc.include: ${node.path('bundle/lxc.conf')}\n`);
  expect(modeOf('bundle/lxc.conf')).toBe('600');
  expect(node.read('bundle/lxc.conf')).toContain('lxc.environment = A=b\n'); // before the probe, hooks are assumed to get it
  expect(existsSync(node.path('bundle/environment'))).toBe(false);
  expect(readFileSync(node.path(`units/pve-container@${vmid}.service.d/crisp.conf`), 'utf8')).toContain(
    '"/bin/true"',
  );
  expect(node.read('reloads')).toBe('daemon-reload\n');
  expect(await node.ctx.intents.all()).toEqual([]);
});

test('variables that do not fit a line are in a file for root alone', async () => {
  const { vmid } = await create(
    node.ctx,
    planWith(({ process }) => (process.env = ['KEY=one\ntwo'])),
  );
  expect(node.read('bundle/environment')).toBe('KEY=one\ntwo\0');
  expect(modeOf('bundle/environment')).toBe('600');
  expect(node.read(`units/pve-container@${vmid}.service.d/crisp.conf`)).toContain('lxc.environment=KEY"');
});

test.each<[string, Partial<ContainerPlan>, string]>([
  ['without an input', { stdinOnce: true }, 'none'],
  ['with an input', { stdin: true }, 'open'],
  ['with the input of its first client', { stdin: true, stdinOnce: true }, 'once'],
])('a CT %s', async (_, change, stdin) => {
  expect((await create(node.ctx, { ...node.plan(), ...change })).stdin).toBe(stdin);
});

test('the end of its first process ends a CT, unless it is in the pid namespace of others', async () => {
  const of = (namespaces: Spec['linux']['namespaces']): Promise<unknown> =>
    create(
      node.ctx,
      planWith(({ linux, process }) => {
        linux.namespaces = namespaces;
        process.terminal = true;
      }),
    );
  expect(await of([{ type: 'pid', path: '/ns/pid' }])).toMatchObject({
    ownPidNamespace: false,
    terminal: true,
  });
  expect(await of([{ type: 'ipc' }])).toMatchObject({ ownPidNamespace: false });
});

test('the CPUs and the sealed label of a pod are in the configuration of the CT, before its included file', async () => {
  const ctx: PctContext = { ...node.ctx, node: { ...node.ctx.node, cgroup: 'v2' } };
  const { vmid } = await create(
    ctx,
    planWith(({ linux }) => (linux.resources = { cpu: { cpus: '0' } }), { recoveryLabel: () => 'cG9k' }),
  );
  const lines = conf(vmid).trim().split('\n');
  expect(lines.slice(-2)).toEqual([
    'lxc.cgroup2.cpuset.cpus: 0',
    `lxc.include: ${node.path('bundle/lxc.conf')}`,
  ]);
  const config = (await ctx.guard.all()).get(vmid);
  expect(config?.recoveryLabel?.text).toBe('cG9k');
  expect(config?.mark && config.recoveryLabel && ctx.seal.fits(config.mark, config.recoveryLabel)).toBe(true);
});

test('the targets of all mounts are made in the shared rootfs, for a read-only one too', async () => {
  mkdirSync(node.path('data'));
  writeFileSync(node.path('file'), '');
  await create(
    node.ctx,
    planWith(({ mounts }) =>
      mounts.push(
        { destination: '/data', type: 'bind', source: node.path('data'), options: ['rbind'] },
        { destination: '/etc/one', type: 'bind', source: node.path('file'), options: ['rbind'] },
        { destination: '/cache', type: 'tmpfs' },
        { destination: '/proc', type: 'proc', source: 'proc' },
      ),
    ),
  );
  const kinds = ['proc', 'sys', 'dev', 'data', 'cache', 'etc/one'].map((name) =>
    lstatSync(node.path(`rootfs/${name}`)).isDirectory(),
  );
  expect(kinds).toEqual([true, true, true, true, true, false]);
});

test('with a volume of its own the image is packed, and nothing is made in its files', async () => {
  await node.remove();
  node = await StandInNode.make({ rootfs: { storage: 'tank', size_gib: 3 } });
  const plan = node.plan();
  writeFileSync(node.path('rootfs/hello'), '');
  await create(node.ctx, plan);
  expect(node.created()).toMatchObject({ archive: node.path('root/archives/1.tar'), '--rootfs': 'tank:3' });
  expect(readdirSync(plan.spec.root.path)).toEqual(['hello']);
});

test('of a template no archive is made of its files', async () => {
  await node.remove();
  node = await StandInNode.make({ rootfs: { storage: 'tank', size_gib: 3 } });
  await create(node.ctx, node.plan({ template: 'local:vztmpl/debian.tar.zst' }));
  expect(node.created()['archive']).toBe('local:vztmpl/debian.tar.zst');
  expect(readdirSync(node.path('root/archives'))).toEqual(['empty.tar.gz']);
});

test('a log that cannot be opened is refused before pct runs', async () => {
  await expect(create(node.ctx, node.plan({ logPath: node.path('bundle') }))).rejects.toThrow();
  expect(node.calls()).toEqual([]);
  expect(node.ctx.made.size).toBe(0);
});

test('after a failure of pct nothing is left', async () => {
  node.pctFails('create', "bridge 'vmbr9' does not exist");
  await expect(create(node.ctx, node.plan())).rejects.toMatchObject({ id: 'BridgeMissing' });
  expect(node.calls()).toHaveLength(1); // there is nothing to destroy
  expect(node.ctx.made.size).toBe(0);
  expect(await node.ctx.intents.all()).toEqual([]);
});

test('an id that another guest has taken meanwhile is given up, with its note', async () => {
  renameSync(node.path('pct'), node.path('pct-later'));
  node.program(
    'pct',
    `cd '${node.folder}'; mv pct-later pct; echo "$1 $2" >lost; echo "CT $2 already exists on node 'pve2'" >&2; exit 255`,
  );
  const { vmid } = await create(node.ctx, node.plan());
  expect(await node.ctx.intents.all()).toEqual([]);
  expect(node.calls()).toEqual([`create ${vmid}`]);
  expect(node.read('lost')).toMatch(/^create \d+\n$/);
  expect(node.read('lost')).not.toBe(`create ${vmid}\n`);
});

test('a CT in a user namespace belongs to the root of its pod', async () => {
  const plan = node.plan();
  const ids = (hostID: number) => [{ containerID: 0, hostID, size: 65_536 }];
  const state = await create(node.ctx, {
    ...plan,
    sandbox: { ...plan.sandbox, idMaps: { uids: ids(300_000), gids: ids(400_000) } },
  });
  expect(state.uid).toBe(300_007);
  expect(statSync(node.path('rootfs/proc')).uid).toBe(300_000);
});

test('a volume of Proxmox that a mount would hide is refused before pct runs', async () => {
  const { options } = node.ctx;
  const choices = { ...options.lxc.choices, storages: ['*'] };
  const ctx = {
    ...node.ctx,
    options: { ...options, allowedAnnotations: ['*'], lxc: { ...options.lxc, choices } },
  };
  const plan = planWith(({ mounts }) =>
    mounts.push(
      { destination: '/data', type: 'bind', source: node.folder, options: ['rbind'] },
      { destination: '/data/db', type: 'bind', source: node.path('state'), options: ['rbind'] },
    ),
  );
  const annotations = { [`${annotationPrefix}mp0`]: 'path=/data/db,storage=tank,size-gib=1' };
  await expect(create(ctx, { ...plan, sandbox: { ...plan.sandbox, annotations } })).rejects.toMatchObject({
    id: 'InvalidArgument',
    message: expect.stringContaining('would hide it'),
  });
  expect(node.calls()).toEqual([]);
});

test('a creation that fails before pct runs leaves no mounts', async () => {
  const plan = planWith(({ mounts }) => mounts.push({ destination: '/../x', type: 'tmpfs' }));
  const view = node.path('bundle/views/0');
  mkdirSync(view, { recursive: true });
  await mount('tmpfs', 'tmpfs', view, '');
  try {
    await expect(create(node.ctx, plan)).rejects.toMatchObject({ id: 'InvalidArgument' });
    expect((await mountPoints()).filter(({ target }) => target.startsWith(node.folder))).toEqual([]);
  } finally {
    spawnSync('umount', [view]);
  }
  expect(node.calls()).toEqual([]);
});

test('a CT whose files cannot be written is destroyed', async () => {
  node.program('systemctl', 'echo no >&2; exit 1');
  await expect(create(node.ctx, node.plan())).rejects.toThrow(/systemctl exited with 1/);
  const [vmid] = /\d+/.exec(node.calls()[0] ?? '') ?? [];
  expect(node.calls()).toEqual([`create ${vmid}`, `destroy ${vmid} --force 1 --purge 1`]);
  expect([readdirSync(node.path('pve/lxc')), readdirSync(node.path('units'))]).toEqual([[], []]);
  expect(node.ctx.made.size).toBe(0);
});
