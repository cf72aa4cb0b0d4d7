// Pulls: skopeo copies from a registry into the store, which verifies digests
// and unpacks the layers.  Mirrors, certificates and signature policy are the
// host's own files; credentials travel in a file that lives as long as the pull.
import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { mkdtemp } from 'node:fs/promises';
import { Writable } from 'node:stream';
import type { Config } from '../config.js';
import { CrispError, lastLines, type ErrorId } from '../errors.js';
import { makeFolder, remove } from '../host/files.js';
import { CommandError, runStreaming } from '../host/run.js';
import { parseReference } from './references.js';

/** Credentials of a request; empty fields are absent. */
export interface RegistryAuth {
  readonly username: string;
  readonly password: string;
  /** base64 of user:password. */
  readonly auth: string;
  readonly serverAddress: string;
  readonly identityToken: string;
  readonly registryToken: string;
}

export interface PullsOptions {
  readonly storage: string;
  /** Where downloads and credentials are kept while they are needed. */
  readonly folder: string;
  readonly config: Config['images'];
}

interface Pull { readonly done: Promise<void>; readonly stop: AbortController; waiting: number }

export class Pulls {
  private readonly pulls = new Map<string, Pull>();

  constructor(private readonly options: PullsOptions) {}

  /** Removes what a pull that was cut off left. */
  async clean(): Promise<void> { await remove(this.options.folder); }

  /** Pulls `name` or joins the pull of it; it is stopped when nobody waits for it any more. */
  async pull(name: string, auth: RegistryAuth | undefined, signal: AbortSignal | undefined): Promise<void> {
    const key = JSON.stringify([name, auth]);
    let pull = this.pulls.get(key);
    if (!pull) {
      const stop = new AbortController();
      pull = { stop, waiting: 0, done: this.copy(`docker://${name}`, name, auth, stop.signal).finally(() => this.pulls.delete(key)) };
      this.pulls.set(key, pull);
    }
    pull.waiting++;
    try {
      await Promise.race([pull.done, aborted(signal)]);
    } finally {
      if (--pull.waiting === 0) pull.stop.abort();
      pull.done.catch(() => undefined); // the waiters have gone; their copies of the error are enough
    }
  }

  /** Copies an image from a skopeo source into the store under `name`. */
  async copy(source: string, name: string, auth: RegistryAuth | undefined, signal?: AbortSignal): Promise<void> {
    const { config } = this.options;
    await makeFolder(this.options.folder);
    const folder = await mkdtemp(join(this.options.folder, 'p'));
    try {
      const authFile = auth ? await writeAuthFile(folder, name, auth) : config.auth_file;
      await this.skopeo([
        ...(config.signature_policy ? ['--policy', config.signature_policy] : []),
        // The environment variable of this name came with a later skopeo; the flag, which its help hides, is in all.
        ...(config.registries_conf ? ['--registries-conf', config.registries_conf] : []),
        '--tmpdir', folder,
        'copy', '--quiet',
        ...(authFile ? ['--src-authfile', authFile] : source.startsWith('docker:') ? ['--src-no-creds'] : []),
        ...(config.certs_dir ? ['--src-cert-dir', config.certs_dir] : []),
        ...(auth?.registryToken ? ['--src-registry-token', auth.registryToken] : []),
        source, `containers-storage:${this.options.storage}${name}`,
      ], name, signal);
    } finally {
      await remove(folder);
    }
  }

  private async skopeo(args: string[], name: string, signal: AbortSignal | undefined): Promise<void> {
    const { config } = this.options;
    const stall = new AbortController();
    let said = '';
    const keep = new Writable({ write(chunk: Buffer, _encoding, done) { said = (said + chunk.toString()).slice(-8192); done(); } });
    const running = runStreaming(['skopeo', ...args], { stderr: keep }, {
      timeoutMs: 0, stage: 'pull image', signal: signal ? AbortSignal.any([signal, stall.signal]) : stall.signal,
    });
    const watch = watchProgress(running.pid, config.pull_progress_timeout_seconds * 1000, () => stall.abort());
    try {
      await running.ended;
    } catch (error) {
      if (stall.signal.aborted) throw new CrispError('PullStalled', `pull of ${name} made no progress for ${config.pull_progress_timeout_seconds} s`, { stage: 'pull image', tool: 'skopeo' });
      throw error instanceof CommandError && error.id === 'RuntimeFailed' ? explain(name, said) : error;
    } finally {
      watch.stop();
    }
  }
}

/** What skopeo's words mean. The first that matches decides: a denied request often says "not found" as well. */
const meanings: readonly [RegExp, ErrorId][] = [
  [/no space left on device|disk quota exceeded/i, 'DiskFull'],
  [/signature|rejected by policy|Source image rejected/i, 'SignatureValidationFailed'],
  [/unauthorized|authentication required|denied|forbidden|invalid username\/password/i, 'RegistryDenied'],
  [/manifest unknown|name unknown|not found|no image found in manifest list|does not exist/i, 'NotFoundInRegistry'],
  [/digest.*(mismatch|did not match|does not match)|does not match expected|unexpected EOF|corrupt|invalid checksum|gzip: invalid|error (processing|unpacking|applying) .*(tar|layer)/i, 'ImageCorrupt'],
  [/connection refused|no such host|i\/o timeout|timed? ?out|no route to host|network is unreachable|connection reset|EOF|tls:|x509|server gave HTTP response|50[0-9] |received unexpected HTTP status/i, 'RegistryUnavailable'],
];

function explain(name: string, stderr: string): CrispError {
  const words = stderr.replace(/^time="[^"]*" level=\w+ msg="/gm, '').replaceAll('\\"', '"');
  const id = meanings.find(([pattern]) => pattern.test(words))?.[1] ?? 'StorageFailed';
  return new CrispError(id, `pull of ${name} failed: ${lastLines(words, 400)}`, { stage: 'pull image', tool: 'skopeo' });
}

/** containers-auth.json(5), for the registry of this image alone. */
async function writeAuthFile(folder: string, name: string, auth: RegistryAuth): Promise<string> {
  const registry = parseReference(name).repository.split('/')[0] ?? '';
  const host = auth.serverAddress.replace(/^https?:\/\//, '').replace(/\/.*$/, '');
  const basic = auth.auth || (auth.username ? Buffer.from(`${auth.username}:${auth.password}`).toString('base64') : '');
  const entry = { ...(basic ? { auth: basic } : {}), ...(auth.identityToken ? { identitytoken: auth.identityToken } : {}) };
  const path = join(folder, 'auth.json');
  // The credentials are for this server address; a registry of another name gets none.
  const forThisRegistry = !host || host === registry || (registry === 'docker.io' && host.endsWith('docker.io'));
  await writeFile(path, JSON.stringify({ auths: forThisRegistry && Object.keys(entry).length ? { [registry]: entry } : {} }), { mode: 0o600 });
  return path;
}

/** Calls `stalled` when the process has moved (almost) no bytes for `timeoutMs`: /proc/PID/io counts sockets and files. */
function watchProgress(pid: number | undefined, timeoutMs: number, stalled: () => void): { stop(): void } {
  const intervalMs = Math.min(5_000, timeoutMs / 4);
  let last = 0;
  let movedAt = Date.now();
  const timer = setInterval(() => void (async () => {
    const text = await readFile(`/proc/${pid}/io`, 'utf8').catch(() => '');
    const bytes = [...text.matchAll(/^[rw]char: (\d+)/gm)].reduce((sum, [, count]) => sum + Number(count), 0);
    if (bytes > last + noiseBytes) { last = bytes; movedAt = Date.now(); }
    if (Date.now() - movedAt >= timeoutMs) { clearInterval(timer); stalled(); }
  })(), intervalMs);
  return { stop: () => clearInterval(timer) };
}
/** A waiting Go program still moves a few bytes for its own timers. */
const noiseBytes = 512;

function aborted(signal: AbortSignal | undefined): Promise<never> {
  return new Promise((_, reject) => {
    const fail = (): void => reject(new CrispError('Cancelled', 'the caller went away during the pull'));
    if (signal?.aborted) fail(); else signal?.addEventListener('abort', fail, { once: true });
  });
}
