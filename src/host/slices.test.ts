import { expect, test } from '@jest/globals';
import { propertiesOf } from './slices.js';

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
