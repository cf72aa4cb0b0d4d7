// The guard rail, through the backend: regardless of the records, no call runs a
// program on a guest that is not the container's own CT.
import { afterEach, beforeEach, describe as group, expect, test } from '@jest/globals';
import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { hostname, tmpdir } from 'node:os';
import { join } from 'node:path';
import { flagSource } from '../../config/source.js';
import { checkConfig } from '../../config/config.js';
import { log } from '../../log.js';
import type { Spec } from '../../shapes/spec.js';
import type { ContainerPlan } from '../backend.js';
import type { SandboxPlan } from '../../shapes/sandbox.js';
import { PctBackend } from './backend.js';
import { describe } from './guest-config.js';
import { unprivilegedIds } from './options.js';
import { lxcWords } from './start.js';

const [mine, other] = ['a'.repeat(64), 'b'.repeat(64)] as const;
let folder: string;
let backend: PctBackend;
const called = (): string[] =>
  existsSync(join(folder, 'called')) ? readFileSync(join(folder, 'called'), 'utf8').trim().split('\n') : [];

beforeEach(() => {
  log.level = 'silent';
  folder = mkdtempSync(join(tmpdir(), 'crisp-rail-'));
  for (const name of ['pve/lxc', 'state', 'root', 'lock', 'units', 'bundle'])
    mkdirSync(join(folder, name), { recursive: true });
  const tool = join(folder, 'tool'); // a stand-in for every program, which records its calls
  writeFileSync(tool, `#!/bin/sh\necho "$@" >> ${folder}/called\n`);
  chmodSync(tool, 0o755);
  writeFileSync(
    join(folder, 'bundle/config.json'),
    JSON.stringify({ process: { user: { uid: 0, gid: 0 }, env: [], cwd: '/' }, root: { path: '/' } }),
  );
  const value = {
    tools: { pct: tool, pvesh: tool, lxc_info: tool, lxc_attach: tool, systemctl: tool },
    pve_folder: join(folder, 'pve'),
    lock_folder: join(folder, 'lock'),
    unit_folder: join(folder, 'units'),
    lxc_folder: join(folder, 'lxc'),
  };
  const { lxc } = checkConfig([flagSource({ lxc: value })]);
  backend = new PctBackend({
    name: 'lxc',
    lxc,
    allowedAnnotations: [],
    state: join(folder, 'state'),
    root: join(folder, 'root'),
  });
});
afterEach(() => rmSync(folder, { recursive: true }));

function seed(
  vmid: number,
  { tags = 'crisp', owner = `${hostname()} ${join(folder, 'state')}`, container = mine } = {},
): void {
  const marked = describe([], { owner, containerId: container, vmid: String(vmid) })
    .split('\n')
    .map((line) => `#${line.replaceAll(':', '%3A')}\n`)
    .join('');
  writeFileSync(join(folder, 'pve/lxc', `${vmid}.conf`), `${marked}tags: ${tags}\nhostname: x\n`);
}

test('a probe result is valid for one version of pct, pve-container and liblxc and for the configured storages', async () => {
  const before = await backend.fingerprint();
  expect(before).toMatch(/\/tool \d.*\/liblxc\.so\.1 .*\/PVE\/LXC\.pm .*\/storage\.cfg/);
  writeFileSync(join(folder, 'pve/storage.cfg'), 'dir: local\n');
  expect(await backend.fingerprint()).not.toBe(before);
  rmSync(join(folder, 'pve/storage.cfg'));
  expect(await backend.fingerprint()).toBe(before);
});

const io = { terminal: false };
const never = new AbortController().signal;
const calls: [string, (vmid: number) => Promise<unknown>][] = [
  ['start', (vmid) => backend.start(ref(vmid))],
  ['kill', (vmid) => backend.kill(ref(vmid), 9)],
  ['kill all', (vmid) => backend.kill(ref(vmid), 9, true)],
  ['delete', (vmid) => backend.delete(ref(vmid))],
  ['exec', (vmid) => backend.exec(ref(vmid), { args: ['true'], io, timeoutMs: 1000 }, never)],
  ['attach', (vmid) => backend.attach(ref(vmid), io, never)],
  ['update', (vmid) => backend.update(ref(vmid), { memory: { limit: 1 << 30 } })],
];
function ref(vmid: number) {
  return {
    id: mine,
    folder: join(folder, 'bundle'),
    logPath: '',
    state: { vmid, uid: 0, stdin: 'none', terminal: false },
  };
}

group.each<[string, number, Parameters<typeof seed>[1]]>([
  ['outside the range', 100, {}],
  ['without the tag', 900_001, { tags: 'web' }],
  ['of another owner', 900_002, { owner: 'pve2 /run/crisp' }],
  ['of another container', 900_003, { container: other }],
])('a guest %s', (_, vmid, options) => {
  beforeEach(() => seed(vmid, options));

  test.each(calls)('%s is refused, and nothing is run', async (_name, call) => {
    const before = readFileSync(join(folder, 'pve/lxc', `${vmid}.conf`), 'utf8');
    await expect(call(vmid)).rejects.toMatchObject({ id: 'ForeignGuest' });
    expect(called()).toEqual([]);
    expect(readFileSync(join(folder, 'pve/lxc', `${vmid}.conf`), 'utf8')).toBe(before);
  });

  test('is not a condition that a survey waits for', async () => {
    expect(await backend.survey(ref(vmid))).toEqual({ status: 'missing' });
    expect(called()).toEqual([]);
  });
});

group('while pmxcfs is not mounted', () => {
  beforeEach(() => {
    seed(900_005);
    renameSync(join(folder, 'pve/lxc'), join(folder, 'pve/away'));
  });

  test.each([
    ...calls,
    ['survey', (vmid: number) => backend.survey(ref(vmid))],
    ['list', () => backend.list()],
  ] satisfies typeof calls)('%s is refused, and nothing is run', async (_name, call) => {
    await expect(call(900_005)).rejects.toMatchObject({ id: 'NoQuorum' });
    expect(called()).toEqual([]);
  });
});

test('our own CT is listed and destroyed, a foreign one is not', async () => {
  seed(900_003, { container: other });
  seed(900_004);
  seed(900_006, { owner: 'pve2 /run/crisp' });
  expect((await backend.list()).map(({ id }) => id).sort()).toEqual([mine, other]);
  await backend.delete({ id: mine, folder: join(folder, 'bundle'), logPath: '', state: undefined }); // as after a crash in create: found by its mark
  expect(called()).toEqual(['destroy 900004 --force 1 --purge 1']);
  expect(readdirSync(join(folder, 'pve/lxc')).sort()).toEqual(['900003.conf', '900004.conf', '900006.conf']); // the stand-in removes nothing
});

test('kill and delete succeed if the CT is gone', async () => {
  await backend.kill(ref(900_099), 15);
  await backend.delete(ref(900_099));
  await expect(backend.start(ref(900_099))).rejects.toMatchObject({ id: 'GuestMissing', core: 'NotFound' });
});

test('the leftovers of a destroyed CT are removed, unless another guest of the cluster has its VMID now', async () => {
  const dropIn = (vmid: number): string => join(folder, `units/pve-container@${vmid}.service.d/crisp.conf`);
  const remains = (vmid: number): string => join(folder, 'lxc', String(vmid));
  mkdirSync(join(folder, 'pve/nodes/other/qemu-server'), { recursive: true });
  writeFileSync(join(folder, 'pve/nodes/other/qemu-server/900098.conf'), 'name: vm\n');
  for (const [vmid, stays] of [
    [900_097, false],
    [900_098, true],
  ] as const) {
    for (const path of [join(dropIn(vmid), '..'), join(remains(vmid), 'rootfs')])
      mkdirSync(path, { recursive: true });
    for (const path of [dropIn(vmid), join(remains(vmid), 'config')]) writeFileSync(path, '');
    await backend.delete(ref(vmid));
    expect([existsSync(dropIn(vmid)), existsSync(remains(vmid))]).toEqual([stays, stays]);
  }
});

test.each([
  ['a watcher waits, and the CT has not taken its permit', ['stdout', 'permit'], 'created'],
  ['the CT has taken its permit', ['stdout'], 'stopped'],
  ['there was no watcher yet', [], 'created'],
])('a CT that does not run was started by its permit: %s', async (_, files, status) => {
  seed(900_007);
  const bundle = join(folder, `bundle-${files.join('-')}`);
  mkdirSync(bundle);
  for (const name of files) writeFileSync(join(bundle, name), '');
  expect(await backend.survey({ ...ref(900_007), folder: bundle })).toMatchObject({ status });
  rmSync(join(folder, 'pve/lxc/900007.conf'));
});

test('a note whose pct has ended goes, with the rest of its CT if that is gone', async () => {
  const note = (vmid: number): string => join(folder, `root/intents/${vmid}.json`);
  const remains = (vmid: number): string => join(folder, 'lxc', String(vmid));
  mkdirSync(join(folder, 'root/intents'), { recursive: true });
  for (const [vmid, isGone] of [
    [900_008, true],
    [900_009, false],
  ] as const) {
    const owner = `${hostname()} ${join(folder, 'state')}`;
    writeFileSync(note(vmid), JSON.stringify({ verb: 'destroy', vmid, containerId: mine, owner }));
    mkdirSync(remains(vmid), { recursive: true });
    writeFileSync(join(remains(vmid), 'config'), '');
    if (!isGone) seed(vmid, { container: other }); // its id was used again
    await backend.delete({ ...ref(vmid), state: undefined }); // its creation was cut off
    expect([existsSync(note(vmid)), existsSync(remains(vmid))]).toEqual([false, !isGone]);
  }
  rmSync(join(folder, 'pve/lxc/900009.conf'));
});

test('a VMID that another program takes first costs a retry, and the CT made under the next one is ours', async () => {
  const tool = join(folder, 'tool');
  writeFileSync(
    tool,
    `#!/bin/sh
echo "$1 $2" >> ${folder}/called
[ "$1" = create ] || exit 0
if [ ! -e ${folder}/raced ]; then : > ${folder}/raced; echo "unable to create CT $2 - CT $2 already exists on node 'pve2'" >&2; exit 2; fi
echo "arch: amd64" > ${folder}/pve/lxc/$2.conf
`,
  );
  const spec: Spec = {
    ociVersion: '1.0.2',
    process: { user: { uid: 0, gid: 0 }, args: ['/bin/true'], env: [], cwd: '/' },
    root: { path: join(folder, 'root') },
    mounts: [],
    linux: { namespaces: [] },
  };
  const sandbox: SandboxPlan = {
    id: 's',
    name: 'web',
    namespace: 'default',
    uid: 'u',
    attempt: 0,
    labels: {},
    annotations: {},
    folder,
    hostname: undefined,
    namespaces: {},
    cgroupParent: '',
  };
  const plan: ContainerPlan = {
    id: 'd'.repeat(64),
    name: 'app',
    attempt: 0,
    image: 'i',
    imageId: 'i',
    sandbox,
    folder: join(folder, 'bundle'),
    spec,
    logPath: '',
    stdin: false,
    stdinOnce: false,
    stopSignal: '15',
  };
  const { vmid } = await backend.create(plan);
  const creates = called().filter((line) => line.startsWith('create'));
  expect(creates).toHaveLength(2);
  expect(creates[1]).toBe(`create ${vmid}`);
  expect(creates[0]).not.toBe(creates[1]);
  expect(readFileSync(join(folder, 'pve/lxc', `${vmid}.conf`), 'utf8')).toBe(
    `arch: amd64\nlxc.include: ${join(folder, 'bundle/lxc.conf')}\n`,
  );
  expect(readFileSync(join(folder, `units/pve-container@${vmid}.service.d/crisp.conf`), 'utf8')).toContain(
    '"/bin/true"',
  );
});

test('the reason of a failed start is read from the log of liblxc 5, or from the fragments that liblxc 6 writes to stderr', () => {
  expect(
    lxcWords(
      'lxc-start 900001 20261125133939.187 ERROR    start - ../src/lxc/start.c:start:2197 - No such file or directory - Failed to exec "/none"\n',
      '',
      900_001,
    ),
  ).toBe('No such file or directory - Failed to exec "/none"');
  const pieces = [
    'P lxc-start: ',
    'P 900001: ',
    'P ../src/lxc/start.c: start: 2217 ',
    'F No such file or directory - Failed to exec "/none"',
    'F lxc-start: 900001: ../src/lxc/start.c: __lxc_start: 2127 Failed to spawn container "900001"',
    'F its own word',
  ];
  expect(
    lxcWords('', pieces.map((piece) => `2026-11-25T13:39:39.187000000Z stderr ${piece}\n`).join(''), 900_001),
  ).toBe('No such file or directory - Failed to exec "/none"\nFailed to spawn container "900001"');
});

group('what the backend says of itself', () => {
  const ids = (hostID: number) => [{ containerID: 0, hostID, size: 65_536 }];

  test('its name, its exits, and the group of a CT', () => {
    expect(backend.name).toBe('lxc');
    expect(backend.exits.folder).toBe(join(folder, 'state/exits/lxc'));
    expect(backend.cgroup(ref(900_077))).toBe('/lxc/900077');
  });

  test('a pod has the ids of unprivileged CTs, or none of its own', async () => {
    expect(backend.userNamespace()).toEqual(unprivilegedIds);
    const sandbox = {} as SandboxPlan;
    await backend.startSandbox(sandbox);
    await backend.startSandbox({ ...sandbox, idMaps: { uids: ids(100_000), gids: ids(100_000) } });
    for (const [uids, gids] of [
      [200_000, 100_000],
      [100_000, 200_000],
    ] as const)
      await expect(
        backend.startSandbox({ ...sandbox, idMaps: { uids: ids(uids), gids: ids(gids) } }),
      ).rejects.toMatchObject({ id: 'UnsupportedField' });
  });

  test('what an earlier probe found decides from then on', () => {
    const sandbox = { annotations: {}, namespaces: { user: '/ns' } } as unknown as SandboxPlan;
    expect(backend.rootfs(sandbox)).toEqual({ kind: 'overlay' });
    const found = { hostManaged: true, givesGroups: true, copies: { storage: 'local', sizeGib: 0 } };
    const probe = {
      ready: true,
      reason: '',
      version: '',
      features: { recursiveReadOnlyMounts: false, userNamespaces: false },
      lacks: {},
    };
    backend.recall({ ...probe, found });
    expect(backend.rootfs(sandbox)).toEqual({ kind: 'own' });
    backend.recall({ ...probe, found: { hostManaged: false, givesGroups: true } });
    expect(backend.rootfs(sandbox)).toEqual({ kind: 'overlay' });
  });

  test('a log without a watcher cannot be reopened; a CT has no checkpoints', async () => {
    await expect(backend.reopenLog(ref(900_077))).rejects.toMatchObject({
      id: 'RuntimeFailed',
      tool: 'watcher',
    });
    await expect(backend.checkpoint()).rejects.toMatchObject({ id: 'Unsupported' });
  });

  test('the archive of an image goes with it', async () => {
    const archive = join(folder, 'root/archives/abc.tar');
    mkdirSync(join(archive, '..'), { recursive: true });
    writeFileSync(archive, '');
    await backend.forgetImage('sha256:abc');
    expect(existsSync(archive)).toBe(false);
  });
});
