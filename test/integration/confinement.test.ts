// Escapes from a pod that must not be possible: through the holder of its pid
// namespace, through the working folder, which the runtimes enter with more privileges
// than the process has, and through the oom_score_adj of the daemon.
import { status as Code } from '@grpc/grpc-js';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { chmod, mkdir, readFile, readlink, rm, stat, symlink, writeFile } from 'node:fs/promises';
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
  waitForExit,
} from '../helpers/requests.js';
import { idMap, userNamespaceFrom } from '../helpers/user-namespaces.js';
import { missing } from '../helpers/offenders.js';
import { commandsIn } from '../helpers/store.js';

let daemon: Daemon;
/** A file of the host that is in no image and that all users may read. */
let secret: string;
beforeAll(async () => {
  daemon = await startDaemon();
  await daemon.addImage(testImage);
  await daemon.addImage('docker.io/library/escape:1', { config: { WorkingDir: '/proc/1/cwd' } });
  await daemon.addImage('docker.io/library/linked:1', { links: { way: '/proc/1/root', up: '../../../way' } });
  secret = join(daemon.folder, 'secret');
  await writeFile(secret, 'of the host', { mode: 0o644 });
});
afterAll(() => daemon?.destroy());

const said = async (id: string, ...cmd: string[]): Promise<string> => {
  const { stdout, stderr } = await daemon.client.runtime.ExecSync({ container_id: id, cmd, timeout: '10' });
  return `${String(stdout)}${String(stderr)}`;
};
const userns_options = userNamespaceFrom(300_000);
let names = 0;
const container = (
  security_context: LinuxContainerSecurityContext,
  more: ContainerConfig = {},
): ContainerConfig =>
  containerConfig(untilStopped(), {
    metadata: { name: `c${names++}`, attempt: 0 },
    linux: { security_context },
    ...more,
  });

describe.each(['crun', 'runc'])('%s', (handler) => {
  test.each([
    ['', {}],
    [' in a user namespace', { userns_options }],
  ])("no process has the host's /dev/null as a stream, or becomes its owner%s", async (_, more) => {
    const null_ = join(daemon.folder, `null-${handler}${'userns_options' in more}`);
    await daemon.machine.must(['mknod', '--mode=666', null_, 'c', '1', '3']);
    await daemon.machine.must(['mount', '--bind', null_, '/dev/null']); // the host's, to this daemon
    const { dev, ino } = await stat(null_);
    const untouched = async () => {
      const { uid, gid, mode } = await stat(null_);
      expect({ uid, gid, mode }).toEqual({ uid: 0, gid: 0, mode: 0o20666 });
    };
    const pod = await runPod(daemon, { linux: { security_context: { namespace_options: more } } }, handler);
    for (const tty of [false, true])
      for (const value of ['0', '1001']) {
        const id = await startContainer(
          daemon,
          pod,
          container({ namespace_options: { pid: 'CONTAINER', ...more }, run_as_user: { value } }, { tty }),
        );
        await untouched();
        const streams =
          'for p in 1 self; do for fd in 0 1 2; do stat -L -c %d:%i /proc/$p/fd/$fd; done; done';
        const found = (await said(id, 'sh', '-c', streams)).trim().split('\n');
        expect(found).toHaveLength(6);
        expect(found).not.toContain(`${dev}:${ino}`);
        const exec = `exec crictl --config /dev/null -r unix://${daemon.socket} exec`;
        await daemon.machine.must(['script', '-qec', `${exec} -it ${id} true`, join(daemon.folder, 'typed')]);
        await untouched();
        // What reads an input that is not there is at its end, also in the first process.
        expect(await said(id, 'cat')).toBe('');
      }
    const reader = await startContainer(
      daemon,
      pod,
      containerConfig('cat; exit 7', {
        metadata: { name: 'reader' },
        linux: { security_context: { namespace_options: { pid: 'CONTAINER', ...more } } },
      }),
    );
    expect((await waitForExit(daemon, reader)).exit_code).toBe(7);
    await removePod(daemon, pod.id);
    await daemon.machine.must(['umount', '/dev/null']);
    await rm(null_);
  });

  test.each([
    ['', {}],
    [' in a user namespace', { userns_options }],
  ])('the first process of a shared pid namespace gives no access to the host%s', async (_, more) => {
    const namespace_options = { pid: 'POD' as const, ...more };
    const before = await daemon.traces();
    const pod = await runPod(daemon, { linux: { security_context: { namespace_options } } }, handler);
    const volume = join(daemon.folder, `volume-${handler}`);
    await mkdir(volume, { recursive: true });
    const { runtime_handlers: handlers } = await daemon.client.runtime.Status({});
    const canMap = handlers.find(({ name }) => name === handler)?.features?.user_namespaces ?? false;
    const mapped =
      'userns_options' in more && canMap ? { uidMappings: idMap(300_000), gidMappings: idMap(300_000) } : {};
    const id = await startContainer(
      daemon,
      pod,
      container(
        { namespace_options, capabilities: { add_capabilities: ['SYS_PTRACE', 'KILL', 'DAC_OVERRIDE'] } },
        { mounts: [{ host_path: volume, container_path: '/volume', ...mapped }] },
      ),
    );
    expect(await said(id, 'cat', '/proc/1/comm')).toBe('catatonit\n');
    if (!('userns_options' in more) || canMap)
      expect(await said(id, 'stat', '-c', '%u', '/volume')).toBe('0\n');
    for (const way of ['root', 'cwd']) {
      expect(await said(id, 'cat', `/proc/1/${way}${secret}`)).not.toContain('of the host');
      expect(await said(id, 'ls', `/proc/1/${way}/`)).toMatch(/^catatonit\ndev\nproc\n$|denied/);
      for (const file of ['file', 'dev/file', 'proc/sys/kernel/hostname', 'catatonit'])
        expect(await said(id, 'sh', '-c', `echo text >/proc/1/${way}/${file} && echo written`)).not.toContain(
          'written',
        );
    }
    // Its streams are pipes without another end: only who may trace it opens them, and finds nothing.
    for (const fd of [0, 1, 2])
      expect(await said(id, 'stat', '-L', '-c', '%F', `/proc/1/fd/${fd}`)).toMatch(/^fifo\n$|denied/);
    expect(await said(id, 'sh', '-c', 'cat </proc/1/fd/0')).toMatch(/^$|denied/);
    const status = await said(id, 'cat', '/proc/1/status');
    expect(status).toMatch(/^CapBnd:\t0{16}$/m);
    expect(status).toMatch(/^Seccomp:\t2$/m);
    expect(status).toMatch(/^NoNewPrivs:\t1$/m);
    // Orphaned processes in the pod are reaped.
    await said(id, 'sh', '-c', '(sleep 0.1 &)');
    for (let tries = 0; ; tries++) {
      if (!(await said(id, 'sh', '-c', 'cat /proc/[0-9]*/stat')).includes('(sleep) Z')) break;
      if (tries === 100) throw new Error('a zombie is left');
    }
    // Its memory is the pod's.
    expect(await said(id, 'cat', '/proc/1/cgroup')).toContain(`/crisp/${pod.id}/holder-${pod.id}`);
    await removePod(daemon, pod.id);
    await rm(volume, { recursive: true });
    expect(await daemon.traces()).toEqual(before);
  });

  describe.each(['POD', 'NODE'] as const)('with pid %s', (pid) => {
    const namespace_options = { pid };
    const nobody: LinuxContainerSecurityContext = {
      namespace_options,
      run_as_user: { value: '1001' },
      capabilities: { drop_capabilities: ['ALL'] },
    };
    const refusal = {
      code: Code.INVALID_ARGUMENT,
      details: expect.stringMatching(/working_dir: "[^"]*" leads into \/proc/),
    };

    test('a working folder does not lead into /proc', async () => {
      const pod = await runPod(daemon, { linux: { security_context: { namespace_options } } }, handler);
      const before = await daemon.traces();
      const volume = join(daemon.folder, `links-${handler}-${pid}`);
      await mkdir(volume);
      await symlink('/proc/1/root', join(volume, 'link'));
      const mounts = [{ host_path: volume, container_path: '/volume' }];
      const wishes: ContainerConfig[] = [
        { working_dir: '/proc/1/root' },
        { working_dir: '//proc/./self/../1/cwd/' },
        { working_dir: '/../proc/1/root/etc' },
        { image: { image: 'docker.io/library/escape:1' } },
        { image: { image: 'docker.io/library/linked:1' }, working_dir: '/way' },
        { image: { image: 'docker.io/library/linked:1' }, working_dir: '/up/etc' },
        { working_dir: '/volume/link', mounts },
        { working_dir: '/volume/../volume/link/etc', mounts },
        {
          working_dir: '/host/1/root',
          mounts: [{ host_path: '/proc', container_path: '/host', readonly: true }],
        },
      ];
      for (const wish of wishes)
        await expect(createContainer(daemon, pod, container(nobody, wish))).rejects.toMatchObject(refusal);
      expect(await daemon.traces()).toEqual(before);

      // Others are where they lead inside; a missing one is made.
      await mkdir(join(volume, 'inner'));
      await symlink('/volume/inner', join(volume, 'fine'));
      for (const [working_dir, expected] of [
        ['/volume/fine', '/volume/inner'],
        ['/../../tmp', '/tmp'],
        ['/not/there', '/not/there'],
      ] as const) {
        const id = await startContainer(
          daemon,
          pod,
          container({ namespace_options }, { working_dir, mounts }),
        );
        expect(await said(id, 'pwd')).toBe(`${expected}\n`);
      }
      await removePod(daemon, pod.id);
      await rm(volume, { recursive: true });
    });

    test('nor does that of a later exec, if a volume has changed since', async () => {
      const pod = await runPod(daemon, { linux: { security_context: { namespace_options } } }, handler);
      const volume = join(daemon.folder, `changed-${handler}-${pid}`);
      await mkdir(join(volume, 'work'), { recursive: true });
      const id = await startContainer(
        daemon,
        pod,
        container(nobody, {
          working_dir: '/volume/work',
          mounts: [{ host_path: volume, container_path: '/volume' }],
        }),
      );
      expect(await said(id, 'pwd')).toBe('/volume/work\n');
      await rm(join(volume, 'work'), { recursive: true });
      await symlink('/proc/1/root', join(volume, 'work'));
      await expect(said(id, 'cat', secret.slice(1))).rejects.toMatchObject(refusal);
      await removePod(daemon, pod.id);
      await rm(volume, { recursive: true });
    });
  });

  test('an exec has the oom_score_adj of its container, not of the daemon', async () => {
    const own = `/proc/${daemon.pid}/oom_score_adj`;
    const was = await readFile(own, 'utf8');
    const pod = await runPod(daemon, {}, handler);
    const adjusted = (oom_score_adj: string) =>
      startContainer(
        daemon,
        pod,
        containerConfig(untilStopped(), {
          metadata: { name: `c${names++}`, attempt: 0 },
          linux: { resources: { oom_score_adj } },
        }),
      );
    try {
      const [low, high] = [await adjusted(String(Number(was) + 10)), await adjusted('700')];
      await writeFile(own, '500'); // ours is now between the two
      expect(await said(high, 'cat', '/proc/self/oom_score_adj')).toBe('700\n');
      const crictl = `crictl --config /dev/null --runtime-endpoint unix://${daemon.socket}`;
      const terminal = await daemon.machine.run([
        'script',
        '-qec',
        `${crictl} exec -it ${high} cat /proc/self/oom_score_adj`,
        '/dev/null',
      ]);
      expect(terminal.stdout).toMatch(/^700\s*$/m);
      expect((await daemon.crictl('exec', high, 'cat', '/proc/self/oom_score_adj')).stdout).toBe('700\n');
      expect(await said(low, 'cat', '/proc/self/oom_score_adj')).toBe(`${Number(was) + 10}\n`);
      expect((await readFile(own, 'utf8')).trim()).toBe('500');
    } finally {
      await writeFile(own, was);
    }
    await removePod(daemon, pod.id);
  });
});

test('crun, which waits in a container until it is started, runs from a sealed copy', async () => {
  const pod = await runPod(daemon, {}, 'crun');
  const id = await createContainer(daemon, pod, container({}));
  const commands = await commandsIn(daemon.folder);
  const waiting = commands.find(({ argv }) => / create --bundle/.test(argv) && !/conmon/.test(argv));
  const exe = `/proc/${waiting?.pid}/exe`;
  expect(await readlink(exe)).toBe('/memfd:crun (deleted)');
  await expect(writeFile(exe, '', { flag: 'r+' })).rejects.toMatchObject({
    code: expect.stringMatching(/^(EPERM|ETXTBSY)$/),
  });
  await expect(chmod(exe, 0)).rejects.toMatchObject({ code: 'EPERM' }); // no container would start any more
  await daemon.client.runtime.StartContainer({ container_id: id });
  expect(await said(id, 'readlink', '/proc/1/exe')).toBe('/bin/busybox\n');
  // Neither the process nor an exec has the copy.
  const open = 'for pid in 1 $$; do ls /proc/$pid/fd; done | sort -un | tr "\\n" " "';
  expect(await said(id, 'sh', '-c', open)).toMatch(/^0 1 2 (\d )?$/);
  await removePod(daemon, pod.id);
});

test('a node without catatonit reports it, and refuses the pods that need it', async () => {
  const place = '/usr/bin/catatonit';
  const before = await daemon.traces();
  const empty = join(daemon.folder, 'empty');
  await writeFile(empty, '');
  await chmod(empty, 0o644);
  await daemon.machine.must(['mount', '--bind', empty, place]); // in the mount namespace of the daemon alone
  try {
    const condition = { type: 'SharedPidNamespaceReady', status: false, reason: 'ToolMissing' };
    expect((await daemon.client.runtime.Status({})).status?.conditions).toContainEqual({
      ...condition,
      message: expect.stringContaining('apt install catatonit'),
    });
    const namespace_options = { pid: 'POD' as const };
    await expect(
      runPod(daemon, { linux: { security_context: { namespace_options } } }),
    ).rejects.toMatchObject({
      details: expect.stringMatching(/^ToolMissing: catatonit is not installed.*apt install catatonit/),
    });
    await removePod(daemon, (await runPod(daemon)).id); // others run
  } finally {
    await daemon.machine.must(['umount', place]);
  }
  expect(missing(place)).toEqual([]);
  expect(await daemon.traces()).toEqual(before);
  expect((await daemon.client.runtime.Status({})).status?.conditions).toHaveLength(2);
});
