// Checks of the pod network: conflists and plugins.
import { join } from 'node:path';
import { toCrispError } from '../../errors.js';
import { deployed } from '../../installed.js';
import { parseConflist } from '../../network/conflist.js';
import { failure, ok, warning, type Check, type Finding, type Host } from './check.js';

function conflists(host: Host, folder: string): string[] {
  return host
    .list(folder)
    .filter((name) => /\.(conflist|conf|json)$/.test(name))
    .sort()
    .map((name) => join(folder, name));
}

const example = deployed('deploy/cni/10-crisp.conflist', '/usr/share/crisp/cni/10-crisp.conflist');

const conflist: Check = {
  id: 'cni.config',
  title: 'CNI configuration',
  run(host, { network }) {
    const files = conflists(host, network.conf_dir);
    if (files.length === 0)
      return failure(
        `there is no conflist in ${network.conf_dir}: only pods on the host's network can run`,
        `install -D -m 644 -t ${network.conf_dir} ${example}  # or install the network add-on of your cluster`,
      );
    const read = (file: string): Finding[] => {
      try {
        return ok(`${file}: network ${parseConflist(host.read(file) ?? '', file).name}`);
      } catch (error) {
        return failure(toCrispError(error).message, `correct ${file}`);
      }
    };
    const findings = files.flatMap(read);
    const used = findings.findIndex(({ level }) => level === 'ok');
    return findings.map((finding, index) =>
      finding.level === 'ok'
        ? {
            ...finding,
            message: `${finding.message}${index === used ? ', in use' : ', not used: only the first one is used'}`,
          }
        : finding,
    );
  },
};

const plugins: Check = {
  id: 'cni.plugins',
  title: 'CNI plugins',
  run(host, { network }) {
    const wanted = new Set<string>();
    for (const file of conflists(host, network.conf_dir)) {
      try {
        for (const plugin of parseConflist(host.read(file) ?? '', file).plugins) {
          wanted.add(plugin.type);
          const ipam = (plugin['ipam'] as { type?: string } | undefined)?.type;
          if (ipam) wanted.add(ipam);
        }
        break;
      } catch {
        /* reported by the check of the configuration */
      }
    }
    const missing = [...wanted].filter(
      (name) => !network.bin_dirs.some((folder) => host.exists(join(folder, name))),
    );
    if (missing.length)
      return failure(
        `not in ${network.bin_dirs.join(' or ')}: ${missing.join(', ')}`,
        'apt install containernetworking-plugins',
      );
    if (
      wanted.size === 0 &&
      !network.bin_dirs.some(
        (folder) => host.exists(join(folder, 'loopback')) || host.exists(join(folder, 'bridge')),
      )
    ) {
      return warning(
        `no plugins in ${network.bin_dirs.join(' or ')}`,
        'apt install containernetworking-plugins',
      );
    }
    return ok([...wanted].join(', ') || 'the common plugins are installed');
  },
};

export const networkChecks: readonly Check[] = [conflist, plugins];
