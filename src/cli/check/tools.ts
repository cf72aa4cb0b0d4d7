// Checks of the programs that crisp runs.
import { failure, ok, warning, type Check, type Finding, type Host } from './check.js';

interface Tool {
  readonly name: string;
  /** Debian's package. */
  readonly package: string;
  /** The features that need it; absent: everything. */
  readonly without?: string;
  /** Arguments to print its version. */
  readonly version?: readonly string[];
}

export const tools: readonly Tool[] = [
  { name: 'conmon', package: 'conmon', version: ['--version'] },
  {
    name: 'skopeo',
    package: 'skopeo',
    version: ['--version'],
    without: 'images cannot be pulled, imported or removed',
  },
  {
    name: 'containers-storage',
    package: 'containers-storage',
    without: 'layers of removed images and of interrupted pulls are left on disk',
  },
  { name: 'flock', package: 'util-linux', version: ['--version'], without: 'images cannot be pulled' },
  { name: 'setpriv', package: 'util-linux', version: ['--version'], without: 'images cannot be pulled' },
  {
    name: 'unshare',
    package: 'util-linux',
    version: ['--version'],
    without: 'pods with a user namespace cannot run',
  },
  {
    name: 'nsenter',
    package: 'util-linux',
    version: ['--version'],
    without: 'pods with a user namespace cannot set sysctls',
  },
  {
    name: 'sysctl',
    package: 'procps',
    version: ['--version'],
    without: 'pods with a user namespace cannot set sysctls of their ipc namespace',
  },
  {
    name: 'perl',
    package: 'perl-base',
    without: 'attach, exec with a terminal and CTs do not work',
  },
  {
    name: 'catatonit',
    package: 'catatonit',
    version: ['--version'],
    without: 'pods with shareProcessNamespace cannot run',
  },
  {
    name: 'iptables',
    package: 'iptables',
    version: ['--version'],
    without: 'the CNI plugin portmap (hostPort) does not work with its iptables backend',
  },
  { name: 'criu', package: 'criu', version: ['--version'], without: 'containers cannot be checkpointed' },
];

const folders = ['/usr/local/sbin', '/usr/local/bin', '/usr/sbin', '/usr/bin', '/sbin', '/bin'];

/** Searches the tools' own PATH. */
export function findTool(host: Host, name: string): string | undefined {
  return (name.includes('/') ? [name] : folders.map((folder) => `${folder}/${name}`)).find((path) =>
    host.exists(path),
  );
}

async function look(host: Host, tool: Tool): Promise<Finding[]> {
  const path = findTool(host, tool.name);
  if (!path)
    return (tool.without ? warning : failure)(
      `${tool.name} is not installed${tool.without ? `: ${tool.without}` : ''}`,
      `apt install ${tool.package}`,
    );
  if (!tool.version) return ok(path);
  const said = await host.ask([path, ...tool.version]);
  const first = said?.split('\n')[0]?.trim();
  return said === undefined
    ? warning(`${path} does not print its version: is it broken?`, `apt install --reinstall ${tool.package}`)
    : ok(first?.startsWith(tool.name) ? first : `${path}, ${first}`);
}

export const toolChecks: readonly Check[] = tools.map((tool): Check => ({
  id: `tool.${tool.name}`,
  title: tool.name,
  run: (host, config) => look(host, tool.name === 'conmon' ? { ...tool, name: config.runtime.conmon } : tool),
}));
