import { describe, expect, test } from '@jest/globals';
import { receivedPod, receivedSecurity } from '../../test/helpers/received.js';
import type { LinuxContainerSecurityContext } from '../cri/generated/runtime/v1/LinuxContainerSecurityContext.js';
import { resolveUser } from './users.js';

const files = {
  passwd:
    '# accounts\nroot:x:0:0:root:/root:/bin/sh\nweb:x:1000:1001::/home/web:/bin/sh\nbroken\nbad:x:many:0::/:\n',
  group: 'root:x:0:\nweb:x:1001:\nstaff:x:50:mail,web\nadm:x:4:root\n',
};
const resolve = (security: LinuxContainerSecurityContext | null, imageUser = '', from = files) => {
  const { home, ...user } = resolveUser(security && receivedSecurity(security), null, imageUser, from);
  return { ...user, home };
};

test.each([
  ['nothing', '', { uid: 0, gid: 0, supplementalGroups: [0, 4], home: '/root' }],
  ['a name', 'web', { uid: 1000, gid: 1001, supplementalGroups: [1001, 50], home: '/home/web' }],
  ['a name and a group', 'web:staff', { uid: 1000, gid: 50, supplementalGroups: [50], home: '/home/web' }],
  [
    'an id with an account',
    '1000',
    { uid: 1000, gid: 1001, supplementalGroups: [1001, 50], home: '/home/web' },
  ],
  ['an id and a group id', '7:8', { uid: 7, gid: 8, supplementalGroups: [8], home: '/' }],
  ['an id without an account', '7', { uid: 7, gid: 0, supplementalGroups: [0], home: '/' }],
])('the user of the image: %s', (_, imageUser, expected) => {
  expect(resolve(null, imageUser)).toEqual(expected);
  expect(resolve({}, imageUser)).toEqual(expected);
});

describe('the user of the request', () => {
  test('overrides that of the image, including its group', () => {
    expect(resolve({ run_as_user: { value: 7 } }, 'web:staff')).toEqual({
      uid: 7,
      gid: 0,
      supplementalGroups: [0],
      home: '/',
    });
    expect(resolve({ run_as_username: 'web' }, '5:6')).toMatchObject({ uid: 1000, gid: 1001 });
    expect(resolve({ run_as_user: { value: 0 } }, 'web')).toMatchObject({ uid: 0, gid: 0, home: '/root' });
  });
  test('has its groups in addition to those of the image, or alone with Strict', () => {
    const wanted = { run_as_username: 'web', run_as_group: { value: 9 }, supplemental_groups: [3, 50] };
    // The order of Kubernetes' node tests: the primary group, groups of the image, groups of the request.
    expect(resolve(wanted).supplementalGroups).toEqual([9, 50, 3]);
    expect(resolve({ ...wanted, supplemental_groups: [7, 3] }).supplementalGroups).toEqual([9, 50, 7, 3]);
    expect(
      resolve({ ...wanted, supplemental_groups: [3], supplemental_groups_policy: 'Strict' })
        .supplementalGroups,
    ).toEqual([9, 3]);
  });
  test('has the policy of the pod if the container has no security context', () => {
    const pod =
      receivedPod({ linux: { security_context: { supplemental_groups_policy: 'Strict' } } }).linux
        ?.security_context ?? null;
    expect(resolveUser(null, pod, 'web', files).supplementalGroups).toEqual([1001]);
  });
});

test.each([
  ['UserNotFound', { run_as_username: 'nobody-here' }, ''],
  ['UserNotFound', null, 'nobody-here'],
  ['UserNotFound', null, 'web:no-group'],
  ['InvalidArgument', { run_as_group: { value: 5 } }, 'web'],
  ['InvalidArgument', { run_as_user: { value: -1 } }, ''],
  ['InvalidArgument', { run_as_user: { value: '4294967296' } }, ''],
  ['InvalidArgument', { supplemental_groups: [-5] }, ''],
])('%s for %j of an image of user "%s"', (id, security, imageUser) => {
  expect(() => resolve(security, imageUser)).toThrow(expect.objectContaining({ id }));
});

describe('ids that the kernel would misread', () => {
  const highest = 2 ** 32 - 2;
  const passwd = (uid: string | number, gid: string | number = 5) => ({
    passwd: `web:x:${uid}:${gid}::/:`,
    group: '',
  });

  test.each(['4294967295', '4294967296', '18446744073709551616', '-1'])('%s in the image', (id) => {
    const invalid = expect.objectContaining({ id: 'InvalidArgument' });
    expect(() => resolve(null, 'web', passwd(id))).toThrow(invalid);
    expect(() => resolve(null, 'web', passwd(7, id))).toThrow(invalid);
    expect(() => resolve({ run_as_username: 'web' }, '', passwd(id))).toThrow(invalid);
    const group = { passwd: 'web:x:7:5::/:', group: `big:x:${id}:web` };
    expect(() => resolve(null, 'web', group)).toThrow(invalid);
    expect(() => resolve(null, 'root:big', { ...group, passwd: 'root:x:0:0::/:' })).toThrow(invalid);
    expect(() => resolve(null, id)).toThrow(invalid);
    expect(() => resolve(null, `7:${id}`)).toThrow(invalid);
  });
  test.each(['4294967295', '4294967296', '-1'])('%s in the request', (value) => {
    const invalid = expect.objectContaining({ id: 'InvalidArgument' });
    expect(() => resolve({ run_as_user: { value } })).toThrow(invalid);
    expect(() => resolve({ run_as_user: { value: 1 }, run_as_group: { value } })).toThrow(invalid);
    expect(() => resolve({ supplemental_groups: [value] })).toThrow(invalid);
  });
  test('the highest id is valid, and a line without a number is ignored', () => {
    expect(resolve(null, 'web', passwd(highest, highest))).toMatchObject({ uid: highest, gid: highest });
    expect(resolve({ run_as_user: { value: highest } })).toMatchObject({ uid: highest });
    for (const uid of ['', '0x0', '1e3', ' '])
      expect(() => resolve(null, 'web', passwd(uid))).toThrow('not in the passwd file');
  });
});

test('an image without accounts accepts ids, and no names', () => {
  const none = { passwd: '', group: '' };
  expect(resolve(null, '', none)).toEqual({ uid: 0, gid: 0, supplementalGroups: [0], home: '/' });
  expect(() => resolve(null, 'root', none)).toThrow('not in the passwd file');
});

test.each<[string, string, string]>([
  ['user', 'x:x:4294967295:1::/:', ''],
  ['group', 'x:x:1:4294967295::/:', ''],
  ['group', 'x:x:1:1::/:', 'g:x:4294967295:x'],
])('a %s id of the image that is too large is named as such', (what, passwd, group) => {
  expect(() => resolveUser(null, null, 'x', { passwd, group })).toThrow(
    new RegExp(`^${what} id 4294967295 `),
  );
});

test('a user without an account has the group of root', () => {
  expect(resolveUser(null, null, '77', { passwd: '', group: '' })).toEqual({
    uid: 77,
    gid: 0,
    supplementalGroups: [0],
    home: '/',
  });
});
