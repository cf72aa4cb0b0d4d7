import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from '@jest/globals';
import { execFileSync, spawn } from 'node:child_process';
import {
  chmodSync,
  closeSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import {
  exists,
  expectPassage,
  fileVersion,
  makeClosedFolder,
  makeFolder,
  namesIn,
  readFileIfThere,
  readSmallFile,
  readText,
  readTextNow,
  realPathOf,
  remove,
  takeFrom,
  tightenState,
  writeFile,
  writeFileAtomic,
} from './files.js';

let folder: string;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'files-'));
  writeFileSync(join(folder, 'ten'), '0123456789');
  symlinkSync('ten', join(folder, 'link'));
  writeFileSync(join(folder, 'large'), '');
  execFileSync('mkfifo', [join(folder, 'fifo')]);
});
afterAll(() => rmSync(folder, { recursive: true }));

test('a file is read up to its limit, and refused above it', async () => {
  expect(await readText(join(folder, 'ten'), { maxBytes: 10 })).toBe('0123456789');
  await expect(readText(join(folder, 'ten'), { maxBytes: 9 })).rejects.toMatchObject({ id: 'FileRefused' });
  expect(await readText(join(folder, 'ten'), { maxBytes: 4, larger: 'end' })).toBe('6789');
});

test('a file of unknown size is read to its end, and refused above the limit', async () => {
  expect(await readText('/proc/self/status')).toContain('Threads:');
  await expect(readText('/proc/self/status', { maxBytes: 100 })).rejects.toMatchObject({ id: 'FileRefused' });
  expect(await readText('/proc/self/smaps')).toMatch(/\n$/); // longer than one read
});

test.each(['fifo', '.'])('anything but a regular file is refused at once: %s', async (name) => {
  await expect(readText(join(folder, name))).rejects.toMatchObject({ id: 'FileRefused' });
});

test('a file of the state folder is read at once; a larger one and a FIFO are refused', () => {
  expect(readTextNow(join(folder, 'ten'))).toBe('0123456789');
  truncateSync(join(folder, 'large'), (16 << 20) + 1);
  for (const name of ['large', 'fifo', '.'])
    expect(() => readTextNow(join(folder, name))).toThrow(expect.objectContaining({ id: 'FileRefused' }));
});

test('a failed write says to which file', () => {
  expect(() => writeFile('/dev/full', 'x')).toThrow(/ENOSPC.* '\/dev\/full'$/);
});

test('a device is not opened', async () => {
  await expect(readText('/dev/zero')).rejects.toMatchObject({ id: 'FileRefused' });
});

test('a link is followed unless this is forbidden', async () => {
  expect(await readText(join(folder, 'link'))).toBe('0123456789');
  await expect(readText(join(folder, 'link'), { followLink: false })).rejects.toMatchObject({
    id: 'FileRefused',
  });
});

test('an absent file is undefined', async () => {
  expect(await readFileIfThere(join(folder, 'none'))).toBeUndefined();
});

describe('created files', () => {
  let mask: number;
  let made: string;
  beforeEach(() => {
    mask = process.umask(0); // so that the mode is ours alone
    made = mkdtempSync(join(tmpdir(), 'files-made-'));
  });
  afterEach(() => {
    process.umask(mask);
    rmSync(made, { recursive: true });
  });
  const at = (...path: string[]): string => join(made, ...path);
  const modeOf = (...path: string[]): string => (statSync(at(...path)).mode & 0o7777).toString(8);
  const closed = 40_000;

  test('files and folders are accessible to root alone, unless another mode is requested', async () => {
    writeFile(at('plain'), 'a');
    await writeFileAtomic(at('whole'), 'b');
    makeFolder(at('folder', 'inner'));
    expect([modeOf('plain'), modeOf('whole'), modeOf('folder'), modeOf('folder', 'inner')]).toEqual([
      '600',
      '600',
      '700',
      '700',
    ]);
    writeFile(at('open'), '', 0o644);
    await writeFileAtomic(at('open whole'), '', 0o644);
    makeFolder(at('open folder'), 0o711);
    expect([modeOf('open'), modeOf('open whole'), modeOf('open folder')]).toEqual(['644', '644', '711']);
  });

  test('a closed folder can be entered by its group alone, and its parents by all users', () => {
    makeClosedFolder(at('above', 'alone'));
    makeClosedFolder(at('above', 'grouped'), closed);
    expect([modeOf('above'), modeOf('above', 'alone'), modeOf('above', 'grouped')]).toEqual([
      '711',
      '700',
      '710',
    ]);
    expect(statSync(at('above', 'grouped'))).toMatchObject({ uid: 0, gid: closed });
    chmodSync(at('above', 'alone'), 0o777);
    makeClosedFolder(at('above', 'alone'));
    expect(modeOf('above', 'alone')).toBe('700');
  });

  test('the mode of an existing state folder is narrowed, never widened', () => {
    for (const folder of ['sandboxes', 'exits', 'bundles/b', 'pods/p', 'probe/q', 'roots/narrow', 'other'])
      mkdirSync(at(folder), { recursive: true, mode: 0o777 });
    writeFileSync(at('views'), 'no folder', { mode: 0o666 });
    writeFileSync(at('pods', 'file'), '', { mode: 0o666 });
    chmodSync(at('roots', 'narrow'), 0o750);
    chmodSync(at('exits'), 0o500);
    tightenState(made, (id) => (id === 'p' ? closed : undefined));
    expect(
      ['.', 'sandboxes', 'exits', 'bundles', 'bundles/b', 'pods', 'pods/p', 'probe', 'probe/q'].map(
        (name) => [name, modeOf(name)],
      ),
    ).toEqual([
      ['.', '700'], // mkdtemp(3) made it so
      ['sandboxes', '700'],
      ['exits', '500'],
      ['bundles', '711'],
      ['bundles/b', '700'],
      ['pods', '711'],
      ['pods/p', '710'],
      ['probe', '711'],
      ['probe/q', '777'],
    ]);
    expect(['roots/narrow', 'other', 'views', 'pods/file'].map((name) => modeOf(name))).toEqual([
      '750',
      '777',
      '666',
      '666',
    ]);
    expect(statSync(at('pods', 'p')).gid).toBe(closed);
  });

  test('access that was removed from a folder is returned; files and missing paths are no folders', () => {
    makeFolder(at('wide'), 0o777);
    expect([takeFrom(at('wide'), 0o711), modeOf('wide')]).toEqual([true, '711']);
    expect([takeFrom(at('wide'), 0o777), modeOf('wide')]).toEqual([true, '711']);
    writeFile(at('file'), '', 0o644);
    expect([takeFrom(at('file'), 0o600), modeOf('file')]).toEqual([false, '644']);
    expect(takeFrom(at('none'), 0o700)).toBe(false);
  });

  test('a file is replaced as a whole, and no temporary file is left', async () => {
    writeFileSync(at('record'), 'a longer text from before');
    await writeFileAtomic(at('record'), 'new');
    expect(readFileSync(at('record'), 'utf8')).toBe('new');
    expect(readdirSync(made)).toEqual(['record']);
  });

  test('mounts of a user namespace need every parent folder to be passable', async () => {
    makeFolder(at('a', 'b'), 0o711);
    chmodSync(made, 0o711);
    await expectPassage(at('a', 'b'));
    await expectPassage(at('a', 'b', 'not there yet'));
    chmodSync(at('a'), 0o710);
    await expect(expectPassage(at('a', 'b'))).rejects.toMatchObject({
      id: 'Unsupported',
      message: expect.stringContaining(at('a')),
    });
  });

  test('existence of a file and of nothing', async () => {
    symlinkSync('nowhere', at('dangling'));
    writeFile(at('file'), 'x');
    const paths = [at('file'), at('dangling'), at('none'), at('file', 'x')];
    expect(await Promise.all(paths.map(exists))).toEqual([true, true, false, false]);
    expect(await Promise.all([made, at('none')].map(namesIn))).toEqual([
      expect.arrayContaining(['dangling', 'file']),
      [],
    ]);
    await expect(namesIn(`${made}/\0`)).rejects.toThrow();
    await expect(exists(`${made}/\0`)).rejects.toThrow();
    expect(await realPathOf(at('none', 'deeper'))).toBe(at('none', 'deeper'));
    symlinkSync(made, at('link'));
    expect(await realPathOf(at('link', 'none'))).toBe(at('none'));
    symlinkSync('loop', at('loop'));
    await expect(realPathOf(at('loop', 'none'))).rejects.toMatchObject({ code: 'ELOOP' });
  });

  test('a removal takes a folder with its content, and accepts a missing one', async () => {
    makeFolder(at('a', 'b'));
    await remove(at('a'));
    await remove(at('a'));
    expect(readdirSync(made)).toEqual([]);
  });

  test('a version changes when the file is replaced or written to', async () => {
    expect(fileVersion(at('file'))).toBe('');
    writeFile(at('file'), 'x');
    const first = fileVersion(at('file'));
    expect(fileVersion(at('file'))).toBe(first);
    await writeFileAtomic(at('file'), 'x');
    const second = fileVersion(at('file'));
    expect(second).not.toBe(first);
    writeFile(at('file'), 'longer');
    expect(fileVersion(at('file'))).not.toBe(second);
  });
});

describe('a file that a person names', () => {
  const large = 1 << 20;
  test('is read by its path or its descriptor, which stays open', () => {
    const path = join(folder, 'ten');
    expect(readSmallFile(path)).toBe('0123456789');
    const descriptor = openSync(path, 'r');
    expect(readSmallFile(descriptor)).toBe('0123456789');
    closeSync(descriptor); // throws if it is closed already
  });
  test('may be a pipe, which gives it in pieces', () => {
    const script = 'printf one; sleep 0.05; printf two';
    const fifo = join(folder, 'pieces');
    execFileSync('mkfifo', [fifo]);
    const writer = spawn('sh', ['-c', `(${script}) >'${fifo}'`]);
    expect(readSmallFile(fifo)).toBe('onetwo');
    writer.kill();
  });
  test('is refused from 1 MiB on, also if it is endless', () => {
    const path = join(folder, 'large');
    writeFileSync(path, 'x'.repeat(large - 1));
    expect(readSmallFile(path)).toHaveLength(large - 1);
    writeFileSync(path, 'x'.repeat(large));
    expect(() => readSmallFile(path)).toThrow('larger than 1 MiB');
    expect(() => readSmallFile('/dev/zero')).toThrow('larger than 1 MiB');
  });
});

test('the state folder itself is no more open than it has to be', () => {
  const state = mkdtempSync(join(tmpdir(), 'files-state-'));
  chmodSync(state, 0o777);
  tightenState(state, () => undefined);
  expect((statSync(state).mode & 0o777).toString(8)).toBe('711');
  rmSync(state, { recursive: true });
});

test('a folder is not made in what is no folder', () => {
  expect(() => makeFolder(join(folder, 'ten', 'below'))).toThrow();
  expect(() => makeFolder('/proc/self/none')).toThrow(expect.objectContaining({ id: 'StorageFailed' }));
  expect(() => makeFolder(join(folder, 'x'.repeat(300)))).toThrow(/ENAMETOOLONG/);
});
