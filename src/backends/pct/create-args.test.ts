import { describe, expect, test } from '@jest/globals';
import type { ContainerPlan } from '../backend.js';
import type { GuestOptions } from './guest-options.js';
import { createArgs, pinLines, updateArgs } from './create-args.js';
import { mountPointsOf, withoutMountPoints } from './mount-points.js';

const node = {
  arch: 'x64',
  hostname: 'pve1.example',
  memoryBytes: 4 * 2 ** 30,
  cpus: 8,
  cgroup: 'v2' as const,
};
function plan(
  change: (made: { -readonly [K in keyof ContainerPlan]: ContainerPlan[K] }) => void = () => undefined,
): ContainerPlan {
  const made: ContainerPlan = {
    id: 'c0ffee',
    name: 'app',
    attempt: 1,
    image: 'docker.io/library/nginx@sha256:0',
    imageId: 'sha256:1',
    folder: '/b',
    logPath: '/l',
    stdin: false,
    stdinOnce: false,
    stopSignal: '15',
    sandbox: {
      id: 'f00d',
      name: 'web_1',
      namespace: 'default',
      uid: 'u-1',
      attempt: 0,
      labels: {},
      annotations: {},
      folder: '/p',
      hostname: 'web',
      namespaces: { uts: '/ns/uts' },
      cgroupParent: '/x',
    },
    spec: {
      ociVersion: '1.0.2',
      process: { user: { uid: 0, gid: 0 }, args: [], env: [], cwd: '/' },
      root: { path: '/rootfs' },
      mounts: [],
      linux: { namespaces: [{ type: 'user', path: '/ns/user' }] },
    },
  };
  change(made);
  return made;
}
function args(
  made: ContainerPlan,
  pool = '',
  guest: Partial<GuestOptions> = {},
  devices: Parameters<typeof createArgs>[1]['devices'] = [],
): Record<string, string> {
  const [template = '', ...rest] = createArgs(made, {
    tag: 'crisp',
    pool,
    mark: { owner: 'pve1 /run/crisp', containerId: made.id, vmid: '900001' },
    archive: '/empty.tar.gz',
    guest: { bridges: [], volume: undefined, mountPoints: [], features: [], ...guest },
    devices,
    hostManaged: true,
    node,
  });
  return Object.fromEntries([
    ['template', template] as const,
    ...rest.flatMap((word, index) => (word.startsWith('--') ? [[word, rest[index + 1] ?? ''] as const] : [])),
  ]);
}

test('the GUI shows a CT as a container of crisp', () => {
  expect(args(plan(), 'kubernetes')).toMatchObject({
    template: '/empty.tar.gz',
    '--rootfs': '/rootfs',
    '--ostype': 'unmanaged',
    '--arch': 'amd64',
    '--unprivileged': '1',
    '--hostname': 'web-1-app',
    '--tags': 'crisp;default',
    '--onboot': '0',
    '--console': '0',
    '--tty': '0',
    '--pool': 'kubernetes',
  });
  const words = args(plan())['--description'] ?? '';
  for (const word of [
    'default/web_1',
    'container app',
    'u-1',
    'f00d',
    'nginx',
    'crisp-owner: pve1 /run/crisp',
    'crisp-container: c0ffee',
  ])
    expect(words).toContain(word);
});

describe('what a pod may choose', () => {
  const bridge = { index: 0, name: 'vmbr1', vlan: 0, rate: 0, firewall: false, address: 'dhcp', gateway: '' };
  test('a net0 of its own, with a hardware address that stays the same for the pod', () => {
    expect(args(plan(), '', { bridges: [bridge] })['--net0']).toBe(
      'name=eth0,bridge=vmbr1,hwaddr=02:0F:87:21:B0:AE,ip=dhcp,type=veth,host-managed=1',
    );
    expect(
      args(plan(), '', {
        bridges: [
          {
            ...bridge,
            vlan: 7,
            rate: 1.5,
            firewall: true,
            address: '10.0.0.5/24',
            gateway: '10.0.0.1',
          },
        ],
      })['--net0'],
    ).toMatch(/,ip=10\.0\.0\.5\/24,type=veth,gw=10\.0\.0\.1,tag=7,rate=1\.5,firewall=1,host-managed=1$/);
    expect(args(plan())).not.toHaveProperty('--net0');
  });
  test('a volume of its own, with a template on it', () => {
    const volume = { storage: 'tank', sizeGib: 0.5 };
    expect(args(plan(), '', { volume })).toMatchObject({
      '--rootfs': 'tank:0.5',
      '--ostype': 'unmanaged',
    });
    const guest = args(
      plan((made) => {
        made.template = 'local:vztmpl/debian.tar.zst';
      }),
      '',
      { bridges: [bridge], volume },
    );
    expect(guest).toMatchObject({
      template: 'local:vztmpl/debian.tar.zst',
      '--rootfs': 'tank:0.5',
      '--features': 'nesting=1',
    });
    expect(guest).not.toHaveProperty('--ostype');
    expect(guest['--net0']).not.toContain('host-managed');
  });
});

test('without namespaces of its own: privileged, and named like the host', () => {
  expect(
    args(
      plan((made) => {
        made.spec.linux.namespaces = [];
        made.sandbox = { ...made.sandbox, namespaces: {} };
      }),
    ),
  ).toMatchObject({ '--unprivileged': '0', '--hostname': 'pve1-example' });
});

test.each([
  ['_', 'crisp'],
  ['a'.repeat(80), 'a'.repeat(63)],
  ['Ünï.code', 'n-code-app'],
])('hostname of pod %s', (name, expected) => {
  const made = plan((value) => {
    value.sandbox = { ...value.sandbox, name };
    if (name === '_') value.name = '_';
  });
  expect(args(made)['--hostname']).toBe(expected);
});

describe('beyond the first network', () => {
  const bridge = { vlan: 0, rate: 0, firewall: false, address: 'dhcp', gateway: '' };
  test('each network card has its index and a stable hardware address', () => {
    const made = args(plan(), '', {
      bridges: [
        { ...bridge, index: 0, name: 'vmbr0' },
        { ...bridge, index: 2, name: 'vnet1', vlan: 7, address: '10.0.0.5/24' },
      ],
    });
    expect(made['--net0']).toMatch(/^name=eth0,bridge=vmbr0,hwaddr=02:0F:87:21:B0:AE,/);
    expect(made['--net2']).toMatch(
      /^name=eth2,bridge=vnet1,hwaddr=02:[0-9A-F:]{14},ip=10\.0\.0\.5\/24,type=veth,tag=7,/,
    );
    expect(made['--net2']).not.toContain('02:0F:87:21:B0:AE');
    expect(made).not.toHaveProperty('--net1');
  });
  test('a mount point replaces only what this container mounts at the same path', () => {
    const points = [
      { index: 0, path: '/data', storage: 'tank', sizeGib: 8, backup: false },
      { index: 3, path: '/keep', storage: 'tank', sizeGib: 0.5, backup: true },
      { index: 4, path: '/other', storage: 'tank', sizeGib: 1, backup: false },
    ];
    const made = plan((one) => {
      one.spec.mounts = [
        { destination: '/data/', type: 'bind', source: '/var/lib/kubelet/x', options: ['rbind', 'rw'] },
        { destination: '/keep', type: 'bind', source: '/srv', options: ['rbind', 'ro'] },
        { destination: '/dev/shm', type: 'tmpfs', source: 'shm' },
      ];
    });
    expect(args(made, '', { mountPoints: points })).toMatchObject({
      '--mp0': 'tank:8,mp=/data,backup=0',
      '--mp3': 'tank:0.5,mp=/keep,backup=1,ro=1',
    });
    expect(args(made, '', { mountPoints: points })).not.toHaveProperty('--mp4');
    const mine = mountPointsOf(made, { mountPoints: points });
    expect(withoutMountPoints(made.spec, mine).mounts).toEqual([made.spec.mounts[2]]);
  });
  test('features and devices', () => {
    expect(args(plan())).not.toHaveProperty('--features');
    expect(
      args(plan(), '', { features: ['fuse', 'tun'] }, [
        { path: '/dev/dri/card0', mode: 0o660, uid: 0, gid: 44, denyWrite: false },
        { path: '/dev/null1', mode: 0o44, uid: 1, gid: 2, denyWrite: true },
      ]),
    ).toMatchObject({
      '--features': 'fuse=1',
      '--dev0': '/dev/dri/card0,mode=0660,uid=0,gid=44',
      '--dev1': '/dev/null1,mode=0044,uid=1,gid=2,deny-write=1',
    });
  });
});

describe('limits', () => {
  const of = (resources: object) =>
    args(
      plan((made) => {
        made.spec.linux.resources = resources;
      }),
    );
  test('no limit: all memory of the node, and no swap', () =>
    expect(of({})).toMatchObject({
      '--memory': '4096',
      '--swap': '0',
      '--cpulimit': '0',
      '--cores': '8',
      '--cpuunits': '100',
    }));
  test('a limit above the memory of the node is the memory of the node', () =>
    expect(
      of({ memory: { limit: 2 ** 40, swap: 2 ** 41 }, cpu: { quota: 6_400_000, period: 100_000 } }),
    ).toMatchObject({ '--memory': '4096', '--cpulimit': '64', '--cores': '8' }));
  test('are rounded up, never down', () =>
    expect(
      of({
        memory: { limit: 100 * 2 ** 20 + 1, swap: 150 * 2 ** 20 + 1 },
        cpu: { quota: 150_000, period: 100_000, shares: 2048 },
      }),
    ).toMatchObject({ '--memory': '101', '--swap': '50', '--cpulimit': '1.5', '--cores': '2' }));
  test('at least 16 MiB, the minimum of pct', () =>
    expect(of({ memory: { limit: 4096 } })).toMatchObject({ '--memory': '16', '--swap': '0' }));
  test('with a CPU set, no number of CPUs is set', () =>
    expect(of({ cpu: { quota: 100_000, cpus: '1' } })).not.toHaveProperty('--cores'));
  test('the CPU set of a CT is written to its configuration, where pvestatd reads it', () => {
    expect(pinLines({ cpu: { cpus: '0-1,3' } }, node)).toEqual(['lxc.cgroup2.cpuset.cpus: 0-1,3']);
    expect(pinLines({ cpu: { quota: 1 } }, node)).toEqual([]);
    expect(pinLines(undefined, node)).toEqual([]);
    expect(pinLines({ cpu: { cpus: '0\nlxc.hook.start: /x' } }, node)).toEqual([]);
    expect(pinLines({ cpu: { cpus: '0' } }, { cgroup: 'v1' })).toEqual([]);
  });
  test('an update contains only the changed values', () => {
    expect(updateArgs({ memory: { limit: 32 * 2 ** 20 } }, node)).toEqual(['--memory', '32']);
    expect(updateArgs({ cpu: { quota: -1 } }, node)).toEqual(['--cpulimit', '0', '--cores', '8']);
    expect(updateArgs({ cpu: { quota: -1, cpus: '1' } }, node)).toEqual(['--cpulimit', '0']);
    expect(updateArgs({ memory: { limit: 0 } }, node)).toEqual(['--memory', '16']);
    expect(updateArgs({}, node)).toEqual([]);
  });
});

test('a standalone container is marked as such, and has its own name', () => {
  const made = args(
    plan((one) => {
      one.sandbox = { ...one.sandbox, id: one.id, name: one.name, namespace: '' };
    }),
  );
  expect(made['--hostname']).toBe('app');
  expect(made['--description']).toMatch(
    /^Container app, of no pod {2}\nImage [^\n]* {2}\nMade by crisp; do not change it here\. {2}\n/,
  );
  expect(made['--tags']).toBe('crisp');
});

test('a quota without a period is of 100 ms, and features are a list', () => {
  expect(updateArgs({ cpu: { quota: 50_000 } }, node)).toEqual(['--cpulimit', '0.5', '--cores', '1']);
  expect(args(plan(), '', { features: ['fuse', 'keyctl'] })['--features']).toBe('fuse=1,keyctl=1');
});
