// The limits of a container, as seen by its process and in its cgroup, on the daemon
// with each runtime.
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from '@jest/globals';
import { existsSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { cgroupVersion } from '../../src/host/cgroup.js';
import type { LinuxContainerResources } from '../../src/cri/generated/runtime/v1/LinuxContainerResources.js';
import { givenNofileVariable } from '../../src/oci/ulimits.js';
import { startDaemon, type Daemon } from '../helpers/daemon.js';
import {
  containerConfig,
  removePod,
  runPod,
  startContainer,
  testImage,
  untilStopped,
} from '../helpers/requests.js';

const mib = 1 << 20;
const v1 = cgroupVersion() === 'v1';
const countsSwap = !v1 || existsSync('/sys/fs/cgroup/memory/memory.memsw.limit_in_bytes');
/** Memory, and what swap may come on top, in MiB or "max". */
const memory = v1
  ? 'for file in memory memory.memsw; do cat /sys/fs/cgroup/memory/$file.limit_in_bytes; done'
  : 'cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/memory.swap.max';
function inMib(text: string): (number | 'max')[] {
  const [limit = '', swap = ''] = text.trim().split('\n');
  const of = (value: string): number | 'max' =>
    value === 'max' || Number(value) > 2 ** 60 ? 'max' : Number(value) / mib;
  const [first, second] = [of(limit), of(swap)];
  return [first, v1 && first !== 'max' && second !== 'max' ? second - first : second];
}

let daemon: Daemon;
beforeAll(async () => {
  daemon = await startDaemon({
    config: { runtime: { default_ulimits: { core: '0', stack: '4194304:8388608' } } },
    env: { [givenNofileVariable]: '1000' }, // as bin/crisp inherits it
  });
  await daemon.addImage(testImage);
});
afterAll(() => daemon?.destroy());

describe.each(['crun', 'runc'])('%s', (handler) => {
  let pod: Awaited<ReturnType<typeof runPod>>;
  beforeEach(async () => {
    pod = await runPod(daemon, {}, handler);
  });
  afterEach(() => removePod(daemon, pod.id));

  const started = (resources: LinuxContainerResources, name = 'main') =>
    startContainer(
      daemon,
      pod,
      containerConfig(untilStopped(), { metadata: { name, attempt: 0 }, linux: { resources } }),
    );
  const output = async (id: string, script: string): Promise<string> =>
    String(
      (await daemon.client.runtime.ExecSync({ container_id: id, cmd: ['sh', '-c', script], timeout: '20' }))
        .stdout,
    );
  const update = (id: string, linux: LinuxContainerResources) =>
    daemon.client.runtime.UpdateContainerResources({ container_id: id, linux });

  (countsSwap ? test : test.skip)(
    'a memory limit without a swap limit allows no swap, at creation and after updates',
    async () => {
      const id = await started({ memory_limit_in_bytes: 64 * mib });
      expect(inMib(await output(id, memory))).toEqual([64, 0]);
      await update(id, { memory_limit_in_bytes: 96 * mib });
      expect(inMib(await output(id, memory))).toEqual([96, 0]);
      await update(id, { memory_limit_in_bytes: 48 * mib });
      expect(inMib(await output(id, memory))).toEqual([48, 0]);
      await update(id, { memory_limit_in_bytes: 48 * mib, memory_swap_limit_in_bytes: 64 * mib });
      expect(inMib(await output(id, memory))).toEqual([48, 16]);
      const swaps = await started(
        { memory_limit_in_bytes: 64 * mib, memory_swap_limit_in_bytes: 96 * mib },
        'swaps',
      );
      expect(inMib(await output(swaps, memory))).toEqual([64, 32]);
      const free = await started({ memory_limit_in_bytes: 64 * mib, memory_swap_limit_in_bytes: -1 }, 'free');
      expect(inMib(await output(free, memory))).toEqual([64, 'max']);
      expect(inMib(await output(await started({}, 'none'), memory))).toEqual(['max', 'max']);
    },
  );

  test('a negative quota means no quota, at creation and at an update', async () => {
    const quota = v1
      ? 'cat /sys/fs/cgroup/cpu/cpu.cfs_quota_us'
      : "sed 's/ .*//; s/max/-1/' /sys/fs/cgroup/cpu.max";
    const id = await started({ cpu_quota: -1, cpu_period: 100_000, cpu_shares: 512 });
    expect(await output(id, quota)).toBe('-1\n');
    await update(id, { cpu_quota: 50_000, cpu_period: 100_000 });
    expect(await output(id, quota)).toBe('50000\n');
    await update(id, { cpu_quota: -1, cpu_period: 100_000 });
    expect(await output(id, quota)).toBe('-1\n');
  });

  test('the daemon has a higher oom_score_adj than other processes, and a container does not inherit it', async () => {
    const niceOf = (stat: string): string | undefined => stat.slice(stat.lastIndexOf(')')).split(' ')[17]; // proc_pid_stat(5)
    expect(niceOf(await readFile(`/proc/${daemon.pid}/stat`, 'utf8'))).toBe('-10');
    const id = await started({});
    expect(niceOf(await output(id, 'cat /proc/1/stat'))).toBe('0');
    expect(niceOf(await output(id, 'cat /proc/self/stat'))).toBe('0');
  });

  test('open files have the limit of the service, and configured ulimits apply, also to exec', async () => {
    const limits = 'ulimit -S -n; ulimit -S -c; ulimit -H -c; ulimit -S -s; ulimit -H -s';
    const expected = '1000\n0\n0\n4096\n8192\n';
    const id = await startContainer(
      daemon,
      pod,
      containerConfig(`(${limits}) >/tmp/limits; ${untilStopped()}`),
    );
    expect(await output(id, `until [ -s /tmp/limits ]; do sleep 0.1; done; cat /tmp/limits`)).toBe(expected);
    // `runc exec` built with Go 1.19 or newer raises the soft limit of open files itself (until runc 1.1.13), on containerd as well.
    const raised = handler === 'runc' ? /^\d+\n/ : /^1000\n/;
    expect(await output(id, limits)).toMatch(raised);
    expect((await output(id, limits)).replace(raised, '1000\n')).toBe(expected);
    expect(Number(await output(id, 'ulimit -H -n'))).toBeGreaterThan(1000);
  });
});
