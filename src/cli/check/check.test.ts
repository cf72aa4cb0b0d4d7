import { describe, expect, test } from '@jest/globals';
import type { Probe } from '../../backends/backend.js';
import { notReady } from '../../backends/probe-failure.js';
import { checkConfig } from '../../config/config.js';
import { flagSource } from '../../config/source.js';
import { CrispError } from '../../errors.js';
import { cgroupChecks } from './cgroups.js';
import { runChecks, type Check, type Finding, type Host } from './check.js';
import { inWords } from './command.js';
import { judge } from './handlers.js';
import { kernelChecks } from './kernel.js';
import { networkChecks } from './network.js';
import { proxmoxChecks } from './proxmox.js';
import { toolChecks } from './tools.js';

/** A host with these files and these outputs of programs. */
function host(
  files: Readonly<Record<string, string>>,
  answers: Readonly<Record<string, string>> = {},
  uid = 0,
): Host {
  return {
    uid,
    read: (path) => files[path],
    exists: (path) => path in files || Object.keys(files).some((file) => file.startsWith(`${path}/`)),
    list: (path) => [
      ...new Set(
        Object.keys(files)
          .filter((file) => file.startsWith(`${path}/`))
          .map((file) => file.slice(path.length + 1).split('/')[0] ?? ''),
      ),
    ],
    ask: async (argv) => answers[argv.join(' ')],
  };
}
function config(value: object = {}) {
  return checkConfig([flagSource(value as Record<string, unknown>)]);
}
async function findings(
  checks: readonly Check[],
  id: string,
  files: Readonly<Record<string, string>>,
  { value = {}, answers = {}, uid = 0 } = {},
): Promise<readonly Finding[]> {
  const check = checks.find((candidate) => candidate.id === id);
  if (!check) throw new Error(`there is no check ${id}`);
  return (await runChecks([check], host(files, answers, uid), config(value)))[0]?.findings ?? [];
}

describe('a handler that is broken, and what mends it', () => {
  const features = { recursiveReadOnlyMounts: false, userNamespaces: false };
  const value = { handlers: { kata: { type: 'oci', path: '/opt/kata' }, lxc: { type: 'pct' } } };
  const missing = (tool: string): CrispError =>
    new CrispError('ToolMissing', `${tool} is not installed`, { stage: 'find program', tool });
  test.each([
    ['crun', missing('crun'), 'apt install crun'],
    ['runc', missing('conmon'), 'apt install conmon'],
    ['kata', missing('/opt/kata'), 'set handlers.kata.path to the binary'],
    ['lxc', missing('pvesh'), 'run crisp on a Proxmox VE node'],
    ['crun', new CrispError('RuntimeFailed', 'odd', { hint: '' }), 'apt install --reinstall crun'],
    ['crun', new CrispError('RuntimeFailed', 'hybrid', { hint: 'boot otherwise' }), 'boot otherwise'],
  ])('%s: %s', (name, error, hint) => {
    const probe = { ...notReady(error), version: '', features, lacks: {} };
    const [found] = judge(config(value), new Map([[name, { probe }]]));
    expect(found).toMatchObject({
      level: 'warning',
      message: `${name}: its probe failed: ${error.finding}`,
      hint: expect.stringContaining(hint),
    });
    expect(error.finding).not.toContain('hint');
  });
});

describe('each finding and its mending command', () => {
  const allCapabilities = '/proc/self/status';
  test.each<[string, readonly Check[], string, Record<string, string>, Finding['level'], string]>([
    ['rights', kernelChecks, 'kernel.root', { [allCapabilities]: 'CapBnd:\t000001ffffffffff\n' }, 'ok', ''],
    [
      'rights',
      kernelChecks,
      'kernel.root',
      { [allCapabilities]: 'CapBnd:\t0000000000000000\n' },
      'failure',
      'run crisp on the host',
    ],
    [
      'an old kernel',
      kernelChecks,
      'kernel.version',
      { '/proc/sys/kernel/osrelease': '3.10.0\n' },
      'failure',
      'install a current kernel',
    ],
    [
      'a kernel without idmapped overlay',
      kernelChecks,
      'kernel.version',
      { '/proc/sys/kernel/osrelease': '5.10.0-8-amd64\n' },
      'warning',
      'install a current kernel',
    ],
    [
      'a good kernel',
      kernelChecks,
      'kernel.version',
      { '/proc/sys/kernel/osrelease': '6.1.0-18-amd64\n' },
      'ok',
      '',
    ],
    [
      'overlay',
      kernelChecks,
      'kernel.overlay',
      { '/proc/filesystems': 'nodev\tproc\n\text4\n' },
      'failure',
      'modprobe overlay',
    ],
    ['overlay', kernelChecks, 'kernel.overlay', { '/proc/filesystems': 'nodev\toverlay\n' }, 'ok', ''],
    [
      'overlay that nobody has used yet',
      kernelChecks,
      'kernel.overlay',
      {
        '/proc/filesystems': 'nodev\tproc\n',
        '/proc/sys/kernel/osrelease': '6.1.0\n',
        '/lib/modules/6.1.0/kernel/fs/overlayfs/overlay.ko': '',
      },
      'ok',
      '',
    ],
    ['no AppArmor', kernelChecks, 'kernel.apparmor', {}, 'ok', ''],
    [
      'AppArmor with our profile',
      kernelChecks,
      'kernel.apparmor',
      { '/sys/kernel/security/apparmor/profiles': 'lsb_release (enforce)\ncrisp-default (enforce)\n' },
      'ok',
      '',
    ],
    [
      'AppArmor without our profile',
      kernelChecks,
      'kernel.apparmor',
      { '/sys/kernel/security/apparmor/profiles': 'lsb_release (enforce)\n' },
      'warning',
      'apparmor_parser --replace',
    ],
    [
      'swap',
      kernelChecks,
      'kernel.swap',
      { '/proc/swaps': 'Filename Type Size\n/dev/sda2 partition 1\n' },
      'warning',
      'swapoff -a',
    ],
    [
      'forwarding',
      kernelChecks,
      'kernel.sysctls',
      { '/proc/sys/net/ipv4/ip_forward': '0\n' },
      'warning',
      'net.ipv4.ip_forward=1',
    ],
    [
      'modules',
      kernelChecks,
      'kernel.modules',
      { '/sys/module/bridge': '' },
      'warning',
      'modprobe br_netfilter',
    ],
    [
      'propagation',
      kernelChecks,
      'kernel.propagation',
      { '/proc/self/mountinfo': '1 0 8:1 / / rw - ext4 /dev/sda1 rw\n' },
      'warning',
      'mount --make-rshared /',
    ],
    [
      'propagation',
      kernelChecks,
      'kernel.propagation',
      { '/proc/self/mountinfo': '1 0 8:1 / / rw shared:1 - ext4 /dev/sda1 rw\n' },
      'ok',
      '',
    ],
    [
      'cgroup v2',
      cgroupChecks,
      'cgroup.version',
      { '/sys/fs/cgroup/cgroup.controllers': 'cpu memory' },
      'ok',
      '',
    ],
    [
      'cgroup v1',
      cgroupChecks,
      'cgroup.version',
      { '/sys/fs/cgroup/memory': '' },
      'warning',
      'unified_cgroup_hierarchy=1',
    ],
    [
      'no memory controller',
      cgroupChecks,
      'cgroup.controllers',
      { '/sys/fs/cgroup/cgroup.controllers': 'cpu pids cpuset' },
      'failure',
      'cgroup_enable=memory',
    ],
    ['two cgroup writers', cgroupChecks, 'cgroup.driver', { '/run/systemd/system': '' }, 'ok', ''],
    ['conmon', toolChecks, 'tool.conmon', {}, 'failure', 'apt install conmon'],
    ['a tool that some pods need', toolChecks, 'tool.catatonit', {}, 'warning', 'apt install catatonit'],
    ['no conflist', networkChecks, 'cni.config', {}, 'failure', 'install -D -m 644 -t /etc/cni/net.d /'],
    [
      'a broken conflist',
      networkChecks,
      'cni.config',
      { '/etc/cni/net.d/10.conflist': '{' },
      'failure',
      'correct /etc/cni/net.d/10.conflist',
    ],
    [
      'a missing plugin',
      networkChecks,
      'cni.plugins',
      {
        '/etc/cni/net.d/10.conflist':
          '{"cniVersion":"1.0.0","name":"n","plugins":[{"type":"bridge","ipam":{"type":"host-local"}}]}',
        '/opt/cni/bin/bridge': '',
      },
      'failure',
      'apt install containernetworking-plugins',
    ],
  ])('%s (%#)', async (_what, checks, id, files, level, hint) => {
    const found = await findings(checks, id, files);
    expect(found.map((finding) => finding.level)).toContain(level);
    if (hint) expect(found.find((finding) => finding.level === level)?.hint).toContain(hint);
  });

  test('cgroupfs beside systemd', async () => {
    expect(
      await findings(
        cgroupChecks,
        'cgroup.driver',
        { '/run/systemd/system': '' },
        { value: { runtime: { cgroup_driver: 'cgroupfs' } } },
      ),
    ).toMatchObject([{ level: 'warning' }]);
  });

  test('a tool says its version', async () => {
    expect(
      await findings(
        toolChecks,
        'tool.conmon',
        { '/usr/bin/conmon': '' },
        { answers: { '/usr/bin/conmon --version': 'conmon version 2.1.6\ncommit: x\n' } },
      ),
    ).toEqual([{ level: 'ok', message: 'conmon version 2.1.6' }]);
  });

  test('a check that breaks is a failure and stops no other', async () => {
    const broken: Check = {
      id: 'x',
      title: 'X',
      run: () => {
        throw new Error('oh');
      },
    };
    const checked = await runChecks([broken, ...cgroupChecks], host({}), config());
    expect(checked[0]?.findings).toMatchObject([
      { level: 'failure', message: expect.stringContaining('oh') },
    ]);
    expect(checked).toHaveLength(1 + cgroupChecks.length);
  });

  test('every id is there once', () => {
    const ids = [...kernelChecks, ...cgroupChecks, ...toolChecks, ...networkChecks].map(({ id }) => id);
    expect(new Set(ids).size).toBe(ids.length);
  });
});

describe('handlers', () => {
  const features = { recursiveReadOnlyMounts: false, userNamespaces: false };
  const good: { probe: Probe } = { probe: { ready: true, reason: '', version: 'v1', features, lacks: {} } };
  const bad: { probe: Probe } = {
    probe: { ready: false, reason: 'it is not installed', version: '', features, lacks: {} },
  };

  test('a broken default with a fallback is a warning, with none it is a failure', () => {
    const levels = (crun: typeof good, runc: typeof good): string[] =>
      judge(
        config(),
        new Map([
          ['crun', crun],
          ['runc', runc],
        ]),
      ).map(({ level }) => level);
    expect(levels(good, good)).toEqual(['ok', 'ok']);
    expect(levels(bad, good)).toEqual(['warning', 'ok']);
    expect(levels(good, bad)).toEqual(['ok', 'warning']);
    expect(levels(bad, bad)).toEqual(['warning', 'warning', 'failure']);
  });

  test('what a ready one cannot do is said with the reason', () => {
    const plain = { probe: { ...good.probe, lacks: { userNamespaces: 'mount_setattr: Invalid argument' } } };
    expect(judge(config(), new Map([['crun', plain]]))).toMatchObject([
      {
        level: 'ok',
        message: 'crun: v1; a container ran; no user namespaces: mount_setattr: Invalid argument',
      },
    ]);
  });
});

describe('Proxmox', () => {
  test('is not looked at on another host', () => {
    expect(proxmoxChecks(host({}), config())).toEqual([]);
  });

  test('is on its own, and where a handler wants it', async () => {
    const value = { handlers: { lxc: { type: 'pct' } } };
    const checks = proxmoxChecks(host({}), config(value));
    expect(
      await findings(checks, 'proxmox.subuid', { '/etc/subuid': 'root:100000:65536\n' }, { value }),
    ).toMatchObject([{ level: 'failure', hint: 'echo root:100000:65536 >> /etc/subgid' }]);
    expect(proxmoxChecks(host({ '/etc/pve/corosync.conf': '' }), config()).length).toBe(checks.length);
  });

  test('storages by what they hold', async () => {
    const line = 'Name Type Status Total Used Available %\nlocal dir active 1 1 1 1%\n';
    const found = await findings(
      proxmoxChecks(host({ '/etc/pve/x': '' }), config()),
      'proxmox.storages',
      {
        '/usr/sbin/pvesm': '',
        '/etc/pve/storage.cfg':
          'dir: local\n\tpath /var/lib/vz\n\tcontent iso,vztmpl,backup\n\nlvmthin: data\n\tthinpool data\n',
      },
      {
        value: { lxc: { rootfs: { storage: 'fast' } } },
        answers: {
          'pvesm list local --content vztmpl': 'Volid Format\nlocal:vztmpl/a.tar.zst tzst\n',
          'pvesm status --content rootdir': 'Name Type Status\n',
          'pvesm status --content vztmpl': line,
        },
      },
    );
    const hint = 'pvesm set local --content iso,vztmpl,backup,rootdir';
    expect(found).toMatchObject([
      { level: 'failure', message: expect.stringContaining('lxc.rootfs.storage is fast'), hint },
      { level: 'warning', hint },
      { level: 'ok', message: 'for templates, with their number: local (1)' },
    ]);
  });

  test('the bridge that the configuration names', async () => {
    const value = { lxc: { network: 'bridge', bridge: { name: 'vmbr1' } } };
    const checks = proxmoxChecks(host({ '/etc/pve/x': '' }), config());
    expect(
      await findings(checks, 'proxmox.bridges', { '/sys/class/net/vmbr0/bridge/x': '' }, { value }),
    ).toMatchObject([{ level: 'failure', hint: 'set lxc.bridge.name to one of: vmbr0' }]);
    expect(
      await findings(checks, 'proxmox.bridges', { '/sys/class/net/vmbr1/bridge/x': '' }, { value }),
    ).toMatchObject([{ level: 'ok' }]);
  });
});

describe("what of Proxmox stands in a pod's way", () => {
  const value = { lxc: { pool: 'pods' } };
  const found = async (id: string, files: Readonly<Record<string, string>>): Promise<readonly Finding[]> =>
    findings(proxmoxChecks(host({ '/etc/pve/x': '' }), config()), id, files, { value });

  test('backup jobs that take its CTs', async () => {
    const jobs = [
      'vzdump: nightly\n\tschedule 21:00\n\tall 1\n\tenabled 1\n',
      'vzdump: off\n\tall 1\n\tenabled 0\n',
      'vzdump: some\n\tvmid 100,101\n',
      'realm-sync: other\n\tall 1\n',
      'vzdump: ours\n\tpool pods\n',
      'vzdump: named\n\tvmid 100,900001,101\n',
    ].join('\n');
    expect(await found('proxmox.backups', { '/etc/pve/jobs.cfg': jobs })).toMatchObject([
      { level: 'warning', hint: expect.stringMatching(/^pvesh set \/cluster\/backup\/nightly --all 0/) },
      {
        level: 'warning',
        message: expect.stringContaining('ours includes the CTs of pods (pool pods)'),
      },
      { level: 'warning', hint: 'pvesh set /cluster/backup/named --vmid 100,101' },
    ]);
    expect(await found('proxmox.backups', {})).toEqual([{ level: 'ok', message: 'there is none' }]);
  });

  test('a pool that is not there', async () => {
    expect(await found('proxmox.pool', { '/etc/pve/user.cfg': 'pool:others:::\n' })).toMatchObject([
      { level: 'failure', hint: 'pvesh create /pools --poolid pods' },
    ]);
    expect(await found('proxmox.pool', { '/etc/pve/user.cfg': 'user:a\npool:pods::900001::\n' })).toEqual([
      { level: 'ok', message: 'pods' },
    ]);
  });

  test('the HA manager', async () => {
    const resources = 'ct: 900001\n\tstate started\n\nvm: 900002\n\nct: 100\n\tgroup g\n';
    expect(await found('proxmox.ha', { '/etc/pve/ha/resources.cfg': resources })).toMatchObject([
      { level: 'warning', hint: 'ha-manager remove ct:900001' },
    ]);
    expect(await found('proxmox.ha', {})).toMatchObject([{ level: 'ok' }]);
  });

  test('a firewall without a rule for the kubelet', async () => {
    const file = '/etc/pve/firewall/cluster.fw';
    const on = '[OPTIONS]\n\nenable: 1\n';
    expect(await found('proxmox.firewall', { [file]: on })).toMatchObject([
      { level: 'warning', hint: expect.stringContaining('--dport 10250') },
    ]);
    const rule = `${on}\n[RULES]\n\nIN ACCEPT -p tcp -dport 10250\n`;
    expect(await found('proxmox.firewall', { [file]: rule })).toMatchObject([{ level: 'ok' }]);
    expect(await found('proxmox.firewall', {})).toEqual([{ level: 'ok', message: 'off' }]);
  });

  test('vnets that are not applied', async () => {
    const files = {
      '/etc/pve/sdn/vnets.cfg': 'vnet: blue\n\tzone z\n\nvnet: red\n\tzone z\n',
      '/sys/class/net/blue/bridge/x': '',
    };
    expect(await found('proxmox.sdn', files)).toMatchObject([
      { level: 'warning', message: expect.stringMatching(/: red$/) },
    ]);
    expect(await found('proxmox.sdn', {})).toEqual([]);
  });
});

test('what people read', () => {
  const checked = [
    { id: 'a', title: 'A', findings: [{ level: 'ok' as const, message: 'fine' }] },
    { id: 'b', title: 'B', findings: [{ level: 'failure' as const, message: 'bad', hint: 'do this' }] },
  ];
  expect(inWords(checked, false, false)).toBe('ok       A: fine\nFAILURE  B: bad\n         hint: do this\n');
  expect(inWords(checked, true, false)).toBe('FAILURE  B: bad\n         hint: do this\n');
});
