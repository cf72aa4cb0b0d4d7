// CheckpointContainer: an archive that is whole or absent, and a container that
// runs on.  criu needs more of the kernel than many hosts have: where its own
// check fails, a fake `runc checkpoint` stands in for it (and only for it).
import { status as Code } from '@grpc/grpc-js';
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { spawnSync } from 'node:child_process';
import { readdirSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { startDaemon, type Daemon } from '../helpers/daemon.js';
import {
  containerConfig,
  removePod,
  runPod,
  startContainer,
  testImage,
  untilStopped,
} from '../helpers/requests.js';
import { present } from '../helpers/offenders.js';
import { writeWrapper } from '../helpers/stand-ins.js';

const criuWorks = spawnSync('criu', ['check']).status === 0;
/** What is done in place of a dump. */
const inPlace = (
  behaviour: string,
): string => `# ${criuWorks ? 'runc' : 'A fake of `runc checkpoint`, since criu cannot run on this kernel; all other verbs are the real runc'}
for word in "$@"; do
  [ "$previous" = --image-path ] && folder=$word
  previous=$word
done
[ -z "$folder" ] || { ${behaviour} }`;
const dumps = criuWorks ? ':;' : 'echo fake > "$folder/inventory.img"; exit 0;';

let daemon: Daemon;
let pod: Awaited<ReturnType<typeof runPod>>;
let id: string;
let location: string;

beforeAll(async () => {
  daemon = await startDaemon();
  const handlers = { dumps: join(daemon.folder, 'dumps'), fails: join(daemon.folder, 'fails') };
  await writeWrapper(handlers.dumps, 'runc', inPlace(dumps));
  await writeWrapper(handlers.fails, 'runc', inPlace('echo criu failed: type DUMP errno 0 >&2; exit 1;'));
  await daemon.writeConfig({
    handlers: Object.fromEntries(
      Object.entries(handlers).map(([name, path]) => [name, { type: 'oci', path }]),
    ),
  });
  await daemon.restart();
  await daemon.addImage(testImage);
  location = join(daemon.folder, 'checkpoint.tar');
});
afterAll(() => daemon?.destroy());

async function begin(handler: string, meanwhile = ''): Promise<void> {
  pod = await runPod(daemon, {}, handler);
  // criu interrupts the sleep of a process that it dumps, as a signal does.
  const script = `echo written > /tmp/file; echo ready; ${meanwhile}${untilStopped()}`;
  id = await startContainer(daemon, pod, containerConfig(script));
  await daemon.client.runtime.ExecSync({
    container_id: id,
    cmd: ['sh', '-c', 'until [ -s /tmp/file ]; do :; done'],
  });
}
const checkpoint = (more: object = {}) =>
  daemon.client.runtime.CheckpointContainer({ container_id: id, location, timeout: '30', ...more });

test('writes the archive, and the container continues', async () => {
  await begin('dumps');
  await checkpoint();
  const listed = await daemon.machine.must(['tar', '--list', '--file', location]);
  expect(listed.split('\n')).toEqual(
    expect.arrayContaining([
      './spec.dump',
      './config.dump',
      './rootfs-diff.tar',
      './checkpoint/inventory.img',
    ]),
  );
  expect(
    JSON.parse(
      await daemon.machine.must(['tar', '--extract', '--to-stdout', '--file', location, './config.dump']),
    ),
  ).toMatchObject({ id, name: 'main', runtime: 'dumps', rootfsImageName: testImage });
  expect(
    await daemon.machine.must([
      'sh',
      '-c',
      `tar --extract --to-stdout --file '${location}' ./rootfs-diff.tar | tar --extract --to-stdout --file - ./tmp/file`,
    ]),
  ).toBe('written\n');
  expect(statSync(location).mode & 0o777).toBe(0o600);
  const { status } = await daemon.client.runtime.ContainerStatus({ container_id: id });
  expect(status?.state).toBe('CONTAINER_RUNNING');
  await expect(checkpoint()).rejects.toMatchObject({
    code: Code.INVALID_ARGUMENT,
    details: expect.stringContaining('exists already'),
  });
  await removePod(daemon, pod.id);
});

test('a container may write meanwhile', async () => {
  await begin('dumps', 'head -c 50000000 /dev/zero >/tmp/large; while :; do echo; done >>/tmp/large & ');
  await daemon.client.runtime.ExecSync({
    container_id: id,
    cmd: ['sh', '-c', 'until [ $(wc -c </tmp/large) -gt 50000000 ]; do :; done'],
  });
  location = join(daemon.folder, 'busy.tar');
  await checkpoint();
  const listed = await daemon.machine.must([
    'sh',
    '-c',
    `tar --extract --to-stdout --file '${location}' ./rootfs-diff.tar | tar --list --file -`,
  ]);
  expect(listed.split('\n')).toEqual(expect.arrayContaining(['./tmp/file', './tmp/large']));
  await removePod(daemon, pod.id);
});

test('a failed dump leaves no archive or part of one, and does not change the container', async () => {
  await begin('fails');
  location = join(daemon.folder, 'other.tar');
  await expect(checkpoint()).rejects.toMatchObject({
    code: Code.INTERNAL,
    details: expect.stringMatching(/^RuntimeFailed: fails checkpoint failed: criu failed/),
  });
  expect(readdirSync(daemon.folder).filter((name) => name.startsWith('other.tar'))).toEqual([]);
  expect((await daemon.client.runtime.ExecSync({ container_id: id, cmd: ['true'] })).exit_code).toBe(0);
  await removePod(daemon, pod.id);
});

test('an invalid request is refused before the container is frozen', async () => {
  await begin('dumps');
  for (const [more, words] of [
    [{ location: 'a.tar' }, 'absolute'],
    [{ location: '/nonexistent/a.tar' }, 'no folder'],
    [{ timeout: '-1' }, 'negative'],
  ] as const) {
    await expect(checkpoint(more)).rejects.toMatchObject({
      code: Code.INVALID_ARGUMENT,
      details: expect.stringContaining(words),
    });
  }
  expect(present('/nonexistent')).toEqual([]);
  await removePod(daemon, pod.id);
});
