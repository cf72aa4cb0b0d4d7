import { expect, test } from '@jest/globals';
import { entrypoint, guestLines } from './guest.js';

test('the process of an image in lines that pct preserves', () => {
  const root = { uid: 0, gid: 0 };
  expect(guestLines({ env: ['A=b c'], cwd: '/', user: root }, '15', 'lxc.environment.runtime')).toEqual([
    'lxc.environment.runtime: A=b c',
    'lxc.signal.halt: 15',
  ]);
  expect(
    guestLines({ env: [], cwd: '/srv', user: { uid: 7, gid: 8, additionalGids: [9, 10] } }, '3', 'x'),
  ).toEqual([
    'lxc.init.cwd: /srv',
    'lxc.init.uid: 7',
    'lxc.init.gid: 8',
    'lxc.init.groups: 9,10',
    'lxc.signal.halt: 3',
  ]);
  for (const bad of [{ env: ['A=1\nlxc.hook.start: /x'] }, { cwd: '/x\nlxc.include: /y' }])
    expect(() => guestLines({ env: [], cwd: '/', user: root, ...bad }, '15', 'x')).toThrow('cannot hold');
});

test('the command, split as liblxc does', () => {
  expect(entrypoint(['/bin/sh', '-c', 'echo "$A"', "it's", ''])).toBe(`/bin/sh -c 'echo "$A"' "it's" ''`);
  for (const bad of [`'"`, 'a\nb', 'a\\'])
    expect(() => entrypoint([bad])).toThrow(expect.objectContaining({ id: 'InvalidArgument' }));
});
