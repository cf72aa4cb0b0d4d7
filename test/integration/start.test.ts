// A start of the daemon that meets trouble: it comes up with what there is, or
// it ends and says why.
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { once } from 'node:events';
import { rm, writeFile } from 'node:fs/promises';
import { createServer, type AddressInfo } from 'node:net';
import { join } from 'node:path';
import { startDaemon, type Daemon } from '../helpers/daemon.js';
import {
  containerConfig,
  removePod,
  runPod,
  startContainer,
  untilStopped,
  waitForExit,
} from '../helpers/requests.js';

let daemon: Daemon;
let program: string;
beforeAll(async () => {
  daemon = await startDaemon();
  await daemon.addImage();
  program = join(daemon.folder, 'own-crun');
});
afterAll(() => daemon?.destroy());

const install = (): Promise<void> => writeFile(program, '#!/bin/sh\nexec crun "$@"\n', { mode: 0o755 });

test('one that fails ends with its reason, whatever listens already', async () => {
  const taken = createServer().listen(0, '127.0.0.1');
  await once(taken, 'listening');
  await daemon.stop();
  await daemon.writeConfig({ metrics: { port: (taken.address() as AddressInfo).port } });
  await expect(daemon.start()).rejects.toThrow(/EADDRINUSE/);
  expect(await daemon.stop()).toBe(1);
  taken.close();
  await daemon.writeConfig({});
  await daemon.start();
});

test.each([
  [
    'whose program is gone',
    async () => {
      await rm(program);
    },
  ],
  [
    'that is not configured any more',
    async () => {
      await daemon.writeConfig({});
    },
  ],
])('the containers of a handler %s run on, and those of others are recovered', async (_name, breakIt) => {
  const handlers = { own: { type: 'oci', path: program } };
  await install();
  await daemon.writeConfig({ handlers });
  await daemon.restart();
  const [own, other] = [await runPod(daemon, {}, 'own'), await runPod(daemon)];
  const [ownId, otherId] = [
    await startContainer(daemon, own, containerConfig(untilStopped(3))),
    await startContainer(daemon, other, containerConfig(untilStopped(4))),
  ];
  await daemon.kill9();
  await breakIt();
  await daemon.start();
  const state = async (id: string) =>
    (await daemon.client.runtime.ContainerStatus({ container_id: id })).status?.state;
  expect([await state(ownId), await state(otherId)]).toEqual(['CONTAINER_RUNNING', 'CONTAINER_RUNNING']);
  expect(daemon.entries()).toContainEqual(
    expect.objectContaining({ msg: expect.stringContaining('records stay as they are'), handler: 'own' }),
  );
  await daemon.client.runtime.StopContainer({ container_id: otherId, timeout: '10' });
  expect(await waitForExit(daemon, otherId)).toMatchObject({ exit_code: 4 });

  await install();
  await daemon.writeConfig({ handlers });
  await daemon.restart();
  await daemon.client.runtime.StopContainer({ container_id: ownId, timeout: '10' });
  expect(await waitForExit(daemon, ownId)).toMatchObject({ exit_code: 3 });
  for (const pod of [own, other]) await removePod(daemon, pod.id);
});
