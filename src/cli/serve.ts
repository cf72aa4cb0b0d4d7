// `crisp serve`: configuration and signals for the daemon.
import { loadConfig, type Config } from '../config/config.js';

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
  const config = read(); // a mistake in it is told before anything is loaded
  const stop = new AbortController();
  for (const signal of ['SIGTERM', 'SIGINT'] as const) process.once(signal, () => stop.abort());
  const { serve } = await import('../daemon.js');
  await serve(config, read, stop.signal);
  return 0;
}
