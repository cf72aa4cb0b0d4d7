import { describe, expect, test } from '@jest/globals';
import type { SandboxPlan } from '../shapes/sandbox.js';
import type { IDMapping } from '../cri/generated/runtime/v1/IDMapping.js';
import type { NamespaceOption } from '../cri/generated/runtime/v1/NamespaceOption.js';
import type { UserNamespace } from '../cri/generated/runtime/v1/UserNamespace.js';
import { receivedPod, receivedSecurity } from '../../test/helpers/received.js';
import { idMap, specIdMap } from '../../test/helpers/user-namespaces.js';
import {
  cgroupsPath,
  containerNamespaces,
  isPodsOwnCgroup,
  namespacesNotHonoured,
  ownCgroupParent,
  rootGroupOf,
  userMappings,
} from './namespaces.js';

const pinned = { network: '/ns/net', ipc: '/ns/ipc', uts: '/ns/uts' };
const plan = (namespaces: SandboxPlan['namespaces'] = pinned): SandboxPlan => ({
  id: 'p',
  name: 'pod',
  namespace: 'test',
  uid: 'u',
  attempt: 0,
  labels: {},
  annotations: {},
  folder: '/p',
  hostname: 'box',
  namespaces,
  cgroupParent: '/p',
});
const options = (wanted: NamespaceOption) =>
  receivedSecurity({ namespace_options: wanted }).namespace_options;
const of = (
  wanted: NamespaceOption | null,
  from = plan(),
  targetPid?: number,
  more: { privileged?: boolean; cgroup?: 'v1' | 'v2' } = {},
) =>
  containerNamespaces({
    options: wanted && options(wanted),
    plan: from,
    targetPid,
    privileged: false,
    cgroup: 'v1',
    ...more,
  });
const pid = (...args: Parameters<typeof of>) => of(...args).filter(({ type }) => type === 'pid');

test('the namespaces of the pod are joined, those of the host are omitted', () => {
  expect(of(null)).toEqual([
    { type: 'mount' },
    { type: 'network', path: '/ns/net' },
    { type: 'uts', path: '/ns/uts' },
    { type: 'ipc', path: '/ns/ipc' },
    { type: 'pid' },
  ]);
  expect(of({ pid: 'NODE' }, plan({}))).toEqual([{ type: 'mount' }]);
  expect(of({ pid: 'CONTAINER' }, plan({ user: '/ns/user' }))).toEqual([
    { type: 'mount' },
    { type: 'user', path: '/ns/user' },
    { type: 'pid' },
  ]);
});

test('the pid namespace is a new one, or that of the pod, the host or another container', () => {
  expect(pid({ pid: 'CONTAINER' })).toEqual([{ type: 'pid' }]);
  expect(pid({ pid: 'POD' }, plan({ ...pinned, pid: '/proc/7/ns/pid' }))).toEqual([
    { type: 'pid', path: '/proc/7/ns/pid' },
  ]);
  expect(pid({ pid: 'NODE' })).toEqual([]);
  expect(pid({ pid: 'TARGET', target_id: 'x' }, plan(), 42)).toEqual([
    { type: 'pid', path: '/proc/42/ns/pid' },
  ]);
  expect(() => pid({ pid: 'TARGET', target_id: 'x' })).toThrow('target_id');
});

test('the ipc namespace can be a new one', () => {
  expect(of({ ipc: 'CONTAINER' })).toContainEqual({ type: 'ipc' });
});

test('a cgroup namespace is used on v2, and not for privileged containers', () => {
  const has = (more: Parameters<typeof of>[3]) =>
    of(null, plan(), undefined, more).some(({ type }) => type === 'cgroup');
  expect([has({ cgroup: 'v1' }), has({ cgroup: 'v2' }), has({ cgroup: 'v2', privileged: true })]).toEqual([
    false,
    true,
    false,
  ]);
});

test.each<[NamespaceOption, SandboxPlan['namespaces'], string[]]>([
  [{ network: 'POD', ipc: 'POD', pid: 'CONTAINER' }, pinned, []],
  [{ network: 'NODE', ipc: 'NODE', pid: 'NODE' }, {}, []],
  [{ network: 'NODE', ipc: 'NODE', pid: 'NODE' }, pinned, ['network', 'ipc']],
  [{ network: 'POD', ipc: 'CONTAINER', pid: 'POD' }, {}, ['network', 'pid']],
  [{ network: 'CONTAINER', ipc: 'POD', pid: 'POD' }, { ...pinned, pid: '/p' }, ['network']],
])('%j in a pod with %j: not honoured is %j', (wanted, namespaces, expected) => {
  expect(namespacesNotHonoured(options(wanted), plan(namespaces))).toEqual(expected);
});

describe('the user namespace of a pod', () => {
  const map: IDMapping[] = [{ container_id: 0, host_id: 65_536, length: 65_536 }];
  const maps = (wanted: UserNamespace) => userMappings(options({ userns_options: wanted })?.userns_options);
  test('has one mapping that begins at 0', () => {
    expect(maps({ mode: 'POD', uids: map, gids: map })).toEqual({
      uidMappings: [{ containerID: 0, hostID: 65_536, size: 65_536 }],
      gidMappings: [{ containerID: 0, hostID: 65_536, size: 65_536 }],
    });
    expect(maps({ mode: 'NODE' })).toEqual({});
    expect(userMappings(null)).toEqual({});
  });
  test.each<UserNamespace>([
    { mode: 'POD', uids: map },
    { mode: 'POD', uids: [...map, ...map], gids: map },
    { mode: 'POD', uids: [{ ...map[0], container_id: 1 }], gids: map },
    { mode: 'POD', uids: map, gids: [{ host_id: 1 }] },
    { mode: 'NODE', uids: map },
    { mode: 'CONTAINER', uids: map, gids: map },
    { mode: 'TARGET' },
  ])('%j is refused', (wanted) => {
    expect(() => maps(wanted)).toThrow(
      expect.objectContaining({ id: 'InvalidArgument', message: expect.stringContaining('userns_options') }),
    );
  });
});

test('the cgroup path has the form of the driver', () => {
  expect(cgroupsPath('/kubepods/pod1/', 'c', false)).toBe('/kubepods/pod1/c');
  expect(cgroupsPath('/kubepods.slice/kubepods-pod1.slice', 'c', true)).toBe('kubepods-pod1.slice:crisp:c');
  expect(cgroupsPath('', 'c', true)).toBe('system.slice:crisp:c');
  expect(cgroupsPath(ownCgroupParent('s', true), 'c', true)).toBe('crisp-s.slice:crisp:c');
  expect(cgroupsPath(ownCgroupParent('s', false), 'c', false)).toBe('/crisp/s/c');
  expect(() => cgroupsPath('/kubepods/pod1', 'c', true)).toThrow('is not a slice');
});

test('the ids of users and of groups may be mapped to different ids of the host', () => {
  const wanted: UserNamespace = { mode: 'POD', uids: idMap(100_000), gids: idMap(300_000) };
  const given = receivedPod({
    linux: { security_context: { namespace_options: { userns_options: wanted } } },
  });
  expect(userMappings(given.linux?.security_context?.namespace_options?.userns_options)).toEqual({
    uidMappings: specIdMap(100_000),
    gidMappings: specIdMap(300_000),
  });
  const ids = { uids: specIdMap(100_000), gids: specIdMap(300_000) };
  expect([rootGroupOf(ids), rootGroupOf(undefined)]).toEqual([300_000, undefined]);
});

test.each([
  ['/crisp/pod-id', true],
  ['/kubepods/burstable/poduid-1', true],
  ['/kubepods.slice/kubepods-poduid_1.slice', true],
  ['/pod-id/shared', false],
  ['/kubepods', false],
  ['', false],
])('whether %j is the group of one pod: %p', (cgroupParent, own) => {
  expect(isPodsOwnCgroup({ id: 'pod-id', uid: 'uid-1', cgroupParent } as SandboxPlan)).toBe(own);
  expect(isPodsOwnCgroup({ id: 'pod-id', uid: '', cgroupParent: '/kubepods' } as SandboxPlan)).toBe(false);
});
