// The fake of pct has the same messages as the real one; see fake/pct.
import { afterEach, beforeEach, describe as describeAll, expect, test as testAll } from '@jest/globals';
import { execFile, spawn } from 'node:child_process';
import { mkdir, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';
import { isReal, Node } from './node.js';

// On a real node there is no fake to be tested.
const [describe, test] = isReal ? [describeAll.skip, testAll.skip] : [describeAll, testAll];

let node: Node;
let empty: string;
beforeEach(async () => {
  node = await Node.start();
  empty = join(node.folder, 'empty.tar.gz');
  await writeFile(empty, gzipSync(Buffer.alloc(10_240)));
});
afterEach(() => node.stop());

interface Said {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}
function tool(name: string, ...args: string[]): Promise<Said> {
  return new Promise((resolve) => {
    execFile(join(node.folder, 'bin', name), args, (error, stdout, stderr) =>
      resolve({ code: typeof error?.code === 'number' ? error.code : 0, stdout, stderr: stderr.trim() }),
    );
  });
}
const pct = (...args: string[]): Promise<Said> => tool('pct', ...args);
const create = (vmid = '900001', ...more: string[]): Promise<Said> =>
  pct(
    'create',
    vmid,
    empty,
    '--rootfs',
    'local:0',
    '--ostype',
    'unmanaged',
    '--unprivileged',
    '1',
    '--hostname',
    'x',
    ...more,
  );
const ok = { code: 0, stderr: '' };

test('says that it is a fake', async () => {
  expect((await pct('help')).stdout).toContain('fake');
  expect(await pct('clone', '1')).toMatchObject({
    code: 255,
    stderr: expect.stringContaining('unknown command') as unknown,
  });
});

describe('create', () => {
  test('writes the configuration as PVE does', async () => {
    expect(
      await create(
        '900001',
        '--tags',
        'B;a,a',
        '--description',
        'One: 100%\nzwei é',
        '--memory',
        '64',
        '-onboot',
        '0',
      ),
    ).toMatchObject({ ...ok, stdout: expect.stringContaining('extracting archive') as unknown });
    expect(await node.guest('900001.conf')).toBe(
      '#One%3A 100%25\n#zwei %C3%A9\narch: amd64\nhostname: x\nmemory: 64\nonboot: 0\nostype: unmanaged\nrootfs: local:900001/subvol-900001-disk-0.subvol,size=0T\nswap: 512\ntags: a;b\nunprivileged: 1\n',
    );
    expect((await pct('config', '900001')).stdout).toContain('description: One%3A 100%25%0Azwei %C3%A9%0A\n');
    expect((await pct('status', '900001')).stdout).toBe('status: stopped\n');
    expect((await pct('list')).stdout).toMatch(/^VMID +Status +Lock +Name +\n900001 +stopped +x +\n$/);
  });

  test.each([
    [['create'], /^400 not enough arguments/],
    [['create', '900001'], /^400 not enough arguments/],
    [
      ['create', '900001', 'x.tar', '--colour', 'red'],
      /^Unknown option: colour\n400 unable to parse option$/,
    ],
    [['create', '99', 'x.tar'], /^400 Parameter verification failed\.\nvmid: /],
    [['create', '900001', 'x.tar', '--memory', '8'], /memory: value must have a minimum value of 16/],
    [['create', '900001', 'x.tar', '--hostname', 'a_b'], /hostname: /],
    [['create', '900001', 'x.tar', '--net0', 'bridge=vmbr0'], /net0\.name: property is missing/],
    [['create', '900001', 'x.tar', '--tags', '-x'], /tags: /],
    [['create', '900001', 'x.tar', '--description', 'x'.repeat(8193)], /description: value may only be 8192/],
    [['create', '900001', 'local:iso/x.tar'], /content type needs to be 'vztmpl'/],
    [['create', '900001', 'tank:vztmpl/x.tar'], /storage 'tank' does not exist/],
    [['create', '900001', '/x.tar', '--rootfs', 'tank:1'], /storage 'tank' does not exist/],
    [['create', '900001', 'local:vztmpl/x.tar'], /volume 'local:vztmpl\/x\.tar' does not exist/],
  ])('%.120j is refused', async (args, words) => {
    const { code, stderr } = await pct(...args);
    expect(code).not.toBe(0);
    expect(stderr).toMatch(words);
    expect(await node.guests()).toEqual([]);
    expect(await readdir(join(node.folder, 'storage/local/images'))).toEqual([]);
  });

  test('refuses a VMID in use, of a CT or a VM, on any node', async () => {
    await create();
    expect(await create()).toMatchObject({ code: 2, stderr: "CT 900001 already exists on node 'pve'" });
    await writeFile(join(node.folder, 'pve/qemu-server/900002.conf'), '');
    expect(await create('900002')).toMatchObject({
      code: 2,
      stderr: "VM 900002 already exists on node 'pve'",
    });
    await mkdir(join(node.folder, 'pve/nodes/other/lxc'), { recursive: true });
    await writeFile(join(node.folder, 'pve/nodes/other/lxc/900003.conf'), '');
    expect(await create('900003')).toMatchObject({ code: 2 });
    expect(JSON.parse((await tool('pvesh', 'get', '/cluster/nextid')).stdout)).toBe(100);
    expect(await tool('pvesh', 'get', '/cluster/nextid', '--vmid', '900003')).toMatchObject({
      code: 2,
      stderr: expect.stringContaining('VM 900003 already exists') as unknown,
    });
  });

  test('reports a lost race with the message of pct', async () => {
    const said = await Promise.all(Array.from({ length: 3 }, () => create('900009')));
    expect(said.map(({ code }) => code).sort()).toEqual([0, 2, 2]);
    for (const { stderr } of said)
      if (stderr) expect(stderr).toMatch(/CT 900009 already exists on node 'pve'$/);
  });

  test('without quorum nothing is written', async () => {
    await writeFile(join(node.folder, 'no-quorum'), '');
    expect(await create()).toMatchObject({ code: 255, stderr: 'cluster not ready - no quorum?' });
    expect(await node.guests()).toEqual([]);
  });
});

describe('an existing CT', () => {
  beforeEach(async () => {
    await create();
  });
  const conf = async (change: (text: string) => string): Promise<void> =>
    writeFile(join(node.folder, 'pve/lxc/900001.conf'), change(await node.guest('900001.conf')));

  test('is changed, locked, unlocked, protected and destroyed', async () => {
    expect(await pct('set', '900001', '--cores', '2', '--tags', 'z')).toMatchObject(ok);
    expect(await node.guest('900001.conf')).toContain('cores: 2\n');
    await conf((text) => `${text}lock: backup\n`);
    for (const verb of ['start', 'destroy'])
      expect(await pct(verb, '900001')).toMatchObject({ code: 255, stderr: 'CT is locked (backup)' });
    expect(await pct('set', '900001', '--cores', '1')).toMatchObject({
      code: 255,
      stderr: 'CT is locked (backup)',
    });
    expect(await pct('unlock', '900001')).toMatchObject(ok);
    expect(await pct('unlock', '900001')).toMatchObject({
      code: 255,
      stderr: 'no lock found trying to remove any lock',
    });
    await pct('set', '900001', '--protection', '1');
    expect(await pct('destroy', '900001')).toMatchObject({
      stderr: "can't remove CT 900001 - protection mode enabled",
    });
    await pct('set', '900001', '--delete', 'protection');
    expect(await pct('destroy', '900001', '--purge', '1')).toMatchObject({
      ...ok,
      stdout: expect.stringContaining('purging CT 900001') as unknown,
    });
    expect(await node.guests()).toEqual([]);
    expect(await readdir(join(node.folder, 'storage/local/images'))).toEqual([]);
  });

  test('has one lock line after pct was killed by a broken pipe; once unlocked it can be destroyed', async () => {
    await writeFile(join(node.folder, 'destroy-ms'), '300');
    const child = spawn(join(node.folder, 'bin/pct'), ['destroy', '900001', '--purge', '1'], {
      stdio: ['ignore', 'pipe', 'ignore'],
    });
    child.stdout.destroy();
    await new Promise((resolve) => child.once('exit', resolve));
    expect(await node.guest('900001.conf')).toBe('lock: destroyed\n');
    expect(await pct('destroy', '900001')).toMatchObject({ stderr: 'CT is locked (destroyed)' });
    expect(await pct('unlock', '900001')).toMatchObject(ok);
    expect(await pct('destroy', '900001', '--destroy-unreferenced-disks', '1')).toMatchObject(ok);
    expect(await node.guests()).toEqual([]);
  });

  test('loses raw keys that pct does not know at the next change, and keeps the others', async () => {
    await conf((text) => `${text}lxc.include: /x\nlxc.no_new_privs: 1\n[before]\nhostname: y\n`);
    expect(await pct('set', '900001', '--cores', '2')).toMatchObject({
      code: 0,
      stderr: 'vm 900001 - unable to parse config: lxc.no_new_privs: 1',
    });
    expect(await node.guest('900001.conf')).toMatch(/lxc\.include: \/x\n\n\[before\]\nhostname: y\n$/);
  });

  test('waits for the lock of another task, and gives up', async () => {
    const file = join(node.folder, 'lock/pve-config-900001.lock');
    await writeFile(join(node.folder, 'lock-seconds'), '1');
    const holder = spawn('flock', ['--close', file, 'sleep', '30']);
    try {
      for (let held = false; !held;)
        held = await new Promise<boolean>((resolve) => {
          execFile('flock', ['--nonblock', file, 'true'], (error) => resolve(error !== null));
        });
      expect(await pct('set', '900001', '--cores', '2')).toEqual({
        code: 255,
        stdout: 'trying to acquire lock...\n',
        stderr: `can't lock file '${file}' - got timeout`,
      });
    } finally {
      holder.kill();
    }
  });

  test('that is a template, does not run, or is on a missing bridge', async () => {
    expect(await pct('stop', '900001')).toMatchObject({ code: 255, stderr: 'CT 900001 not running' });
    expect(await pct('exec', '900001', '--', 'true')).toMatchObject({
      code: 255,
      stderr: "container '900001' not running!",
    });
    await pct('set', '900001', '--net0', 'name=eth0,bridge=nobr,ip=manual');
    expect(await pct('start', '900001')).toMatchObject({ code: 255, stderr: "bridge 'nobr' does not exist" });
    await pct('set', '900001', '--template', '1');
    expect(await pct('start', '900001')).toMatchObject({
      code: 255,
      stderr: "you can't start a CT if it's a template",
    });
  });
});

test('that is missing: each verb has its own code', async () => {
  const stderr = "Configuration file 'nodes/pve/lxc/900001.conf' does not exist";
  for (const [verb, code] of [
    ['status', 2],
    ['config', 2],
    ['destroy', 2],
    ['start', 255],
  ] as const)
    expect(await pct(verb, '900001')).toMatchObject({ code, stderr });
  expect(await pct('stop', '900001')).toMatchObject({ code: 255, stderr: 'CT 900001 not running' });
  expect(await pct('list')).toEqual({ ...ok, stdout: '' });
});

describe('a CT that runs', () => {
  beforeEach(async () => {
    await create('900001', '--unprivileged', '0'); // the other kind needs ids in /etc/subuid, or a user namespace from outside
    const rootfs = join(node.folder, 'storage/local/images/900001/subvol-900001-disk-0.subvol');
    for (const folder of ['bin', 'proc', 'sys', 'dev']) await mkdir(join(rootfs, folder));
    await writeFile(join(rootfs, 'bin/busybox'), await readFile('/bin/busybox'), { mode: 0o755 });
  });
  const entry = async (words: string): Promise<void> => {
    await pct('set', '900001', '--entrypoint', `/bin/busybox ${words}`);
  };

  test('is started, entered, recognized, stopped', async () => {
    await entry('sleep 1000');
    expect(await pct('start', '900001')).toMatchObject(ok);
    expect(await pct('start', '900001')).toMatchObject({ code: 255, stderr: 'CT 900001 already running' });
    expect((await pct('status', '900001')).stdout).toBe('status: running\n');
    expect(
      await pct('exec', '900001', '--keep-env', '0', '--', '/bin/busybox', 'sh', '-c', 'echo in; exit 7'),
    ).toMatchObject({ code: 7, stdout: 'in\n' });
    expect(await pct('destroy', '900001')).toMatchObject({
      code: 255,
      stderr: 'unable to destroy CT 900001 - container is running',
    });
    expect(await pct('stop', '900001')).toMatchObject(ok);
    expect(await pct('destroy', '900001')).toMatchObject(ok);
    expect((await node.remains()).filter((name) => !name.startsWith('/lxc'))).toEqual(['900001']); // as pct leaves it; lxc-start may still be at its cgroups
  });

  test('is not a remnant of another node that has made a CT with the same id', async () => {
    const other = await Node.start();
    try {
      await writeFile(join(other.folder, 'calls'), 'create 900001\n');
      await entry('sleep 1000');
      await pct('start', '900001');
      expect(await node.remains()).toContain('/lxc/900001');
      expect(await other.remains()).toEqual([]);
      await pct('stop', '900001');
    } finally {
      await other.stop();
    }
  });

  test('for a moment only, or not at all', async () => {
    await entry('true');
    expect(await pct('start', '900001')).toMatchObject({
      code: 255,
      stderr: 'unable to get PID for CT 900001 (not running?)',
    });
    await pct('set', '900001', '--entrypoint', '/bin/missing');
    expect(await pct('start', '900001')).toMatchObject({
      code: 255,
      stderr: "startup for container '900001' failed",
      stdout: expect.stringContaining('Failed to spawn container') as unknown,
    });
  });
});

test('a failure that a test requests', async () => {
  await writeFile(
    join(node.folder, 'fail/create'),
    JSON.stringify({ code: 5, stdout: 'detail\n', stderr: 'word\n' }),
  );
  expect(await create()).toEqual({ code: 5, stdout: 'detail\n', stderr: 'word' });
  await rm(join(node.folder, 'fail/create'));
  expect(await create()).toMatchObject(ok);
});
