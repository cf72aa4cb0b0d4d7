// The advice that a client gets about CTs, followed: each call fails, what its hint says is
// done, and then the call works.
import { afterAll, afterEach, beforeAll, expect, test } from '@jest/globals';
import type { Daemon } from '../helpers/daemon.js';
import { hintPattern } from '../helpers/hints.js';
import {
  containerConfig,
  createContainer,
  removePod,
  runPod,
  startContainer,
  untilStopped,
} from '../helpers/requests.js';
import { podInUserNamespace } from '../helpers/user-namespaces.js';
import { addBridge, Node } from './node.js';

const key = (name: string): string => `io.crisp.lxc.${name}`;
let node: Node;
let bridge: Awaited<ReturnType<typeof addBridge>>;
let daemon: Daemon;
type Pod = Awaited<ReturnType<typeof runPod>>;
let pods: Pod[] = [];

beforeAll(async () => {
  bridge = await addBridge('198.18.91.1/24');
  [node, daemon] = await Node.withDaemon(
    { bridge: { name: bridge.name } },
    { allowed_annotations: [key('*')] },
  );
});
afterEach(async () => {
  for (const { id } of pods) await removePod(daemon, id);
  pods = [];
  expect([await node.guests(), await node.remains()]).toEqual([[], []]);
});
afterAll(async () => {
  await node?.stop();
  await bridge?.remove();
});

async function ran(more: Parameters<typeof runPod>[1] = {}): Promise<Pod> {
  const pod = await runPod(daemon, more, 'lxc');
  pods.push(pod);
  return pod;
}
/** The daemon runs with these keys of the section "lxc", and of its handler. */
async function configured(
  lxc: Readonly<Record<string, unknown>> = {},
  handler: Readonly<Record<string, unknown>> = { allowed_annotations: [key('*')] },
): Promise<void> {
  await daemon.writeConfig(node.config({ bridge: { name: bridge.name }, ...lxc }, handler));
  await daemon.restart();
}
const created = (pod: Pod, name = 'main', script = untilStopped()): Promise<string> =>
  createContainer(daemon, pod, containerConfig(script, { metadata: { name, attempt: 0 } }));
const start = (id: string): Promise<unknown> => daemon.client.runtime.StartContainer({ container_id: id });

async function refused(hint: RegExp, call: () => Promise<unknown>): Promise<void> {
  await expect(call()).rejects.toMatchObject({ details: expect.stringMatching(hint) });
}

test('a user namespace with other ids is left to the CT', async () => {
  await refused(hintPattern('remove hostUsers: CTs are unprivileged without it'), () =>
    ran(podInUserNamespace(300_000)),
  );
  const id = await startContainer(daemon, await ran(), containerConfig(untilStopped()));
  const { stdout } = await daemon.client.runtime.ExecSync({
    container_id: id,
    cmd: ['cat', '/proc/self/uid_map'],
    timeout: '60',
  });
  expect(stdout.toString().trim().split(/\s+/)).toEqual(['0', '100000', '65536']);
});

test('a further network is requested by a pod on a bridge', async () => {
  const annotations = { [key('net1')]: `bridge=${bridge.name}` };
  await refused(hintPattern('add the annotation NAMEnetwork: bridge'), () => ran({ annotations }));
  await created(await ran({ annotations: { ...annotations, [key('network')]: 'bridge' } }));
});

test('an annotation that is not allowed is added to the configuration', async () => {
  const annotations = { [key('network')]: 'bridge', [key('address')]: '198.18.91.6/24' };
  await configured({}, {});
  try {
    await refused(hintPattern('add it, or a pattern for it, to allowed_annotations of the handler'), () =>
      ran({ annotations }),
    );
  } finally {
    await configured();
  }
  await created(await ran({ annotations }));
});

test('several containers run in a pod on the CNI network', async () => {
  const annotations = { [key('network')]: 'bridge', [key('address')]: '198.18.91.5/24' };
  const alone = await ran({ annotations });
  await start(await created(alone, 'first'));
  const second = await created(alone, 'second');
  await refused(
    hintPattern(
      'a pod on a bridge runs one container at a time; use the CNI network for pods with several containers',
    ),
    () => start(second),
  );
  const together = await ran();
  for (const name of ['first', 'second']) await start(await created(together, name));
});

test('a CT that was changed by hand gets its tag back, or its container is removed once the CT is gone', async () => {
  const pod = await ran();
  const id = await created(pod);
  const [guest = ''] = await node.guests();
  const before = await node.guest(guest);
  await node.writeGuest(guest, before.replace(/^tags: .*$/m, 'tags: web'));
  await refused(hintPattern('check lxc.vmid_range, and the tags and owner of the guest'), () => start(id));
  await node.writeGuest(guest, before);
  await start(id);
  await daemon.client.runtime.StopContainer({ container_id: id, timeout: '10' });
  const later = await created(pod, 'later');
  const [gone = ''] = (await node.guests()).filter((name) => name !== guest);
  await node.removeGuest(gone);
  await refused(hintPattern('remove the container; its pod makes a new one'), () => start(later));
  await daemon.client.runtime.RemoveContainer({ container_id: later });
  await start(await created(pod, 'later'));
});

test('a range of ids without a free one is widened', async () => {
  const range = (first: number) => configured({ vmid_range: { first, last: node.lastVmid } });
  await range(node.lastVmid);
  const pod = await ran();
  await created(pod, 'first');
  await refused(hintPattern('widen lxc.vmid_range'), () => created(pod, 'second'));
  await range(node.lastVmid - 1);
  await created(pod, 'second');
});
