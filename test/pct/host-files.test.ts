// As test/integration/host-files.test.ts, for CTs: logs that do not follow links, mount
// sources and the VOLUMEs of an image.
import { status as Code } from '@grpc/grpc-js';
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { execFileSync } from 'node:child_process';
import { lstatSync, mkdirSync, readFileSync, renameSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Daemon } from '../helpers/daemon.js';
import {
  containerConfig,
  createContainer,
  removePod,
  runPod,
  startContainer,
  untilStopped,
} from '../helpers/requests.js';
import { missing, present } from '../helpers/offenders.js';
import { Node } from './node.js';

const withVolumes = 'docker.io/library/volumes:1';

let node: Node;
let daemon: Daemon;
beforeAll(async () => {
  [node, daemon] = await Node.withDaemon();
  await daemon.addImage(withVolumes, {
    config: { Volumes: { '/data': {}, '/fresh': {} } },
    files: { 'data/file': 'of the image\n' },
  });
});
afterAll(() => node?.stop());

const execIn = async (id: string, script: string) =>
  String(
    (await daemon.client.runtime.ExecSync({ container_id: id, cmd: ['sh', '-c', script], timeout: '20' }))
      .stdout,
  );

test('the log of a CT is opened and reopened without following a link', async () => {
  const pod = await runPod(daemon, {}, 'lxc');
  const folder = pod.config.log_directory as string;
  mkdirSync(folder, { recursive: true });
  const theirs = join(daemon.folder, 'theirs');
  symlinkSync(theirs, join(folder, 'link.log'));
  execFileSync('mkfifo', [join(folder, 'fifo.log')]);
  for (const log_path of ['link.log', 'fifo.log'])
    await expect(createContainer(daemon, pod, containerConfig('true', { log_path }))).rejects.toMatchObject({
      code: Code.INVALID_ARGUMENT,
    });
  expect(present(theirs)).toEqual([]);
  const path = join(folder, 'c/0.log');
  const script = `echo first; until [ -e /tmp/go ]; do sleep 0.1; done; echo second; ${untilStopped()}`;
  const id = await startContainer(daemon, pod, containerConfig(script, { log_path: 'c/0.log' }));
  await execIn(id, 'true');
  writeFileSync(theirs, 'theirs\n');
  renameSync(path, `${path}.old`);
  symlinkSync(theirs, path);
  await expect(daemon.client.runtime.ReopenContainerLog({ container_id: id })).rejects.toMatchObject({
    code: Code.INVALID_ARGUMENT,
  });
  expect(readFileSync(theirs, 'utf8')).toBe('theirs\n');
  rmSync(join(folder, 'c'), { recursive: true });
  await daemon.client.runtime.ReopenContainerLog({ container_id: id });
  expect(lstatSync(path).isFile()).toBe(true);
  await execIn(id, 'touch /tmp/go');
  while (!readFileSync(path, 'utf8').includes('second')) await execIn(id, 'true');
  expect(readFileSync(theirs, 'utf8')).toBe('theirs\n');
  await removePod(daemon, pod.id);
});

test('a CT gets the VOLUMEs of its image, and a missing mount source is created', async () => {
  const pod = await runPod(daemon, {}, 'lxc');
  const source = join(daemon.folder, 'made/source');
  const id = await startContainer(
    daemon,
    pod,
    containerConfig(untilStopped(), {
      image: { image: withVolumes },
      mounts: [{ host_path: source, container_path: '/mnt' }],
      linux: { security_context: { readonly_rootfs: true } },
    }),
  );
  expect(
    await execIn(
      id,
      'touch /x 2>/dev/null || echo ro; cat /data/file; echo new >/data/file && touch /fresh/f; stat -c %u /data /fresh /data/file | tr "\\n" " "',
    ),
  ).toBe('ro\nof the image\n0 0 0 ');
  expect(missing(source)).toEqual([]);
  await removePod(daemon, pod.id);
  expect(present(join(daemon.root, 'containers', id))).toEqual([]);
});
