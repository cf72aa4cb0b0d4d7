import { expect, test } from '@jest/globals';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { createInterface } from 'node:readline';
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

test('a pod cannot make two of them look the same, and not more than the kubelet takes', async () => {
  const script = `ip link add x type veth peer name y
ip link set x name "$(printf 'odd\\377')"; ip link set y name "$(printf 'odd\\376')"
for number in $(seq 150); do echo link add a$number type veth peer name b$number; done | ip -batch -
echo made; exec sleep 1000`;
  const child = spawn('unshare', ['--net', 'sh', '-c', script], { stdio: ['ignore', 'pipe', 'inherit'] });
  try {
    await once(createInterface(child.stdout), 'line');
    const pid = child.pid ?? 0;
    const names = (readInterfaces(pid, `/proc/${pid}/ns/net`) ?? []).map(({ name }) => name);
    expect(names.filter((name) => name.startsWith('odd')).sort()).toEqual(['odd\xfe', 'odd\xff']);
    expect(new Set(names).size).toBe(256);
    expect(names.length).toBe(256);
  } finally {
    child.kill('SIGKILL');
    await once(child, 'exit');
  }
});
