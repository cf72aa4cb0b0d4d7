// With a stand-in for systemctl, which notes its arguments.
import { beforeEach, describe, expect, jest, test } from '@jest/globals';

const asked: string[] = [];
/** The verb that systemctl refuses. */
let refused = '';
jest.unstable_mockModule('./run.js', () => ({
  run: (argv: readonly string[], { stage }: { stage: string }) => {
    asked.push(argv.join(' '));
    return argv[1] === refused ? Promise.reject(new Error(stage)) : Promise.resolve();
  },
}));
const present = new Set<string>();
jest.unstable_mockModule('node:fs', () => ({ existsSync: (path: string) => present.has(path) }));
const { propertiesOf, setSliceProperties, startSlice, stopSlice } = await import('./slices.js');

test.each([
  ['cpu.weight', '100', ['CPUWeight=100']],
  ['cpu.max', '150000 100000', ['CPUQuota=150.00%', 'CPUQuotaPeriodSec=100000us']],
  ['cpu.max', 'max 50000', ['CPUQuota=', 'CPUQuotaPeriodSec=50000us']],
  ['cpuset.cpus', '0-1', ['AllowedCPUs=0-1']],
  ['cpuset.mems', '0', ['AllowedMemoryNodes=0']],
  ['memory.max', '1048576', ['MemoryMax=1048576']],
  ['memory.max', 'max', ['MemoryMax=infinity']],
  ['memory.swap.max', '0', ['MemorySwapMax=0']],
  ['pids.max', 'max', ['TasksMax=infinity']],
  ['hugetlb.2MB.max', '0', []],
])('%s %s', (file, value, properties) => {
  expect(propertiesOf(file, value)).toEqual(properties);
});

describe('systemd is asked by systemctl', () => {
  beforeEach(() => {
    asked.length = 0;
    present.clear();
    refused = '';
  });
  const slice = `/crisp.slice/crisp-${process.pid}.slice`;
  const name = `crisp-${process.pid}.slice`;

  test('to start and to stop a slice by its name', async () => {
    await startSlice(slice);
    await stopSlice(slice);
    expect(asked).toEqual([`systemctl start -- ${name}`, `systemctl stop -- ${name}`]);
  });

  test('to forget the limits that it has kept for a slice, once that is stopped', async () => {
    present.add(`/run/systemd/system.control/${name}.d`);
    await stopSlice(slice);
    expect(asked).toEqual([`systemctl stop -- ${name}`, `systemctl revert -- ${name}`]);
    refused = 'revert';
    await expect(stopSlice(slice)).rejects.toThrow('revert slice');
  });

  test('to set what it supports, until the next boot, and nothing without that', async () => {
    await setSliceProperties(slice, [
      ['pids.max', '7'],
      ['hugetlb.2MB.max', '0'],
      ['memory.max', '4096'],
    ]);
    await setSliceProperties(slice, [['hugetlb.2MB.max', '0']]);
    expect(asked).toEqual([`systemctl set-property --runtime -- ${name} TasksMax=7 MemoryMax=4096`]);
  });

  test('and its refusal is an error', async () => {
    refused = 'start';
    await expect(startSlice(slice)).rejects.toThrow('start slice');
  });
});
