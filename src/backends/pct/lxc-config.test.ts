import { describe, expect, test } from '@jest/globals';
import type { Mount, Spec } from '../../shapes/spec.js';
import { lxcConfig, mountsOf, notHonoured } from './lxc-config.js';

function spec(change: (made: Spec) => void = () => undefined): Spec {
  const made: Spec = {
    ociVersion: '1.0.2',
    process: { user: { uid: 1000, gid: 1000 }, args: ['/bin/true'], env: ['PATH=/bin'], cwd: '/app' },
    root: { path: '/run/crisp/rootfs/x' },
    mounts: [],
    linux: {
      namespaces: [
        { type: 'mount' },
        { type: 'pid' },
        { type: 'network', path: '/ns/net' },
        { type: 'ipc', path: '/ns/ipc' },
        { type: 'uts', path: '/ns/uts' },
      ],
      maskedPaths: ['/proc/kcore', '/proc/acpi'],
      readonlyPaths: ['/proc/bus', '/proc/sys'],
    },
  };
  change(made);
  return made;
}
function lines(
  made: Spec,
  cgroup: 'v1' | 'v2' = 'v2',
  guest = false,
  environmentReachesHooks = false,
  passed: readonly string[] = [],
): string[] {
  return lxcConfig({
    spec: made,
    console: '/b/console',
    stopSignal: '15',
    logFile: '/b/lxc.log',
    stopHook: '/oom.pl /b',
    isFolder: (path) => !/\.|kcore/.test(path),
    deviceSource: ({ major, minor }) => (major === 10 ? `/dev/node-${minor}` : undefined),
    cgroup,
    guest,
    environmentReachesHooks,
    passed,
  })
    .trimEnd()
    .split('\n');
}

test('a whole guest keeps the rights, kernel filesystems and devices of PVE', () => {
  const found = lines(spec(), 'v2', true);
  for (const key of ['lxc.cap', 'lxc.init', 'lxc.mount.auto', 'lxc.no_new_privs', 'lxc.cgroup2.devices'])
    expect(found.filter((line) => line.startsWith(key))).toEqual([]);
  expect(found).not.toContain('lxc.environment = ');
  expect(found).toContain('lxc.signal.halt = 15');
});

test('hooks do not get the variables of a pod', () => {
  const cleared = ['pre-mount', 'mount', 'autodev', 'start'].map((name) => `lxc.hook.${name} = `);
  const found = (environmentReachesHooks: boolean, env: string[], guest = false): string[] =>
    lines(
      spec(({ process }) => {
        process.env = env;
      }),
      'v2',
      guest,
      environmentReachesHooks,
    ).filter((line) => /^lxc\.(environment|hook\.(?!stop))/.test(line));
  expect(found(false, ['A=b'])).toEqual(['lxc.environment = ', 'lxc.environment.runtime = A=b']);
  expect(found(false, ['A=b\nc'])).toEqual(['lxc.environment = ', ...cleared]);
  expect(found(true, ['A=b'])).toEqual(['lxc.environment = ', ...cleared, 'lxc.environment = A=b']);
  expect(found(true, ['A=b'], true)).toEqual([...cleared, 'lxc.environment = A=b']);
  expect(found(true, [], true)).toEqual([]);
});

test('the process: user, folder, environment, rights, limits', () => {
  const found = lines(
    spec(({ process }) => {
      process.user.additionalGids = [5, 6];
      process.env.push('WORDS=a b = "c"');
      process.capabilities = {
        bounding: ['CAP_CHOWN', 'CAP_NET_RAW'],
        effective: [],
        permitted: [],
        inheritable: [],
        ambient: [],
      };
      process.noNewPrivileges = true;
      process.rlimits = [{ type: 'RLIMIT_NOFILE', soft: 10, hard: 20 }];
      process.oomScoreAdj = 900;
    }),
  );
  expect(found).toEqual(
    expect.arrayContaining([
      'lxc.init.uid = 1000',
      'lxc.init.gid = 1000',
      'lxc.init.groups = 5,6',
      'lxc.init.cwd = /app',
      'lxc.environment.runtime = PATH=/bin',
      'lxc.environment.runtime = WORDS=a b = "c"',
      'lxc.cap.drop = ',
      'lxc.cap.keep = chown net_raw',
      'lxc.no_new_privs = 1',
      'lxc.prlimit.nofile = 10:20',
      'lxc.proc.oom_score_adj = 900',
      'lxc.signal.halt = 15',
    ]),
  );
  expect(found.indexOf('lxc.environment = ')).toBeLessThan(
    found.indexOf('lxc.environment.runtime = PATH=/bin'),
  );
});

test('AppArmor: a named profile for application containers; the default is that of PVE', () => {
  const of = (name: string, guest = false) =>
    lines(
      spec(({ process }) => {
        process.apparmorProfile = name;
      }),
      'v2',
      guest,
    ).filter((line) => line.startsWith('lxc.apparmor'));
  expect(of('lxc-mine')).toEqual(['lxc.apparmor.profile = lxc-mine']);
  expect([of('crisp-default'), of('lxc-mine', true)]).toEqual([[], []]);
});

test('an empty set of capabilities is written explicitly', () =>
  expect(lines(spec())).toContain('lxc.cap.keep = none'));

test('namespaces: those of the pod by path, those of the host kept, new ones by default', () => {
  expect(lines(spec()).filter((line) => line.includes('namespace'))).toEqual([
    'lxc.namespace.share.net = /ns/net',
    'lxc.namespace.share.ipc = /ns/ipc',
    'lxc.namespace.share.uts = /ns/uts',
  ]);
  const onHost = spec((made) => {
    made.linux.namespaces = [{ type: 'mount' }];
  });
  expect(lines(onHost).filter((line) => line.includes('namespace'))).toEqual([
    'lxc.namespace.clone = mnt uts cgroup',
  ]);
});

test('mounts: the standard mounts are left to liblxc, and paths are escaped', () => {
  const found = lines(
    spec(({ mounts }) =>
      mounts.push(
        { destination: '/proc', type: 'proc', source: 'proc' },
        { destination: '/sys', type: 'sysfs', source: 'sysfs', options: ['ro'] },
        {
          destination: '/data dir',
          type: 'bind',
          source: '/srv/a b\\c#',
          options: ['rbind', 'rprivate', 'ro'],
        },
        { destination: '/etc/hosts', type: 'bind', source: '/pods/hosts.file', options: ['rbind', 'rw'] },
        { destination: '/cache', type: 'tmpfs', source: 'tmpfs', options: ['nosuid', 'size=1m'] },
      ),
    ),
  ).filter((line) => line.startsWith('lxc.mount.'));
  expect(found).toEqual([
    'lxc.mount.auto = proc:mixed sys:mixed',
    'lxc.mount.entry = /srv/a\\040b\\134c\\043 data\\040dir none rbind,rprivate,ro,create=dir 0 0',
    'lxc.mount.entry = /pods/hosts.file etc/hosts none rbind,create=file 0 0',
    'lxc.mount.entry = tmpfs cache tmpfs nosuid,size=1m,create=dir 0 0',
    'lxc.mount.entry = /dev/null proc/kcore none bind,optional 0 0',
    'lxc.mount.entry = tmpfs proc/acpi tmpfs ro,size=0k,optional 0 0',
    'lxc.mount.entry = proc/bus proc/bus none bind,ro,optional,relative 0 0',
  ]);
});

test('a privileged container has /proc and /sys without masks', () => {
  const found = lines(
    spec((made) => {
      delete made.linux.maskedPaths;
      delete made.linux.readonlyPaths;
      made.mounts.push({ destination: '/sys', type: 'sysfs', source: 'sysfs', options: ['rw'] });
    }),
  );
  expect(found).toContain('lxc.mount.auto = proc:rw sys:rw');
});

test('paths in the image are masked whatever their type, and never resolved on the host', () => {
  const found = lines(
    spec((made) => {
      made.linux.maskedPaths = ['/secret'];
      made.linux.readonlyPaths = ['/tmp'];
    }),
  );
  expect(found).toEqual(
    expect.arrayContaining([
      'lxc.mount.entry = tmpfs secret tmpfs ro,size=0k,optional 0 0',
      'lxc.mount.entry = /dev/null secret none bind,optional 0 0',
      'lxc.mount.entry = tmp tmp none rbind,ro,optional,relative 0 0',
    ]),
  );
});

test('limits that pct rounds are written exactly on cgroup v2', () => {
  const limited = spec((made) => {
    made.linux.resources = {
      memory: { limit: 10_000_001, swap: 10_000_001 },
      cpu: { shares: 2, quota: 15_000, period: 100_000, cpus: '0' },
      pids: { limit: 7 },
    };
  });
  expect(lines(limited).filter((line) => line.includes('cgroup'))).toEqual(
    expect.arrayContaining([
      'lxc.cgroup2.memory.max = 10000001',
      'lxc.cgroup2.memory.swap.max = 0',
      'lxc.cgroup2.cpu.max = 15000 100000',
      'lxc.cgroup2.cpuset.cpus = 0',
      'lxc.cgroup2.pids.max = 7',
    ]),
  );
  expect(lines(limited, 'v1').join()).not.toContain('cgroup');
});

test('devices: device nodes and their rules, beside the defaults of every CT', () => {
  const found = lines(
    spec((made) => {
      made.linux.devices = [
        { type: 'c', path: '/dev/null', major: 1, minor: 3 },
        { type: 'c', path: '/dev/fuse', major: 10, minor: 229 },
      ];
      made.linux.resources = {
        devices: [
          { allow: false, access: 'rwm' },
          { allow: true, type: 'c', major: 10, minor: 229, access: 'rw' },
        ],
      };
    }),
  );
  expect(found).toEqual(
    expect.arrayContaining([
      'lxc.cgroup2.devices.allow = c 10:229 rw',
      'lxc.mount.entry = /dev/node-229 dev/fuse none bind,create=file,optional 0 0',
    ]),
  );
  expect(found.join()).not.toContain('/dev/null dev/null');
});

test('no path of the request leads to the host', () => {
  const refused: ((made: Spec) => void)[] = [
    (made) => (made.linux.readonlyPaths = ['/proc/../etc/shadow']),
    (made) => (made.linux.readonlyPaths = ['/tmp/../../etc']),
    (made) => (made.linux.readonlyPaths = ['etc']),
    (made) => (made.linux.maskedPaths = ['/proc/../etc/shadow']),
    (made) =>
      (made.mounts = [{ destination: '/a/../../x', type: 'bind', source: '/srv', options: ['rbind'] }]),
    (made) => (made.linux.devices = [{ type: 'c', path: '/dev/../etc/x', major: 10, minor: 229 }]),
  ];
  for (const change of refused)
    expect(() => lines(spec((made) => void change(made)))).toThrow(
      expect.objectContaining({ id: 'InvalidArgument' }),
    );
  // A device is found by its number: its path in the CT may be the path of any file of the host.
  const device = spec((made) => {
    made.linux.devices = [{ type: 'c', path: '/etc/shadow', major: 1, minor: 3 }];
  });
  expect(() => lines(device)).toThrow(expect.objectContaining({ id: 'UnsupportedField' }));
});

test('no value of a pod can become a line of its own', () => {
  const bad = ['/app\nlxc.hook.start-host = /bin/evil', '/app\r', '/app '];
  for (const cwd of bad)
    expect(() =>
      lines(
        spec((made) => {
          made.process.cwd = cwd;
        }),
      ),
    ).toThrow(/cannot contain/);
  const found = lines(
    spec((made) => {
      made.process.env.push('A=b\nlxc.hook.start-host = /bin/evil');
      made.mounts.push({ destination: '/x\ny', type: 'bind', source: '/a\nlxc.b = c', options: [] });
    }),
  );
  expect(found.filter((line) => !line.startsWith('lxc.') || line.includes('evil'))).toEqual([]);
  expect(found).toContain('lxc.mount.entry = /a\\012lxc.b\\040=\\040c x\\012y none rbind,create=file 0 0');
});

test('what a CT cannot apply is reported', () => {
  const all = { givesGroups: true };
  expect(notHonoured(spec(), all)).toEqual([]);
  expect(
    notHonoured(
      spec((made) => {
        made.linux.seccomp = { defaultAction: 'SCMP_ACT_ERRNO' };
        made.hooks = { prestart: [{ path: '/x' }] };
      }),
      all,
    ),
  ).toEqual(['spec.linux.seccomp', 'spec.hooks']);
  const shared = spec((made) => {
    made.linux.rootfsPropagation = 'rshared';
  });
  expect(notHonoured(shared, all)).toEqual([]);
  shared.linux.namespaces.push({ type: 'user' });
  expect(notHonoured(shared, all)).toEqual(['spec.linux.rootfsPropagation']);
  const grouped = spec((made) => {
    made.process.user.additionalGids = [5];
    made.linux.namespaces.push({ type: 'user', path: '/ns/user' });
  });
  expect([notHonoured(grouped, all), notHonoured(grouped, { givesGroups: false })]).toEqual([
    [],
    ['spec.process.user.additionalGids'],
  ]);
});

test('a device that PVE adds to the CT is not bound again, and keeps its rule', () => {
  const made = spec();
  made.linux.devices = [
    { type: 'c', path: '/dev/fuse', major: 10, minor: 229 },
    { type: 'c', path: '/dev/net/tun', major: 10, minor: 200 },
  ];
  made.linux.resources = { devices: [{ allow: true, type: 'c', major: 10, minor: 229, access: 'rw' }] };
  const found = lines(made, 'v2', false, false, ['/dev/fuse']);
  expect(found.filter((line) => / dev\/(fuse|net\/tun) /.test(line))).toEqual([
    'lxc.mount.entry = /dev/node-200 dev/net/tun none bind,create=file,optional 0 0',
  ]);
  expect(found).toContain('lxc.cgroup2.devices.allow = c 10:229 rw');
});

describe('the whole file', () => {
  const full = (): Spec =>
    spec((made) => {
      made.process = {
        ...made.process,
        terminal: true,
        cwd: '/',
        oomScoreAdj: -5,
        selinuxLabel: 'system_u:system_r:container_t:s0',
        apparmorProfile: 'lxc-mine',
        rlimits: [{ type: 'RLIMIT_NOFILE', soft: 10, hard: 20 }],
      };
      made.root.readonly = true;
      made.linux = {
        namespaces: [{ type: 'mount' }, { type: 'pid', path: '/ns/pid' }, { type: 'user', path: '/ns/user' }],
        maskedPaths: ['/proc/kcore'],
        resources: {
          pids: { limit: 7 },
          devices: [
            { allow: false, access: 'rwm' },
            { allow: true, type: 'c', major: 10, access: 'rw' },
            { allow: true, type: 'b', minor: 3 },
            { allow: true },
          ],
        },
        devices: [{ type: 'c', path: '/dev/fuse', major: 10, minor: 229 }],
      };
      made.mounts = [{ destination: '/data', type: 'bind', source: '/srv/data' }];
    });

  test('of an application container', () => {
    expect(lines(full())).toEqual([
      'lxc.namespace.share.pid = /ns/pid',
      'lxc.namespace.share.user = /ns/user',
      'lxc.namespace.clone = mnt uts cgroup pid',
      'lxc.cap.drop = ',
      'lxc.cap.keep = none',
      'lxc.no_new_privs = 0',
      'lxc.init.uid = 1000',
      'lxc.init.gid = 1000',
      'lxc.init.cwd = /',
      'lxc.environment = ',
      'lxc.environment.runtime = PATH=/bin',
      'lxc.prlimit.nofile = 10:20',
      'lxc.proc.oom_score_adj = -5',
      'lxc.apparmor.profile = lxc-mine',
      'lxc.selinux.context = system_u:system_r:container_t:s0',
      'lxc.rootfs.options = ro',
      'lxc.cgroup2.pids.max = 7',
      'lxc.cgroup2.devices.allow = c 10:* rw',
      'lxc.cgroup2.devices.allow = b *:3 rwm',
      'lxc.cgroup2.devices.allow = a',
      'lxc.mount.auto = proc:mixed sys:mixed',
      'lxc.mount.entry = /srv/data data none rbind,create=dir 0 0',
      'lxc.mount.entry = /dev/node-229 dev/fuse none bind,create=file,optional 0 0',
      'lxc.mount.entry = /dev/null proc/kcore none bind,optional 0 0',
      'lxc.console.path = /b/console',
      'lxc.signal.halt = 15',
      'lxc.hook.stop = /oom.pl /b',
      'lxc.log.file = /b/lxc.log',
      'lxc.log.level = ERROR',
    ]);
  });

  test('of a complete guest has neither its rights, its profile nor its devices', () => {
    expect(lines(full(), 'v2', true)).toEqual([
      'lxc.namespace.share.pid = /ns/pid',
      'lxc.namespace.share.user = /ns/user',
      'lxc.namespace.clone = mnt uts cgroup pid',
      'lxc.environment.runtime = PATH=/bin',
      'lxc.proc.oom_score_adj = -5',
      'lxc.selinux.context = system_u:system_r:container_t:s0',
      'lxc.rootfs.options = ro',
      'lxc.cgroup2.pids.max = 7',
      'lxc.mount.entry = /srv/data data none rbind,create=dir 0 0',
      'lxc.mount.entry = /dev/node-229 dev/fuse none bind,create=file,optional 0 0',
      'lxc.console.path = /b/console',
      'lxc.signal.halt = 15',
      'lxc.hook.stop = /oom.pl /b',
      'lxc.log.file = /b/lxc.log',
      'lxc.log.level = ERROR',
    ]);
  });

  test('on cgroup v1 has the rules of devices under the name of v1', () => {
    expect(lines(full(), 'v1').filter((line) => line.startsWith('lxc.cgroup'))).toEqual([
      'lxc.cgroup.devices.allow = c 10:* rw',
      'lxc.cgroup.devices.allow = b *:3 rwm',
      'lxc.cgroup.devices.allow = a',
    ]);
  });

  test('without limits, a terminal and devices has none of their lines', () => {
    const found = lines(
      spec(({ linux }) => {
        linux.namespaces.push({ type: 'pid' });
      }),
    );
    expect(
      found.filter((line) => /console|prlimit|oom_score|selinux|apparmor|rootfs|cgroup2|clone/.test(line)),
    ).toEqual([]);
  });
});

test('mounts: a single one is not recursive, a recursively read-only one is at least read-only', () => {
  const entry = (options: string[], change: Partial<Mount> = {}): string | undefined =>
    lines(
      spec(({ mounts }) => mounts.push({ destination: '/data', source: '/srv/data', options, ...change })),
    ).find((line) => line.startsWith('lxc.mount.entry = /srv') || line.includes(' data '));
  expect(entry(['bind', 'nosuid'])).toBe('lxc.mount.entry = /srv/data data none bind,nosuid,create=dir 0 0');
  expect(entry(['rbind', 'rro'])).toBe('lxc.mount.entry = /srv/data data none rbind,ro,create=dir 0 0');
  expect(entry(['rbind', 'idmap'])).toBe('lxc.mount.entry = /srv/data data none rbind,create=dir 0 0');
  expect(entry([], { type: 'bind' })).toBe('lxc.mount.entry = /srv/data data none rbind,create=dir 0 0');
  expect(entry(['noexec'], { type: 'tmpfs', source: 'tmpfs' })).toBe(
    'lxc.mount.entry = tmpfs data tmpfs noexec,create=dir 0 0',
  );
});

test('mounts: what a pod binds on a folder of the kernel is mounted, what liblxc mounts there itself is not', () => {
  const made = spec(({ mounts }) => {
    for (const destination of ['/proc', '/dev', '/dev/pts', '/dev/mqueue', '/sys', '/sys/fs/cgroup'])
      mounts.push({ destination, type: 'tmpfs' });
    mounts.push({ destination: '/dev/shm', type: 'tmpfs' });
    mounts.push({ destination: '/sys/fs/cgroup', type: 'bind', source: '/srv/x', options: ['rbind'] });
  });
  expect(mountsOf(made).map(({ destination, type }) => [destination, type])).toEqual([
    ['/dev/shm', 'tmpfs'],
    ['/sys/fs/cgroup', 'bind'],
  ]);
});

test('/sys is writable only for a mount that says so, and /proc only without any masks', () => {
  const auto = (change: (made: Spec) => void): string | undefined =>
    lines(spec((made) => void change(made))).find((line) => line.startsWith('lxc.mount.auto'));
  const sys = { destination: '/sys', type: 'sysfs', source: 'sysfs' };
  expect(auto((made) => made.mounts.push({ ...sys, options: ['rw'] }))).toBe(
    'lxc.mount.auto = proc:mixed sys:rw',
  );
  expect(auto((made) => made.mounts.push(sys))).toBe('lxc.mount.auto = proc:mixed sys:mixed');
  expect(auto((made) => made.mounts.push({ ...sys, destination: '/x', options: ['rw'] }))).toBe(
    'lxc.mount.auto = proc:mixed sys:mixed',
  );
  expect(auto(({ linux }) => delete linux.maskedPaths)).toBe('lxc.mount.auto = proc:mixed sys:mixed');
  expect(auto(({ linux }) => delete linux.readonlyPaths)).toBe('lxc.mount.auto = proc:mixed sys:mixed');
});

test('read-only paths that liblxc has read-only are not bound again', () => {
  const found = lines(
    spec(({ linux }) => {
      linux.readonlyPaths = [
        '/proc/sys',
        '/proc/sys/kernel',
        '/proc/sysrq-trigger',
        '/proc/sysvipc',
        '/sys/firmware',
      ];
    }),
  ).filter((line) => line.includes('relative'));
  expect(found).toEqual([
    'lxc.mount.entry = proc/sysvipc proc/sysvipc none bind,ro,optional,relative 0 0',
    'lxc.mount.entry = sys/firmware sys/firmware none bind,ro,optional,relative 0 0',
  ]);
});

test.each(['null', 'zero', 'full', 'random', 'urandom', 'tty', 'console', 'ptmx', 'pts/0'])(
  '/dev/%s is of every CT, whatever the spec says of it',
  (name) => {
    const found = lines(
      spec((made) => {
        made.linux.devices = [{ type: 'c', path: `/dev/${name}`, major: 10, minor: 3 }];
      }),
    );
    expect(found.join()).not.toContain('/dev/node-3');
  },
);

test.each([
  [['network'], 'mnt uts cgroup net'],
  [['ipc'], 'mnt uts cgroup ipc'],
  [['pid', 'ipc'], 'mnt uts cgroup pid ipc'],
  [['pid', 'network'], 'mnt uts cgroup pid net'],
])('a CT that shares some namespaces of the host has the others for itself: %j', (own, clone) => {
  const found = lines(
    spec(({ linux }) => {
      linux.namespaces = own.map((type) => ({ type })) as typeof linux.namespaces;
    }),
  );
  expect(found).toContain(`lxc.namespace.clone = ${clone}`);
});
