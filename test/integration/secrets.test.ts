// No other user of the host can read or reach environments of containers and other data
// of pods.
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { startDaemon, type Daemon } from '../helpers/daemon.js';
import { containerConfig, runPod, startContainer, testImage, untilStopped } from '../helpers/requests.js';

const secret = 'the-word-of-the-test';
let daemon: Daemon;
beforeAll(async () => {
  daemon = await startDaemon();
  await daemon.addImage(testImage);
});
afterAll(() => daemon?.destroy());

const lines = async (argv: readonly string[]): Promise<string[]> =>
  (await daemon.machine.run(argv)).stdout.split('\n').filter(Boolean);
/** Of these paths, those that this uid may use so: -r, -w, -x. */
const allowed = (uid: number, how: string, paths: readonly string[]): Promise<string[]> =>
  lines([
    'setpriv',
    `--reuid=${uid}`,
    `--regid=${uid}`,
    '--clear-groups',
    'sh',
    '-c',
    `for path; do [ ${how} "$path" ] && echo "$path"; done; true`,
    'sh',
    ...paths,
  ]);

test('files are accessible to root alone while a pod runs and a command is executed in it', async () => {
  const pod = await runPod(daemon);
  const id = await startContainer(
    daemon,
    pod,
    containerConfig(untilStopped(), { envs: [{ key: 'SECRET', value: Buffer.from(secret) }] }),
  );
  const executed = daemon.client.runtime.ExecSync({
    container_id: id,
    cmd: ['sh', '-c', 'touch /dev/shm/up; until [ -e /dev/shm/go ]; do :; done'],
    timeout: '60',
  });
  executed.catch(() => undefined);
  const other = (script: string) =>
    daemon.client.runtime.ExecSync({ container_id: id, cmd: ['sh', '-c', script], timeout: '20' });
  await other('until [ -e /dev/shm/up ]; do :; done');

  // What holds it, as text or as the bytes that records have.
  const asBytes = JSON.stringify([...Buffer.from(secret)]).slice(1, -1);
  const { root, state, socket } = daemon;
  const holders = [...(await lines(['grep', '-rlF', '-e', secret, '-e', asBytes, state]))];
  const kinds = holders.map((path) => path.replace(state, '').replaceAll(/[0-9a-f]{64}/g, 'ID'));
  expect(kinds).toEqual(
    expect.arrayContaining([
      '/bundles/ID/config.json',
      expect.stringMatching(/^\/bundles\/ID\/exec-\d+\.json$/),
      '/containers/ID.json',
    ]),
  );
  const open = (await lines(['stat', '-c', '%a %u:%g %n', ...holders])).filter(
    (line) => !/^[67]00 0:0 /.test(line),
  );
  expect(open).toEqual([]);

  // And all other files.
  const all = await lines(['find', root, state, '-xdev', '-path', '*/storage/*', '-prune', '-o', '-print']);
  expect(all).toEqual(expect.arrayContaining(holders));
  expect(await allowed(1234, '-r', [...all, socket])).toEqual([]);
  expect(await allowed(1234, '-w', [...all, socket])).toEqual([]);
  expect(await lines(['stat', '-c', '%a %F', socket])).toEqual(['660 socket']);

  await other('touch /dev/shm/go');
  await executed;
});
