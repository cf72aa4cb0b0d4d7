import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { readFileIfThere, readText } from './files.js';

let folder: string;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'files-'));
  writeFileSync(join(folder, 'ten'), '0123456789');
  symlinkSync('ten', join(folder, 'link'));
  execFileSync('mkfifo', [join(folder, 'fifo')]);
});
afterAll(() => rmSync(folder, { recursive: true }));

test('a file is read up to its limit, and refused above it', async () => {
  expect(await readText(join(folder, 'ten'), { maxBytes: 10 })).toBe('0123456789');
  await expect(readText(join(folder, 'ten'), { maxBytes: 9 })).rejects.toMatchObject({ id: 'FileRefused' });
  expect(await readText(join(folder, 'ten'), { maxBytes: 4, larger: 'end' })).toBe('6789');
});

test('a file whose size is not told is read to its end, and refused above the limit', async () => {
  expect(await readText('/proc/self/status')).toContain('Threads:');
  await expect(readText('/proc/self/status', { maxBytes: 100 })).rejects.toMatchObject({ id: 'FileRefused' });
  expect(await readText('/proc/self/smaps')).toMatch(/\n$/); // longer than one read
});

test.each(['fifo', '.'])('what is no regular file is refused at once: %s', async (name) => {
  await expect(readText(join(folder, name))).rejects.toMatchObject({ id: 'FileRefused' });
});

test('a device is not opened', async () => {
  await expect(readText('/dev/zero')).rejects.toMatchObject({ id: 'FileRefused' });
});

test('a link is followed unless it must not be', async () => {
  expect(await readText(join(folder, 'link'))).toBe('0123456789');
  await expect(readText(join(folder, 'link'), { followLink: false })).rejects.toMatchObject({
    id: 'FileRefused',
  });
});

test('what is absent is undefined', async () => {
  expect(await readFileIfThere(join(folder, 'none'))).toBeUndefined();
});
