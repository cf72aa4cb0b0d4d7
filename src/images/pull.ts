// Pulls: skopeo copies from a registry (or an archive) into the store, verifies digests and unpacks
// the layers.  Mirrors, certificates and signature policy are the host's own files.  Called by
// store.ts.
//
//   pull ─┬─► one skopeo per reference ─► store       setpriv: it ends with crisp
//   pull ─┘   (flock: shared)                         flock: no sweep while a process copies,
//   sweep ──► containers-storage delete-layer                also another crisp
//             (flock: exclusive)
//
// Over a bad connection: finished layers stay in the store, and the next attempt fetches blobs one
// by one (staged.ts). Both are kept for half an hour after a failed pull, also over a restart,
// unless disk space is needed.
import { mkdtemp, stat, statfs, symlink, utimes, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import type { Config } from '../config/config.js';
import { CrispError } from '../errors.js';
import { makeFolder, readFileIfThere, remove } from '../host/files.js';
import { mountsBelow } from '../host/mounts.js';
import { run } from '../host/run.js';
import { unlessAborted } from '../host/wait.js';
import { log } from '../log.js';
import { step } from '../steps.js';
import { authFileFor, type RegistryAuth } from './credentials.js';
import { damageOf } from './damage.js';
import { watchDownload, type PullProgress } from './download.js';
import { overlayMounts, usersOf } from './lost-layers.js';
import { innerIndex, nestedIndex } from './nested-index.js';
import { Skopeo, type Source } from './skopeo.js';
import { isPassing, lostLayer } from './skopeo-errors.js';
import { Staged } from './staged.js';
import { storageCommand, storageName, type StorePlace } from './storage-command.js';
import { SyncedLayers } from './synced-layers.js';

export interface PullsOptions extends StorePlace {
  /** Folder for downloads and credentials during a pull; FOLDER.lock is beside it. */
  readonly folder: string;
  /** Folder of the blobs that are kept for the next attempt, see staged.ts. */
  readonly staged: string;
  /** The note of the layers that are on the disk, see synced-layers.ts. */
  readonly synced: string;
  readonly config: Config['images'];
}

interface Pull {
  readonly name: string;
  readonly done: Promise<void>;
  readonly stop: AbortController;
  waiting: number;
}
interface Copy {
  /** For errors: "pull of NAME". */
  readonly what: string;
  readonly name: string;
  source(folder: string): Promise<Source>;
  readonly fromRegistry: boolean;
  readonly onProgress?: ((progress: PullProgress) => void) | undefined;
  readonly signal?: AbortSignal;
}

/** A layer without an image, blobs that are not in the store yet, or a folder without a layer. */
export interface Leftover {
  readonly kind: 'layer' | 'blobs' | 'folder';
  readonly name: string;
  /** @throws StorageFailed if an image is being pulled */
  readonly remove: () => Promise<void>;
}

const stage = 'pull image';
/** A sweep waits this long for running copies; then it is left to a later time. */
const lockTimeoutSeconds = 2;
const sweepTimeoutMs = 120_000;
/** Pause between two attempts of a copy that made no progress. */
const pausesMs = [1_000, 3_000];
const maxLost = 3;
/**
 * How long finished layers and blobs are kept for the next attempt; the kubelet retries within 5 minutes (its
 * longest back-off).
 */
const keepMs = 30 * 60_000;
/** The kubelet removes images when less than 15 % of the disk are free (imageGCHighThresholdPercent). */
const leastFree = 0.2;

/**
 * Pulls images into the store. Concurrent pulls of one reference with the same credentials share a download.
 */
export class Pulls {
  private readonly pulls = new Map<string, Pull>();
  private copying = 0;
  private failed = false;
  /** Layers that the next attempt cannot use, to be swept at once. */
  private readonly doomed = new Set<string>();
  private readonly staged: Staged;
  private readonly synced: SyncedLayers;
  /** The store's name in containers-storage syntax, for skopeo. */
  readonly storage: string;

  constructor(private readonly options: PullsOptions) {
    this.staged = new Staged(options.staged, options.layout);
    this.synced = new SyncedLayers(options.synced, options.layout);
    this.storage = storageName(options);
  }

  /** The images that are being pulled, and how many callers wait for each. */
  underWay(): { readonly image: string; readonly callers: number }[] {
    return [...this.pulls.values()].map(({ name, waiting }) => ({ image: name, callers: waiting }));
  }

  /** Whether something is being copied into the store. */
  get busy(): boolean {
    return this.copying > 0;
  }

  /** Removes the leftovers of interrupted and failed pulls that the next attempt cannot use. */
  async clean(): Promise<void> {
    const { folder, layout } = this.options;
    const trials = await layout.trialFolders();
    const mounts = await mountsBelow(trials);
    if (mounts.length > 0) await this.alone(['umount', ...mounts]);
    await this.alone(['rm', '-rf', '--one-file-system', folder, ...trials, ...(await layout.halfWritten())]);
    if (!(await this.hasRoom())) await this.doom();
    await this.sweep();
    this.sweepLater();
  }

  /**
   * The layers that a power loss has damaged: they were being pulled before the last reboot. Those that no
   * image uses are removed unseen. noteLayers() is to be called when the others are removed.
   * @returns their ids; undefined: none can be damaged
   */
  async damagedByPowerLoss(): Promise<ReadonlySet<string> | undefined> {
    const doubtful = await this.synced.doubtful();
    if (!doubtful) return undefined;
    const unused = new Set(await this.options.layout.unusedLayers());
    const damaged = new Set<string>();
    for (const layer of doubtful) {
      if (unused.has(layer.id)) this.doomed.add(layer.id);
      else {
        const reason = await damageOf(this.options, layer);
        if (reason === undefined) continue;
        damaged.add(layer.id);
        log.error({ layer: layer.id, reason }, 'layer damaged by a power loss');
      }
    }
    if (this.doomed.size > 0) await this.sweep();
    return damaged;
  }

  /** Flushes the store, and notes that its layers are on the disk. */
  async noteLayers(): Promise<void> {
    await this.synced.flush(this.doomed);
  }

  /** Pulls `name` or joins the pull of it; it is stopped when no caller waits for it any more. */
  async pull(
    name: string,
    auth: RegistryAuth | undefined,
    signal: AbortSignal | undefined,
    onProgress?: (progress: PullProgress) => void,
  ): Promise<void> {
    const key = JSON.stringify([name, auth]);
    const pull = this.pulls.get(key) ?? this.begin(key, name, auth, onProgress);
    pull.waiting++;
    try {
      await unlessAborted(pull.done, signal, 'the caller disconnected during the pull');
    } finally {
      if (--pull.waiting === 0) {
        pull.stop.abort();
        this.forget(key, pull);
      }
    }
  }

  private begin(
    key: string,
    name: string,
    auth: RegistryAuth | undefined,
    onProgress: ((progress: PullProgress) => void) | undefined,
  ): Pull {
    const stop = new AbortController();
    const done = this.copy({
      what: `pull of ${name}`,
      name,
      source: (folder) => this.registrySource(folder, name, auth),
      fromRegistry: true,
      onProgress,
      signal: stop.signal,
    });
    const pull = { name, stop, waiting: 0, done };
    this.pulls.set(key, pull);
    done.finally(() => this.forget(key, pull)).catch(() => undefined); // each waiter gets the error from `done`; there may be none left
    return pull;
  }

  /** The next caller starts a new pull. */
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
   * @param imageName org.opencontainers.image.ref.name, if it holds several
   */
  async import(path: string, name: string, reference: string): Promise<void> {
    await this.copy({
      what: `import of ${path}`,
      name,
      source: async (folder) => {
        if (!path.includes(':')) return { reference };
        const link = join(folder, 'archive'); // skopeo ends a path at its first colon
        await symlink(path, link);
        return { reference: reference.replace(path, () => link) };
      },
      fromRegistry: false,
    });
  }

  private async copy(copy: Copy): Promise<void> {
    this.copying++;
    const before = await this.options.layout.unusedLayers();
    try {
      await this.copyWithRetries(copy);
      await step('pull image: flush', () => this.noteLayers());
    } catch (error) {
      this.failed = true;
      if (!(await this.hasRoom())) await this.doom();
      else if (isPassing(error) || copy.signal?.aborted) await this.keep();
      else {
        await this.doom(before);
        if (copy.fromRegistry) await this.staged.remove(copy.name);
      }
      throw error;
    } finally {
      if (--this.copying === 0 && this.failed) await this.sweepQuietly();
    }
  }

  private async copyWithRetries(copy: Copy): Promise<void> {
    let finished = 0;
    let canBeStaged = copy.fromRegistry;
    let staged = canBeStaged && (await this.staged.has(copy.name));
    for (let tries = 0, lost = 0; ;) {
      try {
        return await this.copyOnce(copy, staged);
      } catch (error) {
        if (!(error instanceof CrispError)) throw error;
        if (lostLayer.test(error.message)) {
          // A layer that it would have shared was removed with another image.
          if (++lost > maxLost)
            throw new CrispError('Locked', `${copy.what} failed: its layers were removed again and again`, {
              stage,
              hint: 'pull it again',
            });
          continue;
        }
        if (!isPassing(error)) {
          if (!staged || copy.signal?.aborted) throw error;
          staged = canBeStaged = false; // a direct copy supports more kinds of images, and its error is reported
          await this.staged.remove(copy.name);
          continue;
        }
        staged = canBeStaged && (await this.hasRoom());
        // Each received layer counts as progress: so a large image can be pulled over a bad connection.
        const now = (await this.options.layout.unusedLayers()).length + (await this.staged.count(copy.name));
        if (now > finished) tries = 0;
        finished = now;
        const pauseMs = pausesMs[tries++];
        if (pauseMs === undefined) throw error;
        log.info({ name: copy.name, error: error.message, pauseMs, staged }, 'retrying the pull');
        await delay(pauseMs, undefined, { signal: copy.signal }).catch(() => {
          throw error; // no caller waits any more
        });
      }
    }
  }

  /**
   * The layers and blobs of a failed pull, or of a pull that its caller cancelled (a restarting kubelet), are
   * kept for a while: the time stamp is the mtime of the folder.
   */
  private async keep(): Promise<void> {
    this.doomed.clear(); // layers of another running pull may be among them
    makeFolder(this.options.staged);
    await utimes(this.options.staged, new Date(), new Date());
    this.sweepLater();
  }

  /** Sweeps unused layers at once; without `spared`, blobs as well. */
  private async doom(spared?: readonly string[]): Promise<void> {
    for (const id of await this.options.layout.unusedLayers()) if (!spared?.includes(id)) this.doomed.add(id);
    if (!spared) await this.alone(['rm', '-rf', '--one-file-system', this.options.staged]);
  }

  private sweepLater(): void {
    setTimeout(() => {
      this.failed = true;
      if (this.copying === 0) void this.sweepQuietly();
    }, keepMs + 1000).unref();
  }

  /** The kubelet frees disk by removing images; unused layers must not take up the space. */
  private async hasRoom(): Promise<boolean> {
    const { bavail, blocks } = await statfs(this.options.layout.root);
    return bavail / blocks > leastFree;
  }

  private async copyOnce(copy: Copy, staged: boolean): Promise<void> {
    makeFolder(this.options.folder);
    const folder = await mkdtemp(join(this.options.folder, 'p'));
    try {
      const source = await step('pull image: credentials', () => copy.source(folder));
      const skopeo = new Skopeo({
        what: copy.what,
        folder,
        lock: `${this.options.folder}.lock`,
        config: this.options.config,
        signal: copy.signal,
      });
      const watch =
        copy.onProgress &&
        watchDownload(
          copy.name,
          [folder, this.staged.path(copy.name)],
          this.options.layout,
          (reference) => skopeo.inspect({ ...source, reference }),
          copy.onProgress,
        );
      try {
        if (staged) await this.staged.copy(skopeo, source, copy.name, this.destination(copy.name), folder);
        else await skopeo.copy(source, this.destination(copy.name));
      } catch (error) {
        if (
          staged ||
          !copy.fromRegistry ||
          !(error instanceof CrispError) ||
          !nestedIndex.test(error.message)
        )
          throw error;
        const { inner, outer } = await innerIndex(copy.name, (reference) =>
          skopeo.inspect({ ...source, reference }),
        );
        const name = copy.name.includes('@') ? inner : copy.name; // skopeo compares the digest
        await skopeo.copy({ ...source, reference: `docker://${inner}` }, this.destination(name));
        await this.addName(name, outer);
      } finally {
        watch?.stop();
      }
    } finally {
      await step('pull image: clean', () => remove(folder));
    }
  }

  private destination(name: string): string {
    return `containers-storage:${this.storage}${name}`;
  }

  private async addName(name: string, more: string): Promise<void> {
    await run(storageCommand(this.options, 'add-names', '--name', more, name), {
      timeoutMs: sweepTimeoutMs,
      stage,
      errorId: 'StorageFailed',
    });
  }

  private async sweepQuietly(): Promise<void> {
    await this.sweep().catch((error: unknown) =>
      log.error({ err: error }, 'layers of a failed pull not removed'),
    );
  }

  /**
   * Removes the layers that no image uses, and the blobs of old pulls. Not during a copy: its layers have no
   * image yet.
   */
  private async sweep(): Promise<void> {
    this.failed = false;
    const { layout } = this.options;
    const expired = Date.now() - keepMs;
    const failedAt = (await stat(this.options.staged).catch(() => undefined))?.mtimeMs ?? 0; // before a removal changes it
    const old = (await this.staged.list()).filter(({ usedAt }) => usedAt < expired);
    if (old.length > 0) await this.alone(['rm', '-rf', '--one-file-system', ...old.map(({ path }) => path)]);
    const layers = await layout.readLayers();
    const unused = (await layout.unusedLayers()).filter((id) => {
      const layer = layers.get(id);
      const created = Date.parse(layer?.created ?? '') || 0;
      return this.doomed.has(id) || layer?.flags?.incomplete || Math.max(failedAt, created) < expired;
    });
    if (unused.length === 0) return;
    // It may fail for a layer that is already gone: opening the store removes incomplete layers.
    await step('pull image: sweep', () =>
      this.alone(storageCommand(this.options, 'delete-layer', ...unused)),
    );
    const left = (await layout.unusedLayers()).filter((id) => unused.includes(id));
    this.failed = left.length > 0;
    for (const id of this.doomed) if (!left.includes(id)) this.doomed.delete(id);
    log.info({ layers: unused, left }, 'layers of a failed pull removed');
  }

  /** See Images.leftovers(). A layer comes before its parent. @throws StorageFailed */
  async leftovers(): Promise<Leftover[]> {
    if (!(await this.alone(['true']))) return [];
    const remove = async (argv: readonly [string, ...string[]]): Promise<void> => {
      if (!(await this.alone(argv)))
        throw new CrispError('StorageFailed', 'an image is being pulled', { hint: 'try again later' });
    };
    return [
      ...(await this.staged.list()).map(({ path }): Leftover => ({
        kind: 'blobs',
        name: path,
        remove: () => remove(['rm', '-rf', '--one-file-system', path]),
      })),
      ...(await this.options.layout.unusedLayers()).map((id): Leftover => ({
        kind: 'layer',
        name: id,
        remove: () => remove(storageCommand(this.options, 'delete-layer', id)),
      })),
      ...(await this.strayFolders()).map((path): Leftover => ({
        kind: 'folder',
        name: path,
        remove: () => remove(['rm', '-rf', '--one-file-system', path]),
      })),
    ];
  }

  /** The short name of such a folder remains; containers-storage replaces it. */
  private async strayFolders(): Promise<string[]> {
    const mounted = await overlayMounts();
    const links = await Promise.all(
      (await this.options.layout.strayFolders()).map(async (path) => {
        const name = (await readFileIfThere(join(path, 'link')).catch(() => undefined))?.trim();
        return { path, link: name && join('l', name) };
      }),
    );
    return links.flatMap(({ path, link }) => (usersOf(link, mounted).length === 0 ? [path] : []));
  }

  /**
   * Runs a command while no process copies. If a copy takes too long, the command is not run.
   * @returns whether it was run and succeeded
   */
  private async alone(argv: readonly [string, ...string[]]): Promise<boolean> {
    const { exitCode } = await run(
      ['flock', '--timeout', String(lockTimeoutSeconds), '--no-fork', `${this.options.folder}.lock`, ...argv],
      { timeoutMs: sweepTimeoutMs, okExitCodes: 'any', stage: 'clean up after pulls' },
    );
    return exitCode === 0;
  }
}
