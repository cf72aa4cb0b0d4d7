import { expect, test } from '@jest/globals';
import { parseNetDev, readInterfaces } from './net-dev.js';

const text = `Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo:    1       2    0    0    0     0          0         0        1       2    0    0    0     0       0          0
  eth0:1234567  100    3    4    0     0          0         0  7654321     200    5    6    0     0       0          0
`;

test('both directions of each interface', () => {
  expect(parseNetDev(text)).toEqual([
    {
      name: 'lo',
      receive: { bytes: 1, packets: 2, errors: 0, dropped: 0 },
      transmit: { bytes: 1, packets: 2, errors: 0, dropped: 0 },
    },
    {
      name: 'eth0',
      receive: { bytes: 1234567, packets: 100, errors: 3, dropped: 4 },
      transmit: { bytes: 7654321, packets: 200, errors: 5, dropped: 6 },
    },
  ]);
});

test('of a process in its namespace, without the loopback', () => {
  expect(readInterfaces(process.pid, '/proc/self/ns/net')?.map(({ name }) => name)).not.toContain('lo');
  expect(readInterfaces(process.pid, '/proc/self/ns/uts')).toBeUndefined();
  expect(readInterfaces(2 ** 22 + 1, '/proc/self/ns/net')).toBeUndefined();
});
