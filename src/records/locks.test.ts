import { expect, jest, test } from '@jest/globals';
import { gate, settled } from '../../test/helpers/services.js';
import { Locks } from './locks.js';

/** Work that notes its begin and its end, and ends when it is let. */
function work(name: string, noted: string[]) {
  const { passed, open } = gate();
  return {
    open,
    run: async (): Promise<string> => {
      noted.push(`${name} begins`);
      await passed;
      noted.push(`${name} ends`);
      return name;
    },
  };
}

test('calls on the same id run one after the other, in the order of arrival', async () => {
  const locks = new Locks();
  const noted: string[] = [];
  const [first, second, third] = ['1', '2', '3'].map((name) => work(name, noted)) as [
    ReturnType<typeof work>,
    ReturnType<typeof work>,
    ReturnType<typeof work>,
  ];
  const all = [first, second, third].map(({ run }) => locks.with('a', run));
  third.open();
  second.open();
  await settled();
  expect(noted).toEqual(['1 begins']);
  first.open();
  expect(await Promise.all(all)).toEqual(['1', '2', '3']);
  expect(noted).toEqual(['1 begins', '1 ends', '2 begins', '2 ends', '3 begins', '3 ends']);
});

test('calls on another id do not wait', async () => {
  const locks = new Locks();
  const { run, open } = work('slow', []);
  const slow = locks.with('a', run);
  expect(await locks.with('b', async () => 'done')).toBe('done');
  open();
  await slow;
});

test('a failed call returns its error only to its own caller, and the next one runs', async () => {
  const locks = new Locks();
  const failing = locks.with('a', () => Promise.reject(new Error('broken')));
  const next = locks.with('a', async () => 'done');
  await expect(failing).rejects.toThrow('broken');
  await expect(next).resolves.toBe('done');
});

test('a call that arrives during the last of the queue waits for it', async () => {
  const locks = new Locks();
  const noted: string[] = [];
  const [first, second, third] = [work('1', noted), work('2', noted), work('3', noted)];
  const all = [locks.with('a', first.run), locks.with('a', second.run)];
  first.open();
  await all[0];
  await settled();
  all.push(locks.with('a', third.run));
  third.open();
  await settled();
  expect(noted).toEqual(['1 begins', '1 ends', '2 begins']);
  second.open();
  await Promise.all(all);
});

test('the locks that are held are listed, with the time of the work at hand and the number that waits', async () => {
  let now = 5_000;
  const clock = jest.spyOn(performance, 'now').mockImplementation(() => now);
  try {
    const locks = new Locks();
    const [first, second] = [work('1', []), work('2', [])];
    const both = [locks.with('a', first.run), locks.with('a', second.run)];
    await settled();
    now += 2_340;
    expect(locks.held()).toEqual([{ id: 'a', seconds: 2.3, waiting: 1 }]);
    first.open();
    await both[0];
    await settled();
    now += 700;
    expect(locks.held()).toEqual([{ id: 'a', seconds: 0.7, waiting: 0 }]);
    second.open();
    await both[1];
    expect(locks.held()).toEqual([]);
  } finally {
    clock.mockRestore();
  }
});
