// Checks of a Proxmox VE node, where handlers of type pct make containers.
import { join } from 'node:path';
import type { Config } from '../../config/config.js';
import { failure, ok, warning, type Check, type Host } from './check.js';
import { findTool } from './tools.js';

/** Only if a handler needs it, or on a Proxmox host. */
export function proxmoxChecks(host: Host, config: Config): readonly Check[] {
  const wanted = Object.values(config.handlers).some(({ type }) => type === 'pct');
  return wanted || host.exists('/etc/pve')
    ? [tools, idMaps, pool, storages, bridges, vnets, backups, ha, firewall, quorum]
    : [];
}

const tools: Check = {
  id: 'proxmox.tools',
  title: 'Proxmox tools',
  run(
    host,
    {
      lxc: {
        tools: { pct, pvesh, pvesm, lxc_info: info, lxc_attach: attach },
      },
    },
  ) {
    const wanted = [pct, pvesh, pvesm, info, attach];
    const missing = wanted.filter((name) => !findTool(host, name));
    return missing.length
      ? failure(
          `not installed: ${missing.join(', ')}`,
          'run crisp on a Proxmox VE node, or remove the handlers of type pct from the configuration',
        )
      : ok(wanted.join(', '));
  },
};

/** Unprivileged CTs are mapped to 100000..165535 by default. */
const map = /^root:100000:(\d+)$/m;

const idMaps: Check = {
  id: 'proxmox.subuid',
  title: 'Id ranges of unprivileged CTs',
  run(host) {
    const missing = ['/etc/subuid', '/etc/subgid'].filter(
      (path) => Number(map.exec(host.read(path) ?? '')?.[1] ?? 0) < 65536,
    );
    return missing.length
      ? failure(
          `no root:100000:65536 in ${missing.join(' and ')}`,
          missing.map((path) => `echo root:100000:65536 >> ${path}`).join(' && '),
        )
      : ok('root:100000:65536');
  },
};

/** Of user.cfg: "pool:NAME:COMMENT:GUESTS:STORAGES:" (PVE::AccessControl). */
const pool: Check = {
  id: 'proxmox.pool',
  title: 'Pool',
  run(host, { lxc }) {
    if (lxc.pool === '') return [];
    const known = [...(host.read(join(lxc.pve_folder, 'user.cfg')) ?? '').matchAll(/^pool:([^:\n]+):/gm)].map(
      ([, name]) => name,
    );
    return known.includes(lxc.pool)
      ? ok(lxc.pool)
      : failure(`lxc.pool is ${lxc.pool}, which does not exist`, `pvesh create /pools --poolid ${lxc.pool}`);
  },
};

const storages: Check = {
  id: 'proxmox.storages',
  title: 'Storages and templates',
  async run(host, { lxc }) {
    const { pvesm } = lxc.tools;
    if (!findTool(host, pvesm)) return []; // reported by the check of the tools
    const content = async (kind: string): Promise<string[] | undefined> => {
      const said = await host.ask([pvesm, 'status', '--content', kind]);
      return said
        ?.trim()
        .split('\n')
        .slice(1)
        .filter((line) => / active /.test(line))
        .map((line) => line.split(/\s+/)[0] ?? '');
    };
    const [volumes, templates] = [await content('rootdir'), await content('vztmpl')];
    if (!volumes || !templates)
      return failure('pvesm status does not answer', 'systemctl restart pve-cluster pvestatd');
    const { storage } = lxc.rootfs;
    const kept = await Promise.all(
      templates.map(
        async (name) =>
          `${name} (${((await host.ask([pvesm, 'list', name, '--content', 'vztmpl'])) ?? '').trim().split('\n').slice(1).length})`,
      ),
    );
    return [
      ...(storage && !volumes.includes(storage)
        ? failure(
            `lxc.rootfs.storage is ${storage}, which is not an active storage for volumes of CTs`,
            volumes[0]
              ? `set lxc.rootfs.storage to one of: ${volumes.join(', ')}`
              : withContent(host, lxc.pve_folder, 'rootdir'),
          )
        : []),
      ...(volumes.length
        ? ok(`for volumes of CTs: ${volumes.join(', ')}`)
        : warning(
            'no active storage accepts volumes of CTs (content rootdir)',
            withContent(host, lxc.pve_folder, 'rootdir'),
          )),
      ...(templates.length
        ? ok(`for templates, with their number: ${kept.join(', ')}`)
        : warning(
            'no active storage accepts templates (content vztmpl)',
            withContent(host, lxc.pve_folder, 'vztmpl'),
          )),
    ];
  },
};

/** pvesm sets the complete list of content types, so it must include the existing ones. */
function withContent(host: Host, pveFolder: string, kind: string): string {
  const [, name, keys = ''] =
    /^dir: (\S+)\n((?:[ \t].*\n?)*)/m.exec(host.read(join(pveFolder, 'storage.cfg')) ?? '') ?? [];
  if (!name) return `pvesm add dir crisp --path /var/lib/crisp-storage --content ${kind}`;
  return `pvesm set ${name} --content ${[/^\s+content (\S+)/m.exec(keys)?.[1], kind].filter(Boolean).join(',')}`;
}

const bridges: Check = {
  id: 'proxmox.bridges',
  title: 'Bridges',
  run(host, { lxc: { network, bridge } }) {
    const found = host.list('/sys/class/net').filter((name) => host.exists(`/sys/class/net/${name}/bridge`));
    if (network === 'bridge' && !found.includes(bridge.name))
      return failure(
        `lxc.bridge.name is ${bridge.name}, which is not a bridge of this node`,
        found[0]
          ? `set lxc.bridge.name to one of: ${found.join(', ')}`
          : `add ${bridge.name} to /etc/network/interfaces and run ifreload -a`,
      );
    return found.length
      ? ok(found.join(', '))
      : warning(
          'there is no bridge: CTs with a network of their own need one',
          `add ${bridge.name} to /etc/network/interfaces and run ifreload -a`,
        );
  },
};

/** Sections of a file of PVE: "TYPE: NAME", then a line "KEY VALUE" each (PVE::SectionConfig). */
function sections(text: string | undefined): { type: string; name: string; keys: Map<string, string> }[] {
  return [...(text ?? '').matchAll(/^(\S+): *(\S+)\n((?:[ \t].*(?:\n|$))*)/gm)].map(
    ([, type = '', name = '', body = '']) => ({
      type,
      name,
      keys: new Map(
        [...body.matchAll(/^\s+(\S+)(?: +(.*?))?\s*$/gm)].map(([, key = '', value = '']) => [key, value]),
      ),
    }),
  );
}

/** After SDN changes are applied, each vnet is a bridge of the same name on the node. */
const vnets: Check = {
  id: 'proxmox.sdn',
  title: 'Vnets',
  run(host, { lxc }) {
    const names = sections(host.read(join(lxc.pve_folder, 'sdn/vnets.cfg')))
      .filter(({ type }) => type === 'vnet')
      .map(({ name }) => name);
    const absent = names.filter((name) => !host.exists(`/sys/class/net/${name}/bridge`));
    return absent.length
      ? warning(
          `not on this node, so no bridge for a pod: ${absent.join(', ')}`,
          'pvesh set /cluster/sdn  # applies them; a zone may also leave this node out',
        )
      : names.length
        ? ok(names.join(', '))
        : [];
  },
};

/** A job for all guests would also stop or lock CTs of pods. */
const backups: Check = {
  id: 'proxmox.backups',
  title: 'Backup jobs',
  run(host, { lxc }) {
    const jobs = sections(host.read(join(lxc.pve_folder, 'jobs.cfg'))).filter(
      ({ type, keys }) => type === 'vzdump' && keys.get('enabled') !== '0',
    );
    const { first, last } = lxc.vmid_range;
    const isOurs = (id: string): boolean => Number(id) >= first && Number(id) <= last;
    const taking = jobs.flatMap(({ name, keys }) => {
      const ids = (keys.get('vmid') ?? '').split(',').filter(Boolean);
      const [ours, others] = [ids.filter(isOurs), ids.filter((id) => !isOurs(id))];
      const byPool = '--all 0 --pool POOL  # one of the guests that are to be saved, and not lxc.pool';
      if (keys.get('all') === '1') return [{ name, why: 'all guests', change: byPool }];
      if (lxc.pool !== '' && keys.get('pool') === lxc.pool)
        return [{ name, why: `pool ${lxc.pool}`, change: byPool }];
      if (ours.length === 0) return [];
      return [
        { name, why: ours.join(', '), change: others.length ? `--vmid ${others.join(',')}` : '--enabled 0' },
      ];
    });
    return taking.length
      ? taking.flatMap(({ name, why, change }) =>
          warning(
            `the backup job ${name} includes the CTs of pods (${why})`,
            `pvesh set /cluster/backup/${name} ${change}`,
          ),
        )
      : ok(jobs.length ? 'none includes CTs of pods' : 'there is none');
  },
};

/** The HA manager would start a CT on another node, which does not have its root filesystem. */
const ha: Check = {
  id: 'proxmox.ha',
  title: 'HA resources',
  run(host, { lxc }) {
    const { first, last } = lxc.vmid_range;
    const ours = sections(host.read(join(lxc.pve_folder, 'ha/resources.cfg'))).filter(
      ({ type, name }) => type === 'ct' && Number(name) >= first && Number(name) <= last,
    );
    return ours.length
      ? ours.flatMap(({ name }) =>
          warning(
            `CT ${name}, of lxc.vmid_range, is managed by the HA manager`,
            `ha-manager remove ct:${name}`,
          ),
        )
      : ok('none of lxc.vmid_range');
  },
};

/** Without rules PVE's firewall drops incoming packets. */
const firewall: Check = {
  id: 'proxmox.firewall',
  title: 'PVE firewall',
  run(host, { lxc }) {
    const text = host.read(join(lxc.pve_folder, 'firewall/cluster.fw')) ?? '';
    if (!/^enable:\s*1\s*$/m.test(text)) return ok('off');
    return /^(IN|GROUP)\b.*\b10250\b/m.test(text) || /^policy_in:\s*ACCEPT\s*$/m.test(text)
      ? ok('on, with a rule for port 10250')
      : warning(
          "on, and the datacenter's rules do not include the kubelet's port 10250: logs, exec and metrics may be blocked",
          'pvesh create /cluster/firewall/rules --type in --action ACCEPT --proto tcp --dport 10250 --enable 1',
        );
  },
};

const quorum: Check = {
  id: 'proxmox.quorum',
  title: 'Cluster',
  async run(host) {
    if (!host.exists('/etc/pve/corosync.conf')) return ok('a single node');
    const said = await host.ask(['pvecm', 'status']);
    return /^Quorate:\s*Yes/m.test(said ?? '')
      ? ok('quorate')
      : failure(
          'the cluster has no quorum: CTs cannot be made or changed',
          'pvecm expected 1  # only if the other nodes are gone permanently; otherwise bring them back',
        );
  },
};
