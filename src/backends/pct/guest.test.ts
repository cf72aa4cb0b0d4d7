import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { StandInNode } from '../../../test/helpers/stand-in-node.js';
import { log } from '../../log.js';
import type { ContainerPlan } from '../backend.js';
import { entrypoint, guestLines, makeGuest } from './guest.js';

test('the process of an image in lines that pct preserves', () => {
  const root = { uid: 0, gid: 0 };
  expect(guestLines({ env: ['A=b c'], cwd: '/', user: root }, '15', 'lxc.environment.runtime')).toEqual([
    'lxc.environment.runtime: A=b c',
    'lxc.signal.halt: 15',
  ]);
  expect(
    guestLines({ env: [], cwd: '/srv', user: { uid: 7, gid: 8, additionalGids: [9, 10] } }, '3', 'x'),
  ).toEqual([
    'lxc.init.cwd: /srv',
    'lxc.init.uid: 7',
    'lxc.init.gid: 8',
    'lxc.init.groups: 9,10',
    'lxc.signal.halt: 3',
  ]);
  for (const bad of [{ env: ['A=1\nlxc.hook.start: /x'] }, { cwd: '/x\nlxc.include: /y' }])
    expect(() => guestLines({ env: [], cwd: '/', user: root, ...bad }, '15', 'x')).toThrow('cannot hold');
});

test('the command, split as liblxc does', () => {
  expect(entrypoint(['/bin/sh', '-c', 'echo "$A"', "it's", ''])).toBe(`/bin/sh -c 'echo "$A"' "it's" ''`);
  for (const bad of [`'"`, 'a\nb', 'a\\'])
    expect(() => entrypoint([bad])).toThrow(expect.objectContaining({ id: 'InvalidArgument' }));
});

describe('an ordinary guest', () => {
  let node: StandInNode;
  beforeEach(async () => {
    log.level = 'silent';
    node = await StandInNode.make({ rootfs: { storage: 'tank', size_gib: 3 } });
    node.ctx.found = { hostManaged: true, givesGroups: true, environmentReachesHooks: false };
    node.program('pvesh', '[ "$*" = "get /cluster/nextid" ] && echo 123');
  });
  afterEach(() => node.remove());
  const conf = (): string => node.read('pve/lxc/123.conf');
  const make = (starts: boolean, change: Partial<ContainerPlan> = {}): Promise<number> =>
    makeGuest(node.ctx, { ...node.plan(), ...change }, starts);

  test('has the next id of the cluster, the process of the image, and no mark of crisp', async () => {
    expect(await make(false)).toBe(123);
    expect(node.calls()).toEqual(['create 123']);
    expect(node.created()).toMatchObject({
      archive: node.path('root/archives/1.tar'),
      '--rootfs': 'tank:3',
      '--unprivileged': '0',
      '--hostname': 'app',
      '--entrypoint': '/bin/true',
      '--cmode': 'console',
      '--description': expect.stringContaining('docker.io/library/nginx:1'),
    });
    expect(node.created()).not.toHaveProperty('--net0');
    expect(conf()).not.toContain('crisp-container');
    expect(conf()).toContain(
      'lxc.environment.runtime: A=b\nlxc.init.uid: 7\nlxc.init.gid: 8\nlxc.signal.halt: 15\n',
    );
  });

  test('is started on request', async () => {
    await make(true);
    expect(node.calls()).toEqual(['create 123', 'start 123']);
  });

  test('on a bridge has a card of its own', async () => {
    const plan = node.plan();
    await make(false, { sandbox: { ...plan.sandbox, ownNetwork: true } });
    expect(node.created()['--net0']).toContain('bridge=vmbr0');
  });

  test('of a template boots as Proxmox intends', async () => {
    node.ctx.found = { ...node.ctx.found, hostManaged: false };
    await make(false, { template: 'local:vztmpl/debian.tar.zst' });
    expect(node.created()).toMatchObject({
      archive: 'local:vztmpl/debian.tar.zst',
      '--features': 'nesting=1',
    });
    expect(node.created()).not.toHaveProperty('--entrypoint');
    expect(conf()).not.toContain('lxc.signal.halt');
  });

  test('that cannot be started is destroyed with its disks', async () => {
    node.pctFails('start', 'no quorum');
    await expect(make(true)).rejects.toMatchObject({ id: 'NoQuorum' });
    expect(node.calls().at(-1)).toBe('destroy 123 --force 1 --purge 1');
  });

  test('that pct does not make is an error', async () => {
    node.pctFails('create', 'no quorum');
    await expect(make(false)).rejects.toMatchObject({ id: 'NoQuorum' });
    expect(node.calls()).toEqual(['create 123']);
  });

  test('needs a storage, and for an image a pct with entrypoints', async () => {
    node.ctx.found = { ...node.ctx.found, hostManaged: false };
    await expect(make(false)).rejects.toMatchObject({ id: 'Unsupported' });
    await node.remove();
    node = await StandInNode.make();
    node.ctx.found = { hostManaged: true, givesGroups: true, environmentReachesHooks: false };
    await expect(make(false)).rejects.toMatchObject({ id: 'InvalidArgument' });
    expect(node.calls()).toEqual([]);
  });

  test.each([
    [{ uid: 7, gid: 0 }, ['lxc.init.uid: 7', 'lxc.init.gid: 0']],
    [{ uid: 0, gid: 8 }, ['lxc.init.uid: 0', 'lxc.init.gid: 8']],
    [{ uid: 0, gid: 0 }, []],
  ])('has the user %j', (user, lines) => {
    expect(guestLines({ env: [], cwd: '/', user }, '15', 'x').slice(0, -1)).toEqual(lines);
  });
});
