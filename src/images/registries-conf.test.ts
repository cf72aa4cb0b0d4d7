import { afterEach, beforeEach, expect, test } from '@jest/globals';
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { isConfigured } from './registries-conf.js';

let folder: string;
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'crisp-registries-'));
  await mkdir(join(folder, 'd'));
});
afterEach(() => rm(folder, { recursive: true }));
const configured = (host: string) => isConfigured(host, join(folder, 'registries.conf'), join(folder, 'd'));

test('without files nothing is configured', async () => {
  expect(await configured('localhost')).toBe(false);
  await rm(join(folder, 'd'), { recursive: true });
  expect(await configured('localhost')).toBe(false);
});

test.each(['registries.conf', 'd/10-local.conf'])('entries of %s are found', async (file) => {
  await writeFile(
    join(folder, file),
    `unqualified-search-registries = ["docker.io"]
# [[registry]] location = "127.0.0.3"
[[registry]]
location = '127.0.0.1'
insecure = false
[[registry]]
prefix = "localhost"
location = "registry.example"
[[registry]]
location = "127.0.0.2:5000/team"
[[registry.mirror]]
location = "127.0.0.4"
`,
  );
  expect(await configured('127.0.0.1')).toBe(true);
  expect(await configured('localhost')).toBe(true);
  for (const host of ['127.0.0.2', '127.0.0.3', '127.0.0.4', 'docker.io', 'registry.example'])
    expect(await configured(host)).toBe(false);
});

test('entries of the first version of the format are found as well', async () => {
  await writeFile(join(folder, 'registries.conf'), `[registries.block]\nregistries = ['127.0.0.1']\n`);
  expect(await configured('127.0.0.1')).toBe(true);
  expect(await configured('localhost')).toBe(false);
});

test('only files that skopeo reads count, and an invalid file makes the whole configuration invalid', async () => {
  await writeFile(join(folder, 'd/local.txt'), '[[registry]]\nlocation = "localhost"\n');
  expect(await configured('localhost')).toBe(false);
  await writeFile(join(folder, 'd/bad.conf'), '[[registry\n');
  expect(await configured('localhost')).toBe(true);
});
