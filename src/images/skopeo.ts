// Runs skopeo for one copy: with a home of its own and the credentials and
// settings of the host; watches its progress and maps its errors. Called by
// pull.ts.
import { symlinkSync } from 'node:fs';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { Writable } from 'node:stream';
import type { Config } from '../config/config.js';
import { CrispError } from '../errors.js';
import { makeFolder, readText } from '../host/files.js';
import { CommandError, run, runStreaming } from '../host/run.js';
import { step } from '../steps.js';
import { isLoopback } from './references.js';
import { isConfigured } from './registries-conf.js';
import { explain } from './skopeo-errors.js';
import { toolEnvironment } from './tool-environment.js';

/** The source of an image. */
export interface Source {
  /** TRANSPORT:DETAILS, see containers-transports(5). */
  readonly reference: string;
  readonly authFile?: string | undefined;
}

export interface SkopeoOptions {
  /** For errors: "pull of NAME". */
  readonly what: string;
  /** Folder for downloads and its home; the caller makes and removes it. */
  readonly folder: string;
  /** A file that is locked (shared) during a copy. */
  readonly lock: string;
  readonly config: Config['images'];
  readonly signal?: AbortSignal | undefined;
}

const stage = 'pull image';

/** Runs skopeo(1). */
export class Skopeo {
  private readonly home: string;

  constructor(private readonly options: SkopeoOptions) {
    const { folder, config } = options;
    this.home = join(folder, 'home');
    // skopeo reads .config/containers/certs.d first: there is no option for such a folder, and --src-cert-dir
    // accepts the files of one host only.
    const settings = join(this.home, '.config', 'containers');
    makeFolder(settings);
    if (config.certs_dir) symlinkSync(config.certs_dir, join(settings, 'certs.d'));
  }

  /**
   * Copies an image.
   * @param words more arguments of `skopeo copy`
   * @param policy containers-policy.json(5) to use instead of the host's
   */
  async copy(
    source: Source,
    destination: string,
    words: readonly string[] = [],
    policy = this.options.config.signature_policy,
  ): Promise<void> {
    const { reference, authFile } = source;
    const credentials = authFile
      ? ['--src-authfile', authFile]
      : isRegistry(source)
        ? ['--src-no-creds']
        : [];
    await this.orPlainHttp(source, () =>
      this.stream([
        ...this.general(policy),
        'copy',
        '--quiet',
        ...credentials,
        ...words,
        reference,
        destination,
      ]),
    );
  }

  /** A manifest or index of a registry, unchanged. */
  async inspect(source: Source): Promise<string> {
    const { config, signal } = this.options;
    const { reference, authFile } = source;
    return this.orPlainHttp(source, async () => {
      try {
        const { stdout } = await run(
          [
            'skopeo',
            ...this.general(config.signature_policy),
            'inspect',
            '--raw',
            ...(authFile ? ['--authfile', authFile] : ['--no-creds']),
            reference,
          ],
          {
            timeoutMs: config.pull_progress_timeout_seconds * 1000,
            stage,
            env: this.environment(),
            signal,
            maxOutputBytes: 4 << 20,
          },
        );
        return stdout;
      } catch (error) {
        throw this.inOurWords(error);
      }
    });
  }

  private general(policy: string): string[] {
    const { config, folder } = this.options;
    return [
      ...(policy ? ['--policy', policy] : []),
      // Only later versions of skopeo have the environment variable of this name; all have the flag, which is
      // not in the help.
      ...(config.registries_conf ? ['--registries-conf', config.registries_conf] : []),
      '--tmpdir',
      folder,
    ];
  }

  /**
   * A registry on this machine needs no TLS and no configuration, as with
   * containerd and CRI-O: its traffic does not leave the machine. This is
   * configured for skopeo by an entry for this host alone, and only after it has
   * answered in plain HTTP: a certificate that it presents is verified.
   */
  private async orPlainHttp<T>({ reference }: Source, work: () => Promise<T>): Promise<T> {
    try {
      return await work();
    } catch (error) {
      if (!(error instanceof CrispError) || !/server gave HTTP response to HTTPS client/.test(error.message))
        throw error;
      const host = /^docker:\/\/(\[[^\]]*\]|[^/:]+)/.exec(reference)?.[1] ?? '';
      if (!isLoopback(host) || (await isConfigured(host, this.options.config.registries_conf))) throw error;
      const folder = join(this.home, '.config', 'containers', 'registries.conf.d');
      makeFolder(folder);
      await writeFile(join(folder, 'loopback.conf'), `[[registry]]\nlocation = "${host}"\ninsecure = true\n`);
      return work();
    }
  }

  private environment(): Record<string, string> {
    return { ...toolEnvironment(process.env, this.options.config.environment), HOME: this.home };
  }

  private inOurWords(error: unknown, said = ''): unknown {
    return error instanceof CommandError && error.id === 'RuntimeFailed'
      ? explain(this.options.what, said || error.stderr || error.message)
      : error;
  }

  private async stream(args: readonly string[]): Promise<void> {
    const { what, lock, config, signal } = this.options;
    const patience = config.pull_progress_timeout_seconds;
    const stall = new AbortController();
    let said = '';
    const stderr = new Writable({
      write(chunk: Buffer, _encoding, done) {
        said = (said + chunk.toString()).slice(-8192);
        done();
      },
    });
    const running = await runStreaming(
      ['setpriv', '--pdeathsig', 'TERM', 'flock', '--shared', '--no-fork', lock, 'skopeo', ...args],
      { stderr },
      {
        timeoutMs: 0,
        stage,
        env: this.environment(),
        signal: signal ? AbortSignal.any([signal, stall.signal]) : stall.signal,
      },
    );
    const watch = watchProgress(running.pid, patience * 1000, () => stall.abort());
    try {
      await step('pull image: copy', () => running.ended, { hasOwnLimit: true });
    } catch (error) {
      if (stall.signal.aborted)
        throw new CrispError('PullStalled', `${what} made no progress for ${patience} s`, {
          stage,
          tool: 'skopeo',
        });
      throw this.inOurWords(error, said);
    } finally {
      watch.stop();
    }
  }
}

function isRegistry({ reference }: Source): boolean {
  return reference.startsWith('docker:');
}

/**
 * Calls `stalled` when the process has transferred (almost) no bytes for `timeoutMs`: /proc/PID/io counts
 * sockets and files.
 */
function watchProgress(pid: number | undefined, timeoutMs: number, stalled: () => void): { stop(): void } {
  const intervalMs = Math.min(5_000, timeoutMs / 4);
  let last = 0;
  let movedAt = performance.now();
  const timer = setInterval(
    () =>
      void (async () => {
        const text = await readText(`/proc/${pid}/io`).catch(() => '');
        const bytes = [...text.matchAll(/^[rw]char: (\d+)/gm)].reduce(
          (sum, [, count]) => sum + Number(count),
          0,
        );
        if (bytes > last + noiseBytes) {
          last = bytes;
          movedAt = performance.now();
        }
        if (performance.now() - movedAt >= timeoutMs) {
          clearInterval(timer);
          stalled();
        }
      })(),
    intervalMs,
  );
  return { stop: () => clearInterval(timer) };
}
/** A waiting Go program still transfers a few bytes for its own timers. */
const noiseBytes = 512;
