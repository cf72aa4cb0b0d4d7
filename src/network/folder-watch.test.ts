import { afterEach, beforeEach, test } from '@jest/globals';
import { mkdir, mkdtemp, rename, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { FolderWatch } from './folder-watch.js';

let base: string;
let watch: FolderWatch;
let changed: Promise<void>;

beforeEach(async () => {
  base = await mkdtemp(join(tmpdir(), 'crisp-watch-'));
});
afterEach(async () => {
  watch.close();
  await rm(base, { recursive: true, force: true });
});

/** Watches as configured.ts does: armed again at each change. */
function watching(folder: string): void {
  let tell: () => void = () => undefined;
  const next = (): void => {
    changed = new Promise((resolve) => {
      tell = resolve;
    });
  };
  next();
  watch = new FolderWatch(folder, () => {
    const told = tell;
    next();
    watch.arm();
    told();
  });
  watch.arm();
}

async function expectChange(change: () => Promise<unknown>): Promise<void> {
  const told = changed;
  await change();
  await told;
}

test('a change in the folder is reported', async () => {
  watching(base);
  await expectChange(() => writeFile(join(base, 'a'), ''));
});

test('a folder that is created later, level by level, is watched from then on', async () => {
  const folder = join(base, 'etc', 'cni', 'net.d');
  watching(folder);
  await expectChange(() => mkdir(join(base, 'etc')));
  await expectChange(() => mkdir(folder, { recursive: true }));
  await expectChange(() => writeFile(join(folder, 'a'), ''));
});

test('a folder that is replaced is still watched', async () => {
  const folder = join(base, 'net.d');
  await mkdir(folder);
  watching(folder);
  await expectChange(() => rename(folder, join(base, 'old')));
  await expectChange(() => mkdir(folder));
  await expectChange(() => writeFile(join(folder, 'a'), ''));
});
