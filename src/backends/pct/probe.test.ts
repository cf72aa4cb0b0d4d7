// The probe on a stand-in for a node.  Its namespaces, mounts and the watcher are real.
import { afterEach, beforeEach, expect, test } from '@jest/globals';
import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdirSync, readdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { StandInNode } from '../../../test/helpers/stand-in-node.js';
import { mountPoints } from '../../host/mounts.js';
import { log } from '../../log.js';
import type { Spec } from '../../shapes/spec.js';
import { probe } from './probe.js';

let node: StandInNode;
beforeEach(() => {
  log.level = 'silent';
});
afterEach(() => node.remove());

/** A node with these versions, where the process of the probe ends with this code. */
async function make(
  lxc: object = {},
  { exit = 42, release = '9.1.2', liblxc = '6.0.5' } = {},
): Promise<void> {
  node = await StandInNode.make(lxc);
  node.program(
    'pvesh',
    `[ "$*" = 'get /version --output-format json' ] && echo '{"release":"x","version":"${release}"}'`,
  );
  node.program('info', `[ "$1" != --version ] || echo 'lxc-info ${liblxc}'`);
  node.write('exit', String(exit));
}
const left = (): string[] =>
  ['state/probe', 'root/containers', 'state/exits/lxc', 'pve/lxc', 'root/intents'].flatMap((name) =>
    existsSync(node.path(name)) ? readdirSync(node.path(name)) : [],
  );

test('makes, starts and destroys one CT, and leaves nothing', async () => {
  await make();
  expect(await probe(node.ctx)).toEqual({
    ready: true,
    reason: '',
    version: 'pve-manager 9.1.2',
    features: { recursiveReadOnlyMounts: false, userNamespaces: false },
    lacks: { recursiveReadOnlyMounts: expect.any(String), userNamespaces: expect.any(String) },
    found: { hostManaged: true, givesGroups: true, environmentReachesHooks: false, copies: undefined },
  });
  const vmid = node.calls()[0]?.split(' ')[1];
  expect(node.calls()).toEqual([`create ${vmid}`, `start ${vmid}`, `destroy ${vmid} --force 1 --purge 1`]);
  expect(left()).toEqual([]);
  expect((await mountPoints()).filter(({ target }) => target.startsWith(node.folder))).toEqual([]);
  expect(node.ctx.found.hostManaged).toBe(false); // only recall() makes the result valid
});

test('its process runs on the programs of the node, and answers whether it has its supplemental group', async () => {
  await make();
  await probe(node.ctx);
  const spec = JSON.parse(node.read('seen/config.json')) as Spec;
  const { user, args, env } = spec.process;
  expect(spec.mounts).toEqual([
    { destination: '/usr', type: 'bind', source: '/usr', options: ['rbind', 'rslave', 'ro'] },
  ]);
  for (const name of ['usr', 'proc', 'sys', 'dev', 'tmp'])
    expect(existsSync(node.path(`seen/rootfs/${name}`))).toBe(true);
  for (const name of ['bin', 'lib', 'lib64'])
    expect(execFileSync('readlink', [node.path(`seen/rootfs/${name}`)]).toString()).toBe(`usr/${name}\n`);
  expect(spec.linux.namespaces.map(({ type }) => type).sort()).toEqual([
    'ipc',
    'mount',
    'network',
    'pid',
    'uts',
  ]);
  const ran = async (groups: string[]): Promise<number> => {
    const child = spawn('setpriv', [...groups, ...args], {
      env: Object.fromEntries(env.map((one) => one.split('='))),
    });
    return (await once(child, 'exit'))[0] as number;
  };
  expect(
    await Promise.all([ran(['--groups', String(user.additionalGids)]), ran(['--clear-groups'])]),
  ).toEqual([42, 41]);
});

test.each([
  ['10.0', '7.0.0', true, false],
  ['9.1.2', '6.1.0', true, false],
  ['9.0.11', '6.0.4', false, true],
  ['8.4.1', '5.0.2', false, true],
  ['9', '6', false, true],
])(
  'Proxmox VE %s with liblxc %s: pct sets addresses: %p; hooks get the variables: %p',
  async (release, liblxc, hostManaged, reaches) => {
    await make({}, { release, liblxc, exit: 41 });
    expect(await probe(node.ctx)).toMatchObject({
      ready: true,
      version: `pve-manager ${release}`,
      found: { hostManaged, environmentReachesHooks: reaches, givesGroups: false },
    });
  },
);

test('another exit of the process is a failure, and the CT is destroyed', async () => {
  await make({}, { exit: 3 });
  const found = await probe(node.ctx);
  expect(found).toMatchObject({ ready: false, version: 'pve-manager 9.1.2' });
  expect(found.reason).toContain('the probe CT exited with 3 instead of 42');
  expect(found).not.toHaveProperty('found');
  expect(left()).toEqual([]);
});

test('a CT that cannot be started is a failure in the words of liblxc, and the CT is destroyed', async () => {
  await make();
  node.pctFails('start', 'startup for container failed');
  node.program(
    'systemctl',
    `cd '${node.folder}'; for bundle in state/probe/*/; do echo 'lxc-start 1 2 ERROR    start - s.c:start:1 - no idea' >"$bundle/lxc.log"; done`,
  );
  const found = await probe(node.ctx);
  expect(found).toMatchObject({ ready: false });
  expect(found.reason).toContain('no idea');
  expect(node.calls().at(-1)).toMatch(/^destroy /);
  expect(left()).toEqual([]);
});

test('a node without Proxmox is not ready', async () => {
  await make();
  node.program('pvesh', 'echo "no such command" >&2; exit 2');
  expect(await probe(node.ctx)).toMatchObject({ ready: false, version: '' });
  expect(node.calls()).toEqual([]);
});

test('an interrupted probe is cleaned up first, except for the probe of a running process', async () => {
  await make();
  const gone = `crisp-probe-lxc-${2 ** 22 + 1}-0`;
  const running = `crisp-probe-lxc-${process.pid}-999`;
  for (const name of [gone, running]) mkdirSync(node.path(`state/probe/${name}/rootfs`), { recursive: true });
  writeFileSync(node.path(`state/probe/${gone}/log`), '');
  expect(await probe(node.ctx)).toMatchObject({ ready: true });
  expect(readdirSync(node.path('state/probe'))).toEqual([running]);
});

test('an unprivileged CT has namespaces of its own with the ids of Proxmox', async () => {
  await make({ unprivileged: true, rootfs: { storage: 'tank', size_gib: 3 } });
  execFileSync('chmod', ['711', node.folder, node.path('state')]);
  expect(await probe(node.ctx)).toMatchObject({ ready: true, reason: '' });
  const spec = JSON.parse(node.read('seen/config.json')) as Spec;
  for (const type of ['network', 'ipc', 'uts', 'user'] as const)
    expect(spec.linux.namespaces.find((one) => one.type === type)?.path).toMatch(/\/ns\//);
  expect(node.created()).toMatchObject({ '--unprivileged': '1', '--hostname': 'probe' });
  expect((await mountPoints()).filter(({ target }) => target.startsWith(node.folder))).toEqual([]);
});

test('behind a closed folder an unprivileged CT cannot run', async () => {
  await make({ unprivileged: true });
  execFileSync('chmod', ['700', node.folder]);
  const found = await probe(node.ctx);
  expect(found).toMatchObject({ ready: false });
  expect(found.reason).toContain(node.folder);
});

// ramfs has no idmapped mounts on any kernel.
test.each([
  [
    'a plain folder first',
    'tank zfspool active 1\noff dir disabled 1\nlocal dir active 1\n',
    { storage: 'local', sizeGib: 0 },
  ],
  ['any other', 'off dir disabled 1\ntank zfspool active 1\n', { storage: 'tank', sizeGib: 8 }],
  ['none', 'Name Type Status\n', undefined],
])('without idmapped overlays, copies of images go to a storage: %s', async (_, status, copies) => {
  await make({ unprivileged: true, rootfs: { size_gib: 8 } });
  node.program('pvesm', `[ "$*" = 'status --content rootdir' ] && printf '%s' '${status}'`);
  execFileSync('chmod', ['711', node.folder, node.path('state')]);
  execFileSync('mount', ['-t', 'ramfs', 'ramfs', node.path('root')]);
  try {
    const found = await probe(node.ctx);
    if (copies) {
      expect(found).toMatchObject({ ready: true, found: { copies } });
      expect(node.created()).toMatchObject({ '--rootfs': `${copies.storage}:${copies.sizeGib}` });
      expect(readdirSync(join(node.folder, 'root/archives'))).toEqual([]);
    } else {
      expect(found).toMatchObject({ ready: false, failure: { hint: expect.stringContaining('pvesm set') } });
      expect(node.calls()).toEqual([]);
    }
  } finally {
    execFileSync('umount', [node.path('root')]);
  }
});
