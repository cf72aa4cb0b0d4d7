// Pulls: skopeo copies from a registry (or an archive) into the store, which
// verifies digests and unpacks the layers.  Mirrors, certificates and signature
// policy are the host's own files.  Called by store.ts.
//
//   pull ─┬─► one skopeo per reference ─► store       setpriv: it ends with us
//   pull ─┘   (flock: shared)                         flock: nothing is swept while somebody copies,
//   sweep ──► containers-storage delete-layer               be it another process
//             (flock: exclusive)
import { mkdtemp, stat, statfs, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { Writable } from 'node:stream';
import { setTimeout as delay } from 'node:timers/promises';
import type { Config } from '../config/config.js';
import { CrispError, lastLines, type ErrorId } from '../errors.js';
import { makeFolder, readFileIfThere, readText, remove } from '../host/files.js';
import { CommandError, run, runStreaming } from '../host/run.js';
import { log } from '../log.js';
import { step } from '../steps.js';
import { authFileFor, type RegistryAuth } from './credentials.js';
import type { StorageLayout } from './layout.js';
import { innerIndex, nestedIndex } from './nested-index.js';
import { isLoopback } from './references.js';
import { isConfigured } from './registries-conf.js';
import { toolEnvironment } from './tool-environment.js';

export interface PullsOptions {
  readonly layout: StorageLayout;
  /** The run-time folder of the store. */
  readonly runRoot: string;
  /** Where downloads and credentials are kept while they are needed; FOLDER.lock lies beside it. */
  readonly folder: string;
  readonly config: Config['images'];
}

interface Pull {
  readonly done: Promise<void>;
  readonly stop: AbortController;
  waiting: number;
}
interface Source {
  readonly reference: string;
  readonly authFile?: string | undefined;
}
interface Copy {
  /** For errors: "pull of NAME". */
  readonly what: string;
  readonly name: string;
  source(folder: string): Promise<Source>;
  readonly signal?: AbortSignal;
}

const stage = 'pull image';
/** What comes second waits so long for those who copy; then it leaves the sweeping to a later time. */
const lockTimeoutSeconds = 2;
const sweepTimeoutMs = 120_000;
/** Between two tries of a copy that fetched nothing new. */
const pausesMs = [1_000, 3_000];
const maxLost = 3;
/** The kubelet tries again within 5 minutes (its longest back-off). */
const keepMs = 30 * 60_000;
/** The kubelet removes images when less than 15 % of the disk are free (imageGCHighThresholdPercent). */
const leastFree = 0.2;
/** Else the driver would leave a bind mount of its folder on itself. */
const storageOption = 'overlay.skip_mount_home=true';

export class Pulls {
  private readonly pulls = new Map<string, Pull>();
  private copying = 0;
  private failed = false;
  /** Finished layers of failed pulls -> when they are swept (ms since the epoch). */
  private readonly kept = new Map<string, number>();
  /** containers-storage's name of our store, for skopeo. */
  readonly storage: string;

  constructor(private readonly options: PullsOptions) {
    this.storage = `[overlay@${options.layout.root}+${options.runRoot}:${storageOption}]`;
  }

  /** Whether something is being copied into the store. */
  get busy(): boolean {
    return this.copying > 0;
  }

  /** Removes what pulls that were cut off or have failed left behind. */
  async clean(): Promise<void> {
    this.kept.clear();
    await this.alone([
      'rm',
      '-rf',
      '--one-file-system',
      this.options.folder,
      ...(await this.options.layout.halfWritten()),
    ]);
    await this.sweep();
  }

  /** Pulls `name` or joins the pull of it; it is stopped when nobody waits for it any more. */
  async pull(name: string, auth: RegistryAuth | undefined, signal: AbortSignal | undefined): Promise<void> {
    const key = JSON.stringify([name, auth]);
    const pull = this.pulls.get(key) ?? this.begin(key, name, auth);
    pull.waiting++;
    try {
      await Promise.race([pull.done, aborted(signal)]);
    } finally {
      if (--pull.waiting === 0) {
        pull.stop.abort();
        this.forget(key, pull);
      }
    }
  }

  private begin(key: string, name: string, auth: RegistryAuth | undefined): Pull {
    const stop = new AbortController();
    const done = this.copy({
      what: `pull of ${name}`,
      name,
      source: (folder) => this.registrySource(folder, name, auth),
      signal: stop.signal,
    });
    const pull = { stop, waiting: 0, done };
    this.pulls.set(key, pull);
    done.finally(() => this.forget(key, pull)).catch(() => undefined); // each waiter has it from `done`; there may be none left
    return pull;
  }

  /** From now on, who asks starts anew. */
  private forget(key: string, pull: Pull): void {
    if (this.pulls.get(key) === pull) this.pulls.delete(key);
  }

  private async registrySource(
    folder: string,
    name: string,
    auth: RegistryAuth | undefined,
  ): Promise<Source> {
    const { auth_file: nodeFile } = this.options.config;
    const content = authFileFor(name, auth, nodeFile ? await readFileIfThere(nodeFile) : undefined);
    if (content === undefined) return { reference: `docker://${name}`, authFile: nodeFile };
    const authFile = join(folder, 'auth.json');
    await writeFile(authFile, content, { mode: 0o600 });
    return { reference: `docker://${name}`, authFile };
  }

  /**
   * Copies the image of an OCI archive or layout folder into the store.
   * @param imageName org.opencontainers.image.ref.name, where it holds several
   */
  async import(path: string, name: string, imageName?: string): Promise<void> {
    const transport = (await stat(path)).isDirectory() ? 'oci' : 'oci-archive';
    const reference = `${transport}:${path}${imageName === undefined ? '' : `:${imageName}`}`;
    await this.copy({ what: `import of ${path}`, name, source: async () => ({ reference }) });
  }

  private async copy(copy: Copy): Promise<void> {
    this.copying++;
    try {
      await this.copyWithRetries(copy);
    } catch (error) {
      if ((isPassing(error) || copy.signal?.aborted) && (await this.hasRoom())) await this.keepUnused();
      else if (error instanceof CrispError && error.id === 'DiskFull') this.kept.clear();
      this.failed = true;
      throw error;
    } finally {
      if (--this.copying === 0 && this.failed) await this.sweepQuietly();
    }
  }

  private async copyWithRetries(copy: Copy): Promise<void> {
    let finished = 0;
    for (let tries = 0, lost = 0; ;) {
      try {
        return await this.copyOnce(copy);
      } catch (error) {
        if (!(error instanceof CrispError)) throw error;
        if (lostLayer.test(error.message)) {
          // A layer that it meant to share went with the removal of another image.
          if (++lost > maxLost)
            throw new CrispError('Locked', `${copy.what} failed: its layers were removed again and again`, {
              stage,
              hint: 'pull it again',
            });
          continue;
        }
        if (!isPassing(error)) throw error;
        // Each layer that came is a success: a large image arrives over a bad connection, sooner or later.
        const now = (await this.options.layout.unusedLayers()).length;
        if (now > finished) tries = 0;
        finished = now;
        const pauseMs = pausesMs[tries++];
        if (pauseMs === undefined) throw error;
        log.info({ name: copy.name, error: error.message, pauseMs }, 'pull is tried again');
        await delay(pauseMs, undefined, { signal: copy.signal }).catch(() => {
          throw error; // nobody waits any more
        });
      }
    }
  }

  /** Finished layers of a pull that failed, or that its caller gave up (a kubelet that restarts), are not swept for a while. */
  private async keepUnused(): Promise<void> {
    const until = Date.now() + keepMs;
    for (const id of await this.options.layout.unusedLayers()) this.kept.set(id, until);
    setTimeout(() => {
      this.failed = true;
      if (this.copying === 0) void this.sweepQuietly();
    }, keepMs + 1000).unref();
  }

  /** The kubelet frees disk by removing images; what no image stands on must not be in its way. */
  private async hasRoom(): Promise<boolean> {
    const { bavail, blocks } = await statfs(this.options.layout.root);
    return bavail / blocks > leastFree;
  }

  private async copyOnce(copy: Copy): Promise<void> {
    const { config } = this.options;
    makeFolder(this.options.folder);
    const folder = await mkdtemp(join(this.options.folder, 'p'));
    try {
      const { reference, authFile } = await step('pull image: credentials', () => copy.source(folder));
      const home = await this.home(folder);
      const general = [
        ...(config.signature_policy ? ['--policy', config.signature_policy] : []),
        // The environment variable of this name came with a later skopeo; the flag, which its help hides, is in all.
        ...(config.registries_conf ? ['--registries-conf', config.registries_conf] : []),
        '--tmpdir',
        folder,
      ];
      const fromRegistry = reference.startsWith('docker:');
      const copyFrom = (source: string, name = copy.name): Promise<void> =>
        this.skopeo(copy, home, [
          ...general,
          'copy',
          '--quiet',
          ...(authFile ? ['--src-authfile', authFile] : fromRegistry ? ['--src-no-creds'] : []),
          source,
          `containers-storage:${this.storage}${name}`,
        ]);
      try {
        await copyFrom(reference).catch(async (error: unknown) => {
          if (!(await this.allowPlainHttp(error, reference, home))) throw error;
          await copyFrom(reference);
        });
      } catch (error) {
        if (!fromRegistry || !(error instanceof CrispError) || !nestedIndex.test(error.message)) throw error;
        const { inner, outer } = await innerIndex(copy.name, (source) =>
          this.inspect(copy, home, [
            ...general,
            'inspect',
            '--raw',
            ...(authFile ? ['--authfile', authFile] : ['--no-creds']),
            source,
          ]),
        );
        const name = copy.name.includes('@') ? inner : copy.name; // skopeo compares the digest
        await copyFrom(`docker://${inner}`, name);
        await this.addName(name, outer);
      }
    } finally {
      await step('pull image: clean', () => remove(folder));
    }
  }

  /**
   * A home for skopeo, whose .config/containers/certs.d it looks into first: there
   * is no option for such a folder, --src-cert-dir takes the files of one host.
   */
  private async home(folder: string): Promise<string> {
    const { certs_dir: certsDir } = this.options.config;
    const settings = join(folder, 'home', '.config', 'containers');
    makeFolder(settings);
    if (certsDir) await symlink(certsDir, join(settings, 'certs.d'));
    return join(folder, 'home');
  }

  /**
   * A registry on this machine needs no TLS and no configuration, as with
   * containerd and CRI-O: its bytes leave the machine nowhere.  Said to skopeo by
   * an entry for this host alone, and only once it has answered in plain HTTP: a
   * certificate that it shows is checked.
   * @returns whether there is a reason to try again
   */
  private async allowPlainHttp(error: unknown, reference: string, home: string): Promise<boolean> {
    if (!(error instanceof CrispError) || !/server gave HTTP response to HTTPS client/.test(error.message))
      return false;
    const host = /^docker:\/\/(\[[^\]]*\]|[^/:]+)/.exec(reference)?.[1] ?? '';
    if (!isLoopback(host) || (await isConfigured(host, this.options.config.registries_conf))) return false;
    const folder = join(home, '.config', 'containers', 'registries.conf.d');
    makeFolder(folder);
    await writeFile(join(folder, 'loopback.conf'), `[[registry]]\nlocation = "${host}"\ninsecure = true\n`);
    return true;
  }

  /** A manifest or index of a registry, as it is. */
  private async inspect(copy: Copy, home: string, args: readonly string[]): Promise<string> {
    const { stdout } = await run(['skopeo', ...args], {
      timeoutMs: this.options.config.pull_progress_timeout_seconds * 1000,
      stage,
      env: this.environment(home),
      signal: copy.signal,
      maxOutputBytes: 4 << 20,
      errorId: 'RegistryUnavailable',
    });
    return stdout;
  }

  /** containers-storage(1) on our store. */
  private storageCommand(...words: readonly string[]): [string, ...string[]] {
    const { layout, runRoot } = this.options;
    return [
      'containers-storage',
      ...['--graph', layout.root],
      ...['--run', runRoot],
      ...['--storage-driver', 'overlay'],
      ...['--storage-opt', storageOption],
      ...words,
    ];
  }

  private async addName(name: string, more: string): Promise<void> {
    await run(this.storageCommand('add-names', '--name', more, name), {
      timeoutMs: sweepTimeoutMs,
      stage,
      errorId: 'StorageFailed',
    });
  }

  private environment(home: string): Record<string, string> {
    return { ...toolEnvironment(process.env, this.options.config.environment), HOME: home };
  }

  private async skopeo({ what, signal }: Copy, home: string, args: readonly string[]): Promise<void> {
    const { pull_progress_timeout_seconds: patience } = this.options.config;
    const stall = new AbortController();
    let said = '';
    const stderr = new Writable({
      write(chunk: Buffer, _encoding, done) {
        said = (said + chunk.toString()).slice(-8192);
        done();
      },
    });
    const argv = [
      'setpriv',
      '--pdeathsig',
      'TERM',
      'flock',
      '--shared',
      '--no-fork',
      `${this.options.folder}.lock`,
      'skopeo',
      ...args,
    ] as const;
    const running = runStreaming(
      argv,
      { stderr },
      {
        timeoutMs: 0,
        stage,
        env: this.environment(home),
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
      throw error instanceof CommandError && error.id === 'RuntimeFailed'
        ? explain(what, said || error.message)
        : error;
    } finally {
      watch.stop();
    }
  }

  private async sweepQuietly(): Promise<void> {
    await this.sweep().catch((error: unknown) =>
      log.error({ err: error }, 'layers of a failed pull not removed'),
    );
  }

  /** Removes the layers that no image stands on. Not while we copy: a copy's layers have no image yet. */
  private async sweep(): Promise<void> {
    this.failed = false;
    const { layout } = this.options;
    const all = await layout.unusedLayers();
    for (const [id, until] of this.kept) if (until <= Date.now() || !all.includes(id)) this.kept.delete(id);
    const unused = all.filter((id) => !this.kept.has(id));
    if (unused.length === 0) return;
    // It may fail for one that is gone already: opening the store removes what was half unpacked.
    await step('pull image: sweep', () => this.alone(this.storageCommand('delete-layer', ...unused)));
    const left = (await layout.unusedLayers()).filter((id) => unused.includes(id));
    this.failed = left.length > 0;
    log.info({ layers: unused, left }, 'layers of a failed pull removed');
  }

  /** Runs a command while nobody copies, in any process. Where somebody does for too long, it is not run. */
  private async alone(argv: readonly [string, ...string[]]): Promise<void> {
    await run(
      ['flock', '--timeout', String(lockTimeoutSeconds), '--no-fork', `${this.options.folder}.lock`, ...argv],
      { timeoutMs: sweepTimeoutMs, okExitCodes: 'any', stage: 'clean up after pulls' },
    );
  }
}

/** What skopeo's words mean. The first that matches decides: a denied request often says "not found" as well. */
const meanings: readonly [RegExp, ErrorId][] = [
  [/no space left on device|disk quota exceeded/i, 'DiskFull'],
  [/failed to execute/, 'ToolMissing'],
  [/invalid reference format/, 'InvalidArgument'],
  [/error loading trust policy|loading registries configuration|authfile/i, 'InvalidConfigFile'],
  [
    /source image rejected|rejected by policy|signature (was|is) required|invalid signature/i,
    'SignatureValidationFailed',
  ],
  [
    /unauthorized|authentication required|access to the resource is denied|denied:|403 \(Forbidden\)|invalid username\/password|unable to retrieve auth token/i,
    'RegistryDenied',
  ],
  [
    /manifest unknown|name unknown|404 \(?Not Found|no image found in (manifest list|image index)|does not exist/i,
    'NotFoundInRegistry',
  ],
  [
    /parsing image configuration|exceeded maximum allowed size|parsing manifest|digest did not match|does not match (expected|provided)|digest mismatch|untarring file|error (processing|unpacking|applying) .*(tar|layer)|invalid (checksum|tar header)|(gzip|zstd|flate|magic number).*(invalid|corrupt|mismatch)/i,
    'ImageCorrupt',
  ],
  [
    /connection (refused|reset)|no such host|name resolution|i\/o timeout|timed? ?out|no route to host|network is unreachable|server misbehaving|EOF|tls:|x509|server gave HTTP response|toomanyrequests|too many requests|invalid status code|unexpected HTTP status|invalid character .* looking for/i,
    'RegistryUnavailable',
  ],
];
const lostLayer = /locating layer for blob|layer not known|parent layer/;

/** skopeo's last words -> an error of the catalogue. */
export function explain(what: string, stderr: string): CrispError {
  const fatal = /level=fatal msg="(.*)"/.exec(stderr)?.[1]?.replaceAll('\\"', '"');
  const words = fatal ?? stderr;
  const id = meanings.find(([pattern]) => pattern.test(words))?.[1] ?? 'StorageFailed';
  return new CrispError(id, `${what} failed: ${lastLines(words, 400)}`, { stage, tool: 'skopeo' });
}

/** Whether the same pull may succeed a moment later: 429, 5xx, cut and stalled connections. Not a name that DNS does not know. */
function isPassing(error: unknown): boolean {
  if (!(error instanceof CrispError)) return false;
  if (error.id === 'PullStalled') return true;
  return (
    error.id === 'RegistryUnavailable' && passing.test(error.message) && !/\blookup /.test(error.message)
  );
}
const passing =
  /\b(429|50[0-4])\b|too ?many ?requests|connection reset|broken pipe|EOF|i\/o timeout|timed out|TLS handshake timeout|timeout (awaiting|exceeded)|http2:/i;

/** Calls `stalled` when the process has moved (almost) no bytes for `timeoutMs`: /proc/PID/io counts sockets and files. */
function watchProgress(pid: number | undefined, timeoutMs: number, stalled: () => void): { stop(): void } {
  const intervalMs = Math.min(5_000, timeoutMs / 4);
  let last = 0;
  let movedAt = Date.now();
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
          movedAt = Date.now();
        }
        if (Date.now() - movedAt >= timeoutMs) {
          clearInterval(timer);
          stalled();
        }
      })(),
    intervalMs,
  );
  return { stop: () => clearInterval(timer) };
}
/** A waiting Go program still moves a few bytes for its own timers. */
const noiseBytes = 512;

function aborted(signal: AbortSignal | undefined): Promise<never> {
  return new Promise((_, reject) => {
    const fail = (): void => reject(new CrispError('Cancelled', 'the caller went away during the pull'));
    if (signal?.aborted) fail();
    else signal?.addEventListener('abort', fail, { once: true });
  });
}
