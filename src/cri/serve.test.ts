import { afterEach, expect, test } from '@jest/globals';
import { chmodSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { Bench } from '../../test/helpers/services.js';
import { CriServer } from './serve.js';

const ends: (() => Promise<void>)[] = [];
afterEach(async () => {
  for (const end of ends.splice(0).reverse()) await end();
});

test('only root and its group can use the socket, in a folder that every user can enter', async () => {
  const bench = new Bench();
  ends.push(() => bench.end());
  chmodSync(bench.folder, 0o755);
  const server = new CriServer(bench.services);
  ends.push(() => server.close(0));
  const path = join(bench.folder, 'crisp.sock');
  const mask = process.umask(0);
  try {
    await server.listen(path);
  } finally {
    process.umask(mask);
  }
  const { mode, uid, gid } = statSync(path);
  expect([(mode & 0o777).toString(8), uid, gid]).toEqual(['660', process.getuid?.(), process.getgid?.()]);
});

test('a closed server keeps no timer', async () => {
  const bench = new Bench();
  ends.push(() => bench.end());
  const server = new CriServer(bench.services);
  await server.listen(join(bench.folder, 'crisp.sock'));
  const timers = (): number =>
    process.getActiveResourcesInfo().filter((resource) => resource === 'Timeout').length;
  const before = timers();
  await server.close(60_000);
  expect(timers() - before).toBe(0);
});

test('a path that cannot be bound is named in the error', async () => {
  const bench = new Bench();
  ends.push(() => bench.end());
  const server = new CriServer(bench.services);
  ends.push(() => server.close(0));
  await expect(server.listen('/nonexistent/crisp.sock')).rejects.toMatchObject({ id: 'InvalidConfigFile' });
});
