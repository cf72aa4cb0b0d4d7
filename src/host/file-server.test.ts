import { expect, test } from '@jest/globals';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { hasServer, untilAnswered } from './file-server.js';

test.each([
  ['nfs4', true],
  ['cifs', true],
  ['smb3', true],
  ['9p', true],
  ['fuse', true],
  ['fuse.sshfs', true],
  ['fuseblk', true],
  ['fusectl', false],
  ['ext4', false],
  ['overlay', false],
  ['tmpfs', false],
  ['nsfs', false],
])('%s: %s', (type, expected) => {
  expect(hasServer({ type })).toBe(expected);
});

test('a path is answered whether it exists or not', async () => {
  await untilAnswered(tmpdir(), 'here');
  await untilAnswered(join(tmpdir(), 'none', 'such'), 'here');
  await untilAnswered('--help', 'here');
});
