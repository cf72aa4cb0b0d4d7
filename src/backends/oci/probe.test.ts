// The probe with a fake backend, which notes the containers that it is to make. Folders and mounts are real.
import { afterEach, beforeEach, expect, test } from '@jest/globals';
import { execFileSync } from 'node:child_process';
import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  readlinkSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { CrispError } from '../../errors.js';
import { cgroupFolder, cgroupLayout, makePodCgroup } from '../../host/cgroup.js';
import { mountPoints } from '../../host/mounts.js';
import { validateSpec } from '../../oci/spec-schema.js';
import type { ContainerPlan, Exit } from '../backend.js';
import { probe } from './probe.js';

let folder: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'crisp-probe-'));
  chmodSync(folder, 0o711);
});
afterEach(() => rmSync(folder, { recursive: true }));

type Kind = 'plain' | 'rro' | 'userns';
const kindOf = ({ spec }: ContainerPlan): Kind =>
  spec.mounts.some(({ options }) => options?.includes('rro'))
    ? 'rro'
    : spec.linux.namespaces.some(({ type }) => type === 'user')
      ? 'userns'
      : 'plain';

class Fake {
  readonly name = 'fake';
  readonly told: string[] = [];
  readonly plans = new Map<Kind, ContainerPlan>();
  readonly kinds = new Map<string, Kind>();
  readonly runtime = { version: () => Promise.resolve('fake 1') };
  systemdCgroup = false;
  exitCodes: Partial<Record<Kind, number | undefined>> = {};
  look = (_kind: Kind, _plan: ContainerPlan): void => undefined;

  create(plan: ContainerPlan): Promise<unknown> {
    const kind = kindOf(plan);
    this.plans.set(kind, plan);
    this.kinds.set(plan.id, kind);
    this.told.push(`create ${kind}`);
    this.look(kind, plan);
    return Promise.resolve({ of: kind });
  }
  start({ id, state }: { id: string; state: unknown }): Promise<{ pid: number }> {
    expect(state).toEqual({ of: this.kinds.get(id) });
    this.told.push(`start ${this.kinds.get(id)}`);
    return Promise.resolve({ pid: 1 });
  }
  delete({ id }: { id: string }): Promise<void> {
    this.told.push(`delete ${this.kinds.get(id) ?? id}`);
    return Promise.resolve();
  }
  readonly exits = {
    wait: (id: string, bundle: string): Promise<Exit | undefined> => {
      const kind = this.kinds.get(id) as Kind;
      expect(bundle).toBe(this.plans.get(kind)?.folder);
      const exitCode = kind in this.exitCodes ? this.exitCodes[kind] : 42;
      return Promise.resolve(
        exitCode === undefined ? undefined : { exitCode, finishedAt: 1n, oomKilled: false },
      );
    },
  };
}

test('a runtime whose containers run as expected is ready, with its features; nothing is left', async () => {
  const fake = new Fake();
  expect(await probe(fake, folder)).toEqual({
    ready: true,
    reason: '',
    version: 'fake 1',
    features: { recursiveReadOnlyMounts: true, userNamespaces: true },
    lacks: {},
  });
  for (const kind of ['plain', 'rro', 'userns'])
    expect(fake.told.filter((line) => line.endsWith(kind))).toEqual(
      ['create', 'start', 'delete'].map((verb) => `${verb} ${kind}`),
    );
  expect(execFileSync('ls', ['-A', folder]).toString()).toBe('');
  expect((await mountPoints()).filter(({ target }) => target.startsWith(folder))).toEqual([]);
});

test('its containers have the programs of the host, read-only, and namespaces and a group of their own', async () => {
  const fake = new Fake();
  fake.look = (_, { folder: bundle, spec, logPath, id }) => {
    const { path } = spec.root;
    expect(path.startsWith(`${bundle}/`)).toBe(true);
    expect(['bin', 'lib', 'lib64'].map((name) => readlinkSync(join(path, name)))).toEqual([
      'usr/bin',
      'usr/lib',
      'usr/lib64',
    ]);
    for (const { destination } of spec.mounts)
      expect(statSync(join(path, destination)).isDirectory()).toBe(true);
    expect(JSON.parse(readFileSync(join(bundle, 'config.json'), 'utf8'))).toEqual(spec);
    expect(spec.mounts).toContainEqual(
      expect.objectContaining({ destination: '/usr', source: '/usr', options: ['rbind', 'ro'] }),
    );
    expect(spec.linux.namespaces.map(({ type }) => type)).toEqual(
      expect.arrayContaining(['pid', 'mount', 'ipc', 'uts', 'network']),
    );
    expect(spec.linux.cgroupsPath).toBe(`/${id}`);
    expect(spec.process.user).toEqual({ uid: 0, gid: 0 });
    expect(logPath.endsWith('/log')).toBe(true);
  };
  expect((await probe(fake, folder)).ready).toBe(true);
  expect(fake.plans.get('plain')?.spec.process.args).toEqual(['/bin/sh', '-c', 'exit 42']);
});

test('with systemd they have a scope in its slice', async () => {
  const fake = new Fake();
  fake.systemdCgroup = true;
  await probe(fake, folder);
  const plan = fake.plans.get('plain');
  expect(plan?.spec.linux.cgroupsPath).toMatch(new RegExp(`^crisp.slice:.*:${plan?.id}$`));
});

test('a mount below a read-only one is writable on the host, and what the script tries', async () => {
  const fake = new Fake();
  fake.look = (kind, { spec }) => {
    if (kind !== 'rro') return;
    const [mount] = spec.mounts.filter(({ destination }) => destination === '/mnt');
    expect(mount?.options).toEqual(['rbind', 'rro']);
    writeFileSync(join(mount?.source ?? '', 'below', 'file'), '');
    expect(statSync(join(mount?.source ?? '', 'below')).dev).not.toBe(statSync(mount?.source ?? '').dev);
    expect(spec.process.args.at(-1)).toMatch(/> \/mnt\/below\/file \|\| exit 42; .*exit 1$/);
  };
  expect((await probe(fake, folder)).features.recursiveReadOnlyMounts).toBe(true);
});

test('a mapped mount in a user namespace is of root on both sides; its folder is open to that root alone', async () => {
  const fake = new Fake();
  fake.look = (kind, { spec, folder: bundle }) => {
    const { mode, uid, gid } = statSync(bundle);
    expect([kind, (mode & 0o777).toString(8), uid, gid]).toEqual(
      kind === 'userns' ? [kind, '710', 0, 200_000] : [kind, '700', 0, process.getgid?.()],
    );
    if (kind !== 'userns') return;
    const maps = [{ containerID: 0, hostID: 200_000, size: 65_536 }];
    expect(spec.linux).toMatchObject({ uidMappings: maps, gidMappings: maps });
    const [mount] = spec.mounts.filter(({ destination }) => destination === '/mnt');
    expect(mount).toMatchObject({ options: ['rbind', 'idmap'], uidMappings: maps, gidMappings: maps });
    expect(statSync(mount?.source ?? '').uid).toBe(0);
    expect(spec.process.args.at(-1)).toMatch(/\[ \$u = 0 \] && exit 42; .*exit 1$/);
  };
  expect((await probe(fake, folder)).features.userNamespaces).toBe(true);
});

test.each(['rro', 'userns'] as const)(
  'without %s it is ready, and says what it lacks and why',
  async (kind) => {
    const fake = new Fake();
    fake.exitCodes = { [kind]: 1 };
    fake.look = (made, { logPath }) => {
      if (made === kind)
        writeFileSync(logPath, '2026-01-01T00:00:00Z stdout F it is\n2026-01-01T00:00:00Z stderr P so\n');
    };
    const key = kind === 'rro' ? 'recursiveReadOnlyMounts' : 'userNamespaces';
    const found = await probe(fake, folder);
    expect(found.features).toEqual({
      recursiveReadOnlyMounts: kind !== 'rro',
      userNamespaces: kind !== 'userns',
    });
    expect(found).toMatchObject({ ready: true, reason: '', version: 'fake 1' });
    expect(found.lacks).toEqual({
      [key]: 'the probe container exited with 1 instead of 42: it is | so',
    });
  },
);

test('behind a closed folder there are no user namespaces', async () => {
  chmodSync(folder, 0o700);
  expect((await probe(new Fake(), folder)).lacks.userNamespaces).toContain(folder);
});

test.each([
  [43, 'the probe container exited with 43 instead of 42'],
  [undefined, 'the probe container did not end within 10000 ms'],
])('a container that ends with %p: the runtime is not ready', async (exitCode, reason) => {
  const fake = new Fake();
  fake.exitCodes = { plain: exitCode };
  const found = await probe(fake, folder);
  expect(found).toMatchObject({
    ready: false,
    version: 'fake 1',
    features: { recursiveReadOnlyMounts: false, userNamespaces: false },
    lacks: {},
  });
  expect(found.reason).toContain(`: ${reason};`); // and nothing that the container has said
  expect(fake.told).toEqual(['create plain', 'start plain', 'delete plain']);
  expect(execFileSync('ls', ['-A', folder]).toString()).toBe('');
});

test('a container that cannot be made is not deleted, but its folder is; a missing tool is named', async () => {
  const fake = new Fake();
  fake.create = () =>
    Promise.reject(new CrispError('ToolMissing', 'conmon is not installed', { tool: 'conmon' }));
  expect(await probe(fake, folder)).toMatchObject({
    ready: false,
    failure: { missing: 'conmon' },
    reason: expect.stringContaining('conmon is not installed'),
  });
  expect(fake.told).toEqual([]);
  expect(execFileSync('ls', ['-A', folder]).toString()).toBe('');
});

test('leftovers of a probe that was interrupted go first; those of others and of running ones stay', async () => {
  const gone = 2 ** 22 + 1;
  const [own, other, running] = [
    `crisp-probe-fake-${gone}-0`,
    `crisp-probe-other-${gone}-0`,
    `crisp-probe-fake-${process.pid}-999`,
  ];
  for (const name of [own, other, running, 'notes'])
    mkdirSync(join(folder, name, 'rootfs'), { recursive: true });
  execFileSync('mount', ['-t', 'tmpfs', 'tmpfs', join(folder, own, 'rootfs')]);
  const fake = new Fake();
  const remove = fake.delete.bind(fake);
  fake.delete = async (container) => {
    if (container.id === own) await new Promise((resolve) => setTimeout(resolve, 50));
    return remove(container);
  };
  await probe(fake, folder);
  expect(fake.told[0]).toBe(`delete ${own}`);
  expect([own, other, running, 'notes'].map((name) => existsSync(join(folder, name)))).toEqual([
    false,
    true,
    true,
    true,
  ]);
});

test('its specs are valid, with the PATH of the programs that are mounted and nothing else', async () => {
  const fake = new Fake();
  expect(await probe(fake, folder)).toMatchObject({ ready: true, lacks: {} });
  expect(fake.plans.size).toBe(3);
  for (const { spec } of fake.plans.values()) {
    expect(validateSpec(spec)).toEqual([]);
    expect(spec.process.env).toEqual(['PATH=/usr/bin:/bin']);
    const types = spec.mounts.map(({ destination, type }) => [destination, type]);
    expect(types.slice(0, 3)).toEqual([
      ['/usr', 'bind'],
      ['/proc', 'proc'],
      ['/dev', 'tmpfs'],
    ]);
    expect(types.slice(3).flat()).toEqual(types.length > 3 ? ['/mnt', 'bind'] : []);
    expect(spec.mounts[2]?.options).toEqual(['nosuid', 'mode=755']);
  }
});

test('a container is deleted before its files, and its group goes with it', async () => {
  const fake = new Fake();
  const groups: string[] = [];
  fake.look = (_, { spec }) => groups.push(spec.linux.cgroupsPath ?? '');
  const start = fake.start.bind(fake);
  fake.start = async (container) => {
    await makePodCgroup(`/${container.id}`);
    return start(container);
  };
  fake.delete = async ({ id }) => {
    await new Promise((resolve) => setTimeout(resolve, 30));
    fake.told.push(`delete ${existsSync(join(folder, id, 'config.json'))}`);
  };
  await probe(fake, folder);
  expect(fake.told.filter((line) => line.startsWith('delete'))).toEqual(Array(3).fill('delete true'));
  const left = groups.filter((group) => existsSync(cgroupFolder(cgroupLayout(), 'pids', group) ?? ''));
  expect([groups.length, left]).toEqual([3, []]);
});

test('of a container that says much, the last 300 characters are the reason', async () => {
  const fake = new Fake();
  fake.exitCodes = { plain: 1 };
  fake.look = (_, { logPath }) =>
    writeFileSync(logPath, `2026-01-01T00:00:00Z stdout F ${'x'.repeat(70_000)}${'y'.repeat(300)}\n`);
  const { reason } = await probe(fake, folder);
  expect(reason).toContain('y'.repeat(290));
  expect(reason.length).toBeLessThan(600);
});
