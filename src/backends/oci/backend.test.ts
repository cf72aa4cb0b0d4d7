import { describe, expect, test } from '@jest/globals';
import { cgroupOfContainer, stateOf } from './backend.js';

describe('the group in the record of a container', () => {
  const process = { pid: 1234, startTime: '5' };
  // A pid that does not exist: the kernel names no group, as on cgroup v1.
  const nobody = 2 ** 30;

  test.each([
    ['kubepods-burstable.slice:crisp:abc', '/kubepods.slice/kubepods-burstable.slice/crisp-abc.scope'],
    ['/crisp/pod1/abc', '/crisp/pod1/abc'],
    [undefined, ''],
  ])('of %p is a path that the record accepts: %p', async (specified, path) => {
    const cgroup = await cgroupOfContainer(nobody, specified);
    expect(cgroup).toBe(path);
    const state = { process, cgroup, terminal: false, ownPidNamespace: true };
    expect(stateOf({ id: 'abc', folder: '/f', logPath: '', state })).toMatchObject({ cgroup: path });
  });
});
