import { afterEach, beforeEach, expect, test } from '@jest/globals';
import { once } from 'node:events';
import { existsSync, mkdtempSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { createServer, type Server } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { freeSocketPath } from './unix-socket.js';

let folder: string;
let server: Server | undefined;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'crisp-socket-'));
});
afterEach(() => {
  server?.close();
  server = undefined;
  rmSync(folder, { recursive: true });
});
const path = (): string => join(folder, 'socket');
async function listen(at = path()): Promise<void> {
  server = createServer().listen(at);
  await once(server, 'listening');
}

test('a free path is fine, also in a folder that is not there', async () => {
  await freeSocketPath(path());
  await freeSocketPath(join(folder, 'absent', 'socket'));
});

test('the socket of an earlier run goes', async () => {
  await listen(join(folder, 'other'));
  renameSync(join(folder, 'other'), path());
  await new Promise((resolve) => server?.close(resolve));
  expect(existsSync(path())).toBe(true);
  await freeSocketPath(path());
  expect(existsSync(path())).toBe(false);
  await listen();
});

test('a socket with a listener stays, and is an error', async () => {
  await listen();
  await expect(freeSocketPath(path())).rejects.toMatchObject({ id: 'DaemonRunning' });
  expect(existsSync(path())).toBe(true);
});

test('anything else at the path stays, and is an error', async () => {
  writeFileSync(path(), '');
  for (const at of [path(), folder])
    await expect(freeSocketPath(at)).rejects.toMatchObject({
      id: 'InvalidConfigFile',
      message: expect.stringContaining(at),
    });
  expect(existsSync(path())).toBe(true);
});

test('107 bytes are a path, 108 are too long, whatever the characters', async () => {
  const longest = `/none/${'x'.repeat(101)}`;
  await freeSocketPath(longest);
  await expect(freeSocketPath(`${longest}x`)).rejects.toMatchObject({ id: 'InvalidConfigFile' });
  await expect(freeSocketPath(`/none/${'ä'.repeat(51)}`)).rejects.toMatchObject({ id: 'InvalidConfigFile' });
});
