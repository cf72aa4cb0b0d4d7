// Compared with what stat(1) and the kernel say.
import { expect, test } from '@jest/globals';
import { execFileSync } from 'node:child_process';
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { deviceName, filesystemOf } from './filesystem.js';

test('a filesystem has its size and its inodes', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'crisp-filesystem-'));
  execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=1m,nr_inodes=77', 'tmpfs', folder]);
  try {
    const found = await filesystemOf(folder);
    expect(found).toMatchObject({ sizeBytes: 1 << 20, inodes: 77, inodesFree: 76 });
    const line = readFileSync('/proc/self/mountinfo', 'utf8')
      .split('\n')
      .find((text) => text.includes(` ${folder} `));
    expect(found.device).toBe(line?.split(' ')[2]); // a device without a node
  } finally {
    execFileSync('umount', [folder]);
    rmSync(folder, { recursive: true });
  }
});

test('a block device has the name of its node, and numbers without one', () => {
  for (const numbers of readdirSync('/sys/dev/block').slice(0, 3)) {
    const [major, minor] = numbers.split(':').map(Number);
    const uevent = readFileSync(`/sys/dev/block/${numbers}/uevent`, 'utf8');
    expect(deviceName(major ?? 0, minor ?? 0)).toBe(`/dev/${/^DEVNAME=(.*)$/m.exec(uevent)?.[1]}`);
  }
  expect(deviceName(4000, 77)).toBe('4000:77');
});
