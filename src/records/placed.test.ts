// The paths of records follow from their ids, whatever the records say.
import { expect, test } from '@jest/globals';
import { podConfigOf } from '../../test/helpers/services.js';
import { containerConfigOf } from '../cri/proto.js';
import { bundleOf, identityOf, placedContainer, placedSandbox, podOf } from './placed.js';
import type { StoredContainer, StoredSandbox } from './records.js';

const id = 'a'.repeat(64);
const own = { linux: { cgroup_parent: '' } };
const sandbox = (change: object = {}, config: object = {}): StoredSandbox =>
  ({
    id,
    config: podConfigOf('u1', { labels: { l: '1' }, annotations: { a: '2' }, hostname: 'box', ...config }),
    ...change,
    plan: { namespaces: {}, cgroupParent: '/crisp-test-none', ...(change as { plan?: object }).plan },
  }) as unknown as StoredSandbox;

test('a pod is placed by its id, and described by its request', () => {
  const map = { uids: [], gids: [] };
  expect(placedSandbox(sandbox({ plan: { idMaps: map, ownNetwork: true } }), '/state').plan).toEqual({
    id,
    name: 'pod',
    namespace: 'test',
    uid: 'u1',
    attempt: 0,
    labels: { l: '1' },
    annotations: { a: '2' },
    hostname: 'box',
    folder: `/state/pods/${id}`,
    namespaces: {},
    idMaps: map,
    ownNetwork: true,
    cgroupParent: '/crisp-test-none',
  });
  const bare = placedSandbox(sandbox({}, { hostname: '' }), '/state').plan;
  expect(bare).not.toHaveProperty('idMaps');
  expect(bare).not.toHaveProperty('ownNetwork');
  expect(bare.hostname).toBeUndefined();
  expect(placedSandbox(sandbox({ plan: { ownNetwork: false } }), '/state').plan.ownNetwork).toBe(false);
});

test('the namespaces of a pod are those that it has, in its folder; that of its holder is in /proc', () => {
  const namespaces = { network: '/etc', pid: '/etc' };
  const holder = { pid: 4711, startTime: '1' };
  const placed = (change: object) =>
    placedSandbox(sandbox({ ...change, plan: { namespaces } }), '/state').plan;
  expect(placed({ holder }).namespaces).toEqual({
    network: `/state/pods/${id}/ns/net`,
    pid: '/proc/4711/ns/pid',
  });
  expect(placed({}).namespaces).toEqual({ network: `/state/pods/${id}/ns/net` });
  expect(placedSandbox(sandbox({ holder }), '/state').plan.namespaces).toEqual({});
});

test.each<[string, object, string, boolean]>([
  ['of its request', {}, '/crisp-test-none', true],
  ['of another request', {}, '/kubepods', false],
  ['of crisp, without systemd', own, `/crisp/${id}`, true],
  ['of crisp, with systemd', own, `/crisp.slice/crisp-${id}.slice`, true],
  ['of crisp, where the request names one', {}, `/crisp/${id}`, false],
  ['of another pod', own, `/crisp/${'b'.repeat(64)}`, false],
])('a cgroup %s', (_, config, cgroupParent, isValid) => {
  const place = () => placedSandbox(sandbox({ plan: { cgroupParent } }, config), '/state');
  if (isValid) expect(place().plan.cgroupParent).toBe(cgroupParent);
  else expect(place).toThrow(`plan.cgroupParent: ${cgroupParent} is not its own`);
});

test('a request without metadata has empty names', () => {
  const config = { ...podConfigOf('u1'), metadata: null };
  expect(identityOf(id, config)).toMatchObject({ name: '', namespace: '', uid: '', attempt: 0 });
});

test('a container is placed by its id, with its log where both requests have it', () => {
  const pod = placedSandbox(sandbox({}, { log_directory: '/var/log/pods/p' }), '/state');
  const container = (logPath: string) =>
    ({
      id,
      logPath,
      config: containerConfigOf({ log_path: 'c/0.log' }),
    }) as unknown as StoredContainer;
  const log = '/var/log/pods/p/c/0.log';
  expect(placedContainer(container(log), '/state', pod)).toMatchObject({
    folder: `/state/bundles/${id}`,
    logPath: log,
  });
  expect(placedContainer(container(''), '/state', pod).logPath).toBe('');
  expect(() => placedContainer(container('/etc/shadow'), '/state', pod)).toThrow('/etc/shadow');
  // Nothing can be compared without the record of its pod.
  expect(placedContainer(container('/elsewhere'), '/state', undefined).logPath).toBe('/elsewhere');
});

test('pods and bundles are in folders of their own', () => {
  expect([podOf('/state', 'x'), bundleOf('/state', 'x')]).toEqual(['/state/pods/x', '/state/bundles/x']);
});
