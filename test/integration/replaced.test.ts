// A daemon whose files are those of another version, as between the unpacking of an upgrade and the
// restart, which may be minutes later.
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { cp, mkdtemp, rename, rm, symlink } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { crisp, startDaemon, type Daemon } from '../helpers/daemon.js';
import { containerConfig, removePod, runPod, startContainer, untilStopped } from '../helpers/requests.js';

let installed: string;
let daemon: Daemon;
beforeAll(async () => {
  const home = dirname(dirname(crisp));
  installed = await mkdtemp(join(tmpdir(), 'crisp-installed-'));
  for (const part of ['bin', 'dist', 'package.json'])
    await cp(join(home, part), join(installed, part), { recursive: true });
  for (const part of ['node_modules', 'proto']) await symlink(join(home, part), join(installed, part));
  daemon = await startDaemon({ program: join(installed, 'bin', 'crisp') });
  await daemon.addImage();
});
afterAll(async () => {
  await daemon?.destroy();
  await rm(installed, { recursive: true });
});

test('it still runs pods and removes images', async () => {
  await rename(join(installed, 'dist', 'chunks'), join(installed, 'dist', 'old'));
  const { runtime, image } = daemon.client;
  const pod = await runPod(daemon);
  const id = await startContainer(daemon, pod, containerConfig(untilStopped()));
  const { exit_code: exitCode } = await runtime.ExecSync({ container_id: id, cmd: ['true'] });
  expect(exitCode).toBe(0);
  await removePod(daemon, pod.id);
  const [present] = (await image.ListImages({})).images;
  await image.RemoveImage({ image: { image: present?.id ?? '' } });
  expect((await image.ListImages({})).images).toEqual([]);
});
