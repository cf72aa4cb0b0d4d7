// Checks of a Proxmox VE node, where handlers of type pct make containers.
import type { Config } from '../../config.js';
import { failure, ok, warning, type Check, type Host } from './check.js';
import { findTool } from './tools.js';

/** Only where a handler wants it, or on a Proxmox host. */
export function proxmoxChecks(host: Host, config: Config): readonly Check[] {
  const wanted = Object.values(config.handlers).some(({ type }) => type === 'pct');
  return wanted || host.exists('/etc/pve') ? [tools, idMaps, storages, bridges, quorum] : [];
}

const tools: Check = {
  id: 'proxmox.tools', title: 'Proxmox tools',
  run(host) {
    const missing = ['pct', 'pvesh', 'pvesm'].filter((name) => !findTool(host, name));
    return missing.length ? failure(`not installed: ${missing.join(', ')}`, 'run crisp on a Proxmox VE node, or take the handlers of type pct out of the configuration') : ok('pct, pvesh, pvesm');
  },
};

/** Unprivileged CTs are mapped to 100000..165535 by default. */
const map = /^root:100000:(\d+)$/m;

const idMaps: Check = {
  id: 'proxmox.subuid', title: 'Id ranges of unprivileged CTs',
  run(host) {
    const missing = ['/etc/subuid', '/etc/subgid'].filter((path) => Number(map.exec(host.read(path) ?? '')?.[1] ?? 0) < 65536);
    return missing.length ? failure(`no root:100000:65536 in ${missing.join(' and ')}`, missing.map((path) => `echo root:100000:65536 >> ${path}`).join(' && ')) : ok('root:100000:65536');
  },
};

const storages: Check = {
  id: 'proxmox.storages', title: 'Storages and templates',
  async run(host) {
    const content = async (kind: string): Promise<string[] | undefined> => {
      const said = await host.ask(['pvesm', 'status', '--content', kind]);
      return said?.trim().split('\n').slice(1).filter((line) => / active /.test(line)).map((line) => line.split(/\s+/)[0] ?? '');
    };
    const [volumes, templates] = [await content('rootdir'), await content('vztmpl')];
    if (!volumes || !templates) return failure('pvesm status does not answer', 'systemctl status pve-cluster pvestatd');
    return [
      ...(volumes.length ? ok(`for volumes of CTs: ${volumes.join(', ')}`) : warning('no active storage takes volumes of CTs (content rootdir)', 'pvesm set local --content rootdir,vztmpl,iso,backup')),
      ...(templates.length ? ok(`for templates: ${templates.join(', ')}`) : warning('no active storage takes templates (content vztmpl)', 'pvesm set local --content rootdir,vztmpl,iso,backup')),
    ];
  },
};

const bridges: Check = {
  id: 'proxmox.bridges', title: 'Bridges',
  run(host) {
    const found = host.list('/sys/class/net').filter((name) => host.exists(`/sys/class/net/${name}/bridge`));
    return found.length ? ok(found.join(', ')) : warning('there is no bridge: CTs with a network of their own need one', 'add vmbr0 to /etc/network/interfaces and run ifreload -a');
  },
};

const quorum: Check = {
  id: 'proxmox.quorum', title: 'Cluster',
  async run(host) {
    if (!host.exists('/etc/pve/corosync.conf')) return ok('a single node');
    const said = await host.ask(['pvecm', 'status']);
    return /^Quorate:\s*Yes/m.test(said ?? '') ? ok('quorate') : failure('the cluster has no quorum: CTs cannot be made or changed', 'pvecm status');
  },
};
