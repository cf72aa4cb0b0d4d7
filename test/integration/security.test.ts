// Further settings of containers, from the request to the process, on the daemon with
// each runtime: user namespaces with idmapped volumes, recursively read-only mounts,
// CDI devices, huge pages, and the report of unsupported settings in the status.
import { status as Code } from '@grpc/grpc-js';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { existsSync, readFileSync } from 'node:fs';
import { mkdir, rmdir, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { ContainerConfig } from '../../src/cri/generated/runtime/v1/ContainerConfig.js';
import type { LinuxContainerSecurityContext } from '../../src/cri/generated/runtime/v1/LinuxContainerSecurityContext.js';
import { startDaemon, type Daemon } from '../helpers/daemon.js';
import {
  containerConfig,
  createContainer,
  removePod,
  runPod,
  startContainer,
  testImage,
  untilStopped,
} from '../helpers/requests.js';
import { idMap, podInUserNamespace, userNamespaceFrom } from '../helpers/user-namespaces.js';

let daemon: Daemon;
let features: Map<string, { recursive_read_only_mounts: boolean; user_namespaces: boolean } | null>;
beforeAll(async () => {
  daemon = await startDaemon();
  await daemon.addImage(testImage);
  const { runtime_handlers: handlers } = await daemon.client.runtime.Status({});
  features = new Map(handlers.map(({ name, features: has }) => [name, has]));
});
afterAll(() => daemon?.destroy());

const execIn = async (id: string, script: string): Promise<string> =>
  String(
    (await daemon.client.runtime.ExecSync({ container_id: id, cmd: ['sh', '-c', script], timeout: '10' }))
      .stdout,
  );
const secured = (
  security_context: LinuxContainerSecurityContext,
  more: ContainerConfig = {},
): ContainerConfig => containerConfig(untilStopped(), { linux: { security_context }, ...more });
const infoOf = async (id: string) =>
  JSON.parse(
    (await daemon.client.runtime.ContainerStatus({ container_id: id, verbose: true })).info['info'] ?? '{}',
  ) as { pid: number; notHonoured: string[] };

describe.each(['crun', 'runc'])('%s', (handler) => {
  test('the user namespace of a pod, with a volume whose files keep their owners', async () => {
    const userns_options = userNamespaceFrom(300_000);
    const pod = await runPod(daemon, podInUserNamespace(300_000), handler);
    const volume = join(daemon.folder, `volume-${handler}`);
    await mkdir(volume);
    await writeFile(join(volume, 'mine'), '', { mode: 0o600 });
    const wanted = secured(
      { namespace_options: { userns_options, pid: 'CONTAINER' } },
      {
        mounts: [
          {
            host_path: volume,
            container_path: '/volume',
            uidMappings: idMap(300_000),
            gidMappings: idMap(300_000),
          },
        ],
      },
    );
    if (!features.get(handler)?.user_namespaces) {
      await expect(createContainer(daemon, pod, wanted)).rejects.toMatchObject({
        code: Code.INVALID_ARGUMENT,
        details: expect.stringContaining('cannot map the ids of a mount'),
      });
    } else {
      const id = await startContainer(daemon, pod, wanted);
      expect(
        await execIn(
          id,
          'tr -s " " </proc/self/uid_map; stat -c %u /volume/mine /bin/sh; echo text >/volume/made && echo made',
        ),
      ).toBe(' 0 300000 65536\n0\n0\nmade\n');
      expect((await stat(join(volume, 'made'))).uid).toBe(0);
      const { pid } = await infoOf(id);
      expect((await stat(`/proc/${pid}`)).uid).toBe(300_000);
    }
    await removePod(daemon, pod.id);
  });

  test('an image volume in the user namespace of a pod belongs to its root', async () => {
    const userns_options = userNamespaceFrom(300_000);
    const pod = await runPod(daemon, podInUserNamespace(300_000), handler);
    const before = await daemon.traces();
    // The kubelet may name the mapping of the pod for it, or not.
    for (const [name, more] of [
      ['plain', {}],
      ['mapped', { uidMappings: idMap(300_000), gidMappings: idMap(300_000) }],
    ] as const) {
      const id = await startContainer(
        daemon,
        pod,
        secured(
          { namespace_options: { userns_options, pid: 'CONTAINER' } },
          {
            metadata: { name, attempt: 0 },
            mounts: [
              {
                image: { image: testImage },
                image_sub_path: 'bin',
                container_path: '/programs',
                readonly: true,
                ...more,
              },
            ],
          },
        ),
      );
      expect(
        await execIn(
          id,
          'stat -c "%u %g" /programs/sh; /programs/busybox echo runs; touch /programs/x 2>&1 | sed "s/.*: //"',
        ),
      ).toBe('0 0\nruns\nRead-only file system\n');
      await daemon.client.runtime.StopContainer({ container_id: id, timeout: '10' });
      await daemon.client.runtime.RemoveContainer({ container_id: id });
    }
    expect(await daemon.traces()).toEqual(before);
    await removePod(daemon, pod.id);
  });

  test('all users may use ports below 1024 and ping, unless the pod says otherwise', async () => {
    const settings = 'cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/net/ipv4/ping_group_range';
    const wanted = secured({ run_as_user: { value: '1000' } });
    const pod = await runPod(daemon, {}, handler);
    const id = await startContainer(daemon, pod, wanted);
    expect(await execIn(id, `${settings} | tr '\\t' ' '; httpd -p 80 && echo listens`)).toBe(
      '0\n0 2147483647\nlistens\n',
    );
    await removePod(daemon, pod.id);
    const strict = await runPod(
      daemon,
      { linux: { sysctls: { 'net/ipv4/ip_unprivileged_port_start': '1024' } } },
      handler,
    );
    expect(await execIn(await startContainer(daemon, strict, wanted), `${settings} | head -1`)).toBe(
      '1024\n',
    );
    await removePod(daemon, strict.id);
  });

  test('a recursively read-only mount', async () => {
    const source = join(daemon.folder, `source-${handler}`);
    await mkdir(join(source, 'below'), { recursive: true });
    await daemon.machine.must(['mount', '-t', 'tmpfs', 'below', join(source, 'below')]);
    const pod = await runPod(daemon, {}, handler);
    const wanted = (recursive_read_only: boolean): ContainerConfig =>
      containerConfig(untilStopped(), {
        metadata: { name: `rro-${recursive_read_only}`, attempt: 0 },
        mounts: [{ host_path: source, container_path: '/mnt', readonly: true, recursive_read_only }],
      });
    const writes = 'touch /mnt/below/x 2>/dev/null && echo written || echo refused';
    expect(await execIn(await startContainer(daemon, pod, wanted(false)), writes)).toBe('written\n');
    if (features.get(handler)?.recursive_read_only_mounts)
      expect(await execIn(await startContainer(daemon, pod, wanted(true)), writes)).toBe('refused\n');
    else await expect(createContainer(daemon, pod, wanted(true))).rejects.toThrow(/RROUnsupported/);
    await removePod(daemon, pod.id);
    await daemon.machine.must(['umount', join(source, 'below')]);
  });

  test('CDI devices from both folders; the later one takes precedence', async () => {
    const folders = ['/etc/cdi', '/run/cdi'];
    const missing = folders.filter((folder) => !existsSync(folder));
    const spec = (path: string, devices: readonly string[]): string =>
      JSON.stringify({
        cdiVersion: '0.6.0',
        kind: 'crisp.test/box',
        devices: devices.map((name) => ({
          name,
          containerEdits: {
            env: [`BOX_${name.toUpperCase()}=${path}`],
            deviceNodes: [{ path: `/dev/box-${name}`, hostPath: '/dev/zero' }],
          },
        })),
      });
    for (const folder of missing) await mkdir(folder);
    try {
      for (const folder of folders) await daemon.machine.must(['mount', '-t', 'tmpfs', 'cdi', folder]);
      await daemon.machine.must([
        'sh',
        '-c',
        'echo "$0" >/etc/cdi/a.json; echo "$1" >/run/cdi/b.json',
        spec('etc', ['static', 'both']),
        spec('run', ['dynamic', 'both']),
      ]);
      const pod = await runPod(daemon, {}, handler);
      const id = await startContainer(
        daemon,
        pod,
        containerConfig(untilStopped(), {
          CDI_devices: ['static', 'dynamic', 'both'].map((name) => ({ name: `crisp.test/box=${name}` })),
        }),
      );
      expect(
        await execIn(
          id,
          'ls /dev/box-*; echo $BOX_STATIC $BOX_DYNAMIC $BOX_BOTH; head -c 3 /dev/box-static | wc -c',
        ),
      ).toBe('/dev/box-both\n/dev/box-dynamic\n/dev/box-static\netc run run\n3\n');
      await expect(
        createContainer(
          daemon,
          pod,
          containerConfig('true', {
            metadata: { name: 'other', attempt: 0 },
            CDI_devices: [{ name: 'crisp.test/box=none' }],
          }),
        ),
      ).rejects.toMatchObject({
        code: Code.INVALID_ARGUMENT,
        details: expect.stringContaining('/etc/cdi or /var/run/cdi'),
      });
      await removePod(daemon, pod.id);
    } finally {
      for (const folder of folders) await daemon.machine.run(['umount', folder]);
      for (const folder of missing) await rmdir(folder);
    }
  });

  test('limits of huge pages, also of a size that this host does not have', async () => {
    const pod = await runPod(daemon, {}, handler);
    const id = await startContainer(
      daemon,
      pod,
      containerConfig(untilStopped(), {
        linux: {
          resources: {
            hugepage_limits: [
              { page_size: '2MB', limit: 4 << 20 },
              { page_size: '3MB', limit: 3 << 20 },
            ],
          },
        },
      }),
    );
    // Of the kernel's sizes, those that a controller limits here.
    if (
      existsSync('/sys/fs/cgroup/hugetlb') ||
      (existsSync('/sys/fs/cgroup/cgroup.controllers') &&
        readFileSync('/sys/fs/cgroup/cgroup.controllers', 'utf8').includes('hugetlb'))
    )
      expect(
        await execIn(
          id,
          'cat /sys/fs/cgroup/hugetlb/hugetlb.2MB.limit_in_bytes /sys/fs/cgroup/hugetlb.2MB.max 2>/dev/null',
        ),
      ).toBe(`${4 << 20}\n`);
    expect((await infoOf(id)).notHonoured).toEqual(['linux.resources.hugepage_limits']);
    await removePod(daemon, pod.id);
  });

  test('SELinux labels are reported in the status if the kernel does not support them', async () => {
    const pod = await runPod(daemon, {}, handler);
    const id = await startContainer(
      daemon,
      pod,
      secured({
        selinux_options: { user: 'system_u', role: 'system_r', type: 'container_t', level: 's0:c1,c2' },
      }),
    );
    if (existsSync('/sys/fs/selinux/enforce'))
      expect(await execIn(id, 'cat /proc/self/attr/current')).toContain('container_t:s0:c1,c2');
    else expect((await infoOf(id)).notHonoured).toEqual(['linux.security_context.selinux_options']);
    await expect(
      createContainer(
        daemon,
        pod,
        secured({ selinux_options: { level: 'top secret' } }, { metadata: { name: 'other', attempt: 0 } }),
      ),
    ).rejects.toMatchObject({ code: Code.INVALID_ARGUMENT });
    await removePod(daemon, pod.id);
  });
});
