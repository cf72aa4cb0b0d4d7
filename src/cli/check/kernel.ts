// Checks of the kernel: its features, modules, sysctls and limits.
import { boundingCapabilities } from '../../host/proc.js';
import { deployed } from '../../installed.js';
import { defaultAppArmorProfile } from '../../oci/security.js';
import { failure, ok, warning, type Check, type Finding } from './check.js';

/** Modules and sysctls set now and at each boot. */
function persist(kind: 'modules-load.d' | 'sysctl.d', line: string): string {
  return kind === 'sysctl.d'
    ? `echo '${line}' >> /etc/sysctl.d/99-crisp.conf && sysctl --system`
    : `echo ${line} >> /etc/modules-load.d/crisp.conf && modprobe ${line}`;
}

const root: Check = {
  id: 'kernel.root',
  title: 'Privileges of crisp',
  run(host) {
    if (host.uid !== 0) return failure('crisp does not run as root', 'sudo crisp check');
    const held = boundingCapabilities(host.read('/proc/self/status') ?? '');
    const missing = [
      'CAP_SYS_ADMIN',
      'CAP_NET_ADMIN',
      'CAP_SYS_CHROOT',
      'CAP_MKNOD',
      'CAP_SETUID',
      'CAP_SETGID',
    ].filter((name) => !held.includes(name));
    if (missing.length)
      return failure(
        `missing capabilities: ${missing.join(', ')}`,
        'run crisp on the host, or in a container with these capabilities',
      );
    if (!held.includes('CAP_SYS_RESOURCE'))
      return warning(
        "CAP_SYS_RESOURCE is missing: containers cannot have an oom_score_adj below crisp's own",
        'run crisp on the host, or in a container with this capability',
      );
    return ok('root, with the required capabilities');
  },
};

/** Idmapped mounts on overlay came with 5.19 (mount_setattr(2)). */
const idmappedOverlay = [5, 19] as const;

const release: Check = {
  id: 'kernel.version',
  title: 'Kernel version',
  run(host) {
    const text = host.read('/proc/sys/kernel/osrelease')?.trim() ?? '';
    const [major = 0, minor = 0] = text.split('.').map(Number);
    if (major > idmappedOverlay[0] || (major === idmappedOverlay[0] && minor >= idmappedOverlay[1]))
      return ok(text);
    if (major < 4) return failure(`${text} is too old`, 'install a current kernel');
    return warning(`${text}: pods with user namespaces need 5.19 or newer`, 'install a current kernel');
  },
};

const namespaces: Check = {
  id: 'kernel.namespaces',
  title: 'Namespaces',
  run(host) {
    const missing = ['mnt', 'net', 'ipc', 'uts', 'pid'].filter(
      (name) => !host.exists(`/proc/self/ns/${name}`),
    );
    if (missing.length)
      return failure(`the kernel lacks: ${missing.join(', ')}`, 'use a kernel with all namespaces');
    const limit = Number(host.read('/proc/sys/user/max_net_namespaces') ?? '1');
    if (limit === 0)
      return failure('user.max_net_namespaces is 0', 'sysctl -w user.max_net_namespaces=15000');
    if (
      !host.exists('/proc/self/ns/user') ||
      Number(host.read('/proc/sys/user/max_user_namespaces') ?? '0') === 0
    ) {
      return warning(
        'no user namespaces: pods with hostUsers: false cannot run',
        persist('sysctl.d', 'user.max_user_namespaces=15000'),
      );
    }
    return ok('all kinds');
  },
};

const overlay: Check = {
  id: 'kernel.overlay',
  title: 'Overlay filesystem',
  run(host) {
    const modules = `/lib/modules/${host.read('/proc/sys/kernel/osrelease')?.trim()}/kernel/fs/overlayfs`;
    return /\boverlay$/m.test(host.read('/proc/filesystems') ?? '') || host.exists(modules)
      ? ok('supported by the kernel')
      : failure('the kernel has no overlay filesystem', persist('modules-load.d', 'overlay'));
  },
};

const seccomp: Check = {
  id: 'kernel.seccomp',
  title: 'Seccomp',
  run(host, config) {
    if (!host.exists('/proc/sys/kernel/seccomp/actions_avail'))
      return warning(
        'the kernel has no seccomp: containers with a profile are refused',
        'use a kernel with CONFIG_SECCOMP_FILTER',
      );
    const profile = config.runtime.seccomp_profile;
    if (!profile) return ok("RuntimeDefault is crisp's own profile");
    return host.exists(profile)
      ? ok(`profile ${profile}`)
      : warning(
          `there is no ${profile}: containers with RuntimeDefault are refused`,
          "leave runtime.seccomp_profile empty for crisp's own profile",
        );
  },
};

const apparmor: Check = {
  id: 'kernel.apparmor',
  title: 'AppArmor',
  run(host) {
    const profiles = host.read('/sys/kernel/security/apparmor/profiles');
    if (profiles === undefined) return ok('not in this kernel: containers with a profile are refused');
    return new RegExp(`^${defaultAppArmorProfile} `, 'm').test(profiles)
      ? ok(`profile ${defaultAppArmorProfile} is loaded`)
      : warning(
          `profile ${defaultAppArmorProfile} is not loaded: containers run without a profile, and containers with RuntimeDefault are refused`,
          `apparmor_parser --replace ${deployed(`deploy/apparmor/${defaultAppArmorProfile}`, `/etc/apparmor.d/${defaultAppArmorProfile}`)}`,
        );
  },
};

const bridgeModule: Check = {
  id: 'kernel.modules',
  title: 'Kernel modules',
  run(host) {
    const missing = ['bridge', 'br_netfilter'].filter((name) => !host.exists(`/sys/module/${name}`));
    return missing.length
      ? missing.flatMap((name) =>
          warning(
            `${name} is not loaded: ${name === 'bridge' ? 'bridged pod networks load it on demand' : 'services do not reach pods on the same bridge'}`,
            persist('modules-load.d', name),
          ),
        )
      : ok('bridge, br_netfilter');
  },
};

const sysctls: readonly {
  readonly name: string;
  readonly fits: (value: number) => boolean;
  readonly wanted: string;
  readonly why: string;
}[] = [
  {
    name: 'net.ipv4.ip_forward',
    fits: (value) => value === 1,
    wanted: '1',
    why: 'pods cannot reach other hosts',
  },
  {
    name: 'net.bridge.bridge-nf-call-iptables',
    fits: (value) => value === 1,
    wanted: '1',
    why: 'services do not reach pods on the same bridge',
  },
  {
    name: 'fs.inotify.max_user_instances',
    fits: (value) => value >= 512,
    wanted: '512',
    why: 'the default of 128 is too low for many pods',
  },
];

const sysctl: Check = {
  id: 'kernel.sysctls',
  title: 'Sysctls',
  run(host) {
    const findings = sysctls.flatMap(({ name, fits, wanted, why }): Finding[] => {
      const text = host.read(`/proc/sys/${name.replaceAll('.', '/')}`);
      if (text === undefined || fits(Number(text))) return []; // a missing sysctl belongs to a module, which has its own check
      return warning(`${name} is ${text.trim()}: ${why}`, persist('sysctl.d', `${name}=${wanted}`));
    });
    return findings.length ? findings : ok('as required for pods');
  },
};

const swap: Check = {
  id: 'kernel.swap',
  title: 'Swap',
  run(host) {
    const used = (host.read('/proc/swaps') ?? '')
      .trim()
      .split('\n')
      .slice(1)
      .map((line) => line.split(/\s/)[0]);
    return used.length
      ? warning(
          `swap is on (${used.join(', ')}): a kubelet refuses to start unless failSwapOn is false`,
          'swapoff -a  # and remove it from /etc/fstab',
        )
      : ok('off');
  },
};

const propagation: Check = {
  id: 'kernel.propagation',
  title: 'Mount propagation',
  run(host) {
    const line = (host.read('/proc/self/mountinfo') ?? '')
      .split('\n')
      .findLast((candidate) => candidate.split(' ')[4] === '/');
    return line?.includes(' shared:')
      ? ok('/ is shared')
      : warning(
          '/ is not shared: volumes with mountPropagation are refused, and later mounts are not visible in containers',
          'mount --make-rshared /',
        );
  },
};

export const kernelChecks: readonly Check[] = [
  root,
  release,
  namespaces,
  overlay,
  seccomp,
  apparmor,
  bridgeModule,
  sysctl,
  swap,
  propagation,
];
