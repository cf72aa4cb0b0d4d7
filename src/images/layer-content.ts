// The content of a layer, as it is on the disk. Called by damage.ts.
import { createHash } from 'node:crypto';
import { Writable } from 'node:stream';
import { CrispError, lastLines } from '../errors.js';
import { run, runStreaming } from '../host/run.js';
import type { StoredLayer } from './layout.js';
import { storageCommand, type StorePlace } from './storage-command.js';

const stage = 'check layers';
/** For one layer; a disk reads some 100 MB in a second. */
const readTimeoutMs = 30 * 60_000;
const askTimeoutMs = 60_000;

/**
 * Compares the files of a layer with the digest by which it was pulled:
 * containers-storage writes the archive of the layer again, from its files and from
 * the headers that it has kept beside them. So the content of files is compared, but
 * not their modes, owners and links, and not whether an empty file or folder is there.
 * 1 GB takes about 5 s. Others can read the store meanwhile; a pull waits before it adds a layer.
 * @returns the reason if they differ; undefined: no difference, or the layer has no digest
 * @throws StorageFailed, ToolMissing, ToolTimeout if it cannot be compared
 */
export async function differenceOf(
  place: StorePlace,
  { id, 'diff-digest': expected = '' }: StoredLayer,
): Promise<string | undefined> {
  const [, algorithm] = /^(sha256|sha512):[0-9a-f]+$/.exec(expected) ?? [];
  if (algorithm === undefined) return undefined;
  const hash = createHash(algorithm);
  let said = '';
  const stdout = new Writable({
    write(chunk: Buffer, _encoding, done) {
      hash.update(chunk);
      done();
    },
  });
  const stderr = new Writable({
    write(chunk: Buffer, _encoding, done) {
      said = (said + chunk.toString()).slice(-2048);
      done();
    },
  });
  const running = await runStreaming(
    storageCommand(place, 'diff', '--uncompressed', id),
    { stdout, stderr },
    { timeoutMs: readTimeoutMs, stage, okExitCodes: 'any' },
  );
  const { exitCode } = await running.ended;
  if (exitCode === 0)
    return `${algorithm}:${hash.digest('hex')}` === expected ? undefined : 'its files differ from its digest';
  // The layer is damaged if the store itself can be read.
  await run(storageCommand(place, 'layer', id), { timeoutMs: askTimeoutMs, stage, errorId: 'StorageFailed' });
  if (exitCode === undefined)
    throw new CrispError('StorageFailed', `layer ${id} could not be read: containers-storage was ended`, {
      stage,
    });
  return lastLines(said) || 'it cannot be read';
}
