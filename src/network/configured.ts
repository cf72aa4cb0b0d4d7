// The network in use: the first valid configuration of the CNI folder, updated
// when the folder changes, and whether its plugins are ready for pods. Called
// by cni.ts.
import { CrispError } from '../errors.js';
import { log } from '../log.js';
import { atLeast, findNetwork, pluginInput, type NetworkConfig } from './conflist.js';
import { FolderWatch } from './folder-watch.js';
import type { Plugins } from './plugins.js';

/** The CNI configuration in use, read again when its folder changes. */
export class ConfiguredNetwork {
  /** undefined: there is no valid configuration. */
  network: NetworkConfig | undefined;
  /** Why the network is not ready, as a message; empty if it is ready. */
  problem = 'the CNI configuration is not loaded yet';
  /** The hint if there are configurations, but none is valid. */
  hint: string | undefined;

  private readonly watch: FolderWatch;
  /** File and text of the last check, to detect changes. */
  private seen = '';
  private loading: Promise<void> | undefined;
  private again = false;

  constructor(
    private readonly confDir: string,
    private readonly plugins: Plugins,
  ) {
    this.watch = new FolderWatch(confDir, () => void this.load());
  }

  /** Stops watching the folder. */
  close(): void {
    this.watch.close();
  }

  /**
   * Reads the folder and calls STATUS of the plugins. Never throws. A call during a check makes it run once
   * more.
   */
  load(): Promise<void> {
    this.again = true;
    return (this.loading ??= this.lookWhileAsked());
  }

  private async lookWhileAsked(): Promise<void> {
    while (this.again) {
      this.again = false;
      const before = this.problem;
      this.problem = await this.look().catch((error: Error) => error.message);
      if (this.problem === before) continue;
      if (this.problem) log.warn({ problem: this.problem }, 'the pod network is not ready');
      else log.info({ network: this.network?.name }, 'the pod network is ready');
    }
    this.loading = undefined;
  }

  /** @returns the problem; empty if there is none */
  private async look(): Promise<string> {
    this.watch.arm();
    const found = await findNetwork(this.confDir);
    if (!found.network) {
      this.network = undefined;
      const [first] = found.problems;
      this.hint = first === undefined ? undefined : 'correct the file that the message names';
      return first === undefined
        ? `no CNI configuration in ${this.confDir}`
        : `no valid CNI configuration in ${this.confDir}: ${found.problems.join('; ')}`;
    }
    this.hint = undefined;
    const seen = `${found.file}\n${found.text}`;
    if (!this.network || seen !== this.seen || this.problem) {
      this.plugins.forget();
      this.network = found.network;
      this.network = await this.agree(found.network);
      this.seen = seen;
    }
    if (atLeast(this.network, '1.1.0')) {
      for (const plugin of this.network.plugins)
        await this.plugins.call('STATUS', plugin.type, pluginInput(this.network, plugin));
    }
    return '';
  }

  /** The network in the newest version that it offers and all its plugins support. */
  private async agree(network: NetworkConfig): Promise<NetworkConfig> {
    const types = [...new Set(network.plugins.map((plugin) => plugin.type))];
    const spoken = await Promise.all(
      types.map(async (type) => {
        const answer = await this.plugins.call(
          'VERSION',
          type,
          JSON.stringify({ cniVersion: network.cniVersion }),
        );
        return (answer as { supportedVersions?: readonly string[] } | undefined)?.supportedVersions ?? [];
      }),
    );
    const cniVersion = network.offered.findLast((version) =>
      spoken.every((versions) => versions.includes(version)),
    );
    if (cniVersion) return { ...network, cniVersion };
    const lacking = types.filter(
      (_, index) => !network.offered.some((version) => spoken[index]?.includes(version)),
    );
    throw new CrispError(
      'CniConfigInvalid',
      `network ${network.name} is of CNI version ${network.offered.join(' or ')}, which ${lacking.join(', ') || 'its plugins together'} cannot use`,
      { stage: 'cni config' },
    );
  }
}
