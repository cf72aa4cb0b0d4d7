// `crisp serve`: configuration and signals for the daemon.
import { loadConfig, type Config } from '../config/config.js';
import { CrispError } from '../errors.js';
import { log } from '../log.js';

const endSignals = ['SIGTERM', 'SIGINT'] as const;
/**
 * From the first signal to the exit: calls have 8 s and streaming sessions 6 s (cri/serve.ts,
 * streaming/server.ts). systemd kills after 90 s.
 */
const endPatienceMs = 20_000;

export interface ServeFlags {
  readonly config: string | undefined;
  readonly listen: string | undefined;
  readonly root: string | undefined;
  readonly state: string | undefined;
  readonly 'log-level': string | undefined;
}

export async function serveDaemon(flags: ServeFlags): Promise<number> {
  const read = (): Config =>
    loadConfig(flags.config, {
      listen: flags.listen,
      root: flags.root,
      state: flags.state,
      log_level: flags['log-level'] as Config['log_level'] | undefined,
    });
  if (process.geteuid?.() !== 0)
    throw new CrispError(
      'PermissionDenied',
      'the daemon needs root: it makes namespaces, mounts and cgroups',
      {
        hint: 'run it with sudo, or as the service: `sudo systemctl start crisp`',
      },
    );
  const config = read(); // mistakes in it are reported before anything is loaded
  const stop = new AbortController();
  const end = (): void => {
    for (const signal of endSignals) process.off(signal, end); // the next one ends the process at once
    stop.abort();
    setTimeout(() => {
      log.error({ afterMs: endPatienceMs }, 'crisp exits with unfinished work; the next start cleans it up');
      process.exit(1);
    }, endPatienceMs).unref();
  };
  for (const signal of endSignals) process.on(signal, end);
  const { serve } = await import('../daemon.js');
  await serve(config, read, stop.signal);
  return process.exit(0); // unfinished calls would keep the process running: the next start cleans up
}
