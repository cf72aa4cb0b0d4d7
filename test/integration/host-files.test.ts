// The files of pods on the host, and paths that a pod can change: folders that are
// closed to other users, logs that do not follow links, files of limited size, and
// mount sources and volumes that are created.
import { status as Code } from '@grpc/grpc-js';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { execFileSync } from 'node:child_process';
import { chmodSync, existsSync, linkSync, lstatSync, mkdirSync, readFileSync, renameSync } from 'node:fs';
import { rmSync, statSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { ContainerConfig } from '../../src/cri/generated/runtime/v1/ContainerConfig.js';
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
import { podInUserNamespace, userNamespaceFrom } from '../helpers/user-namespaces.js';
import { missing, present } from '../helpers/offenders.js';

const withVolumes = 'docker.io/library/volumes:1';
const settings = { runtime: { absent_mount_sources_to_reject: ['*/refused*'] } };

let daemon: Daemon;
beforeAll(async () => {
  daemon = await startDaemon({ config: settings });
  await daemon.addImage(testImage);
  await daemon.addImage(withVolumes, {
    config: { Volumes: { '/data': {}, '/fresh': {}, '/linked/deep': {}, '/proc/x': {} } },
    files: { 'data/sub/file': 'of the image\n', 'real/deep/here': 'here\n' },
    links: { linked: '/real', 'data/out': '/etc/passwd' },
  });
});
afterAll(() => daemon?.destroy());

const execIn = async (id: string, script: string) =>
  String(
    (await daemon.client.runtime.ExecSync({ container_id: id, cmd: ['sh', '-c', script], timeout: '20' }))
      .stdout,
  );
const reopen = (container_id: string) => daemon.client.runtime.ReopenContainerLog({ container_id });
/** Of the paths, those that a user of the host reaches, in the daemon's mount namespace. */
const reachedBy = async (id: number, paths: readonly string[]) => {
  const { stdout } = await daemon.machine.run([
    'setpriv',
    `--reuid=${id}`,
    `--regid=${id}`,
    '--clear-groups',
    'sh',
    '-c',
    'for path; do [ -e "$path" ] && echo "$path"; done; true',
    'sh',
    ...paths,
  ]);
  return stdout.split('\n').filter(Boolean);
};
const found = async (name: string) =>
  (await daemon.machine.must(['find', daemon.state, daemon.root, '-name', name])).split('\n').filter(Boolean);

describe.each(['crun', 'runc'])('%s', (handler) => {
  test('no other user of the host and no other user namespace can access the files of a pod', async () => {
    const [plain, mapped, other] = await Promise.all([
      runPod(daemon, {}, handler),
      runPod(daemon, podInUserNamespace(500_000), handler),
      runPod(daemon, podInUserNamespace(600_000), handler),
    ]);
    const script = `cp /bin/busybox /tmp/setuid-file; chmod 4755 /tmp/setuid-file; touch /dev/shm/in-memory; ${untilStopped()}`;
    const name = (suffix: string) => ({ metadata: { name: `files-${suffix}` }, log_path: `${suffix}.log` });
    const wanted = (host_id: number): ContainerConfig => ({
      linux: {
        security_context: {
          namespace_options: { userns_options: userNamespaceFrom(host_id), pid: 'CONTAINER' },
        },
      },
    });
    const ids = [
      await startContainer(daemon, plain, containerConfig(script, name('plain'))),
      await startContainer(
        daemon,
        mapped,
        containerConfig(script, { ...name('mapped'), ...wanted(500_000) }),
      ),
      await startContainer(daemon, other, containerConfig(script, { ...name('other'), ...wanted(600_000) })),
    ];
    for (const id of ids)
      expect(await execIn(id, 'until [ -u /tmp/setuid-file ]; do :; done; id -u')).toBe('0\n');
    const paths = [
      ...(await found('setuid-file')),
      ...(await found('in-memory')),
      ...(await found('resolv.conf')),
      ...(await found('config.json')),
    ];
    expect(paths.length).toBeGreaterThanOrEqual(3 * 5); // each rootfs and its layer, shm, resolv.conf, config.json
    expect(await reachedBy(65_534, paths)).toEqual([]);
    const own = (await reachedBy(500_000, paths)).filter((path) => path.endsWith('/setuid-file'));
    expect(own).toEqual([expect.stringContaining(ids[1] as string)]);
    expect(
      (await reachedBy(500_000, paths)).filter(
        (path) => !path.includes(ids[1] as string) && !path.includes(mapped.id),
      ),
    ).toEqual([]);
    for (const { id } of [plain, mapped, other]) await removePod(daemon, id);
  });

  test('a log cannot be a link, a FIFO or a file with several names, and its name may have a colon', async () => {
    const pod = await runPod(daemon, { log_directory: join(daemon.logFolder, `links-${handler}`) }, handler);
    const folder = pod.config.log_directory as string;
    mkdirSync(folder);
    const outside = join(daemon.folder, `outside-${handler}`);
    mkdirSync(outside);
    writeFileSync(join(outside, 'theirs'), 'theirs\n');
    symlinkSync(join(outside, 'made'), join(folder, 'dangling.log'));
    symlinkSync(outside, join(folder, 'folder'));
    symlinkSync(join(outside, 'none'), join(folder, 'nowhere'));
    symlinkSync(join(outside, 'made'), join(folder, 'l1'));
    linkSync(join(outside, 'theirs'), join(folder, 'hard.log'));
    execFileSync('mkfifo', [join(folder, 'fifo.log')]);
    for (const log_path of [
      'dangling.log',
      'folder/a.log',
      'nowhere/a.log',
      'hard.log',
      'fifo.log',
      'a'.repeat(256),
    ])
      await expect(createContainer(daemon, pod, containerConfig('true', { log_path }))).rejects.toMatchObject(
        {
          code: Code.INVALID_ARGUMENT,
        },
      );
    expect(present(join(outside, 'made'))).toEqual([]);
    const id = await startContainer(
      daemon,
      pod,
      containerConfig(`echo said; ${untilStopped()}`, { log_path: 'l1:x' }),
    );
    await execIn(id, 'true');
    expect(readFileSync(join(folder, 'l1:x'), 'utf8')).toMatch(/ stdout F said\n/);
    expect(present(join(outside, 'made'))).toEqual([]);
    expect(readFileSync(join(outside, 'theirs'), 'utf8')).toBe('theirs\n');
    await removePod(daemon, pod.id);
  });

  test('a log is reopened without following a link, also if its folder was removed', async () => {
    const pod = await runPod(daemon, { log_directory: join(daemon.logFolder, `reopen-${handler}`) }, handler);
    const folder = join(pod.config.log_directory as string, 'c');
    const path = join(folder, '0.log');
    const theirs = join(daemon.folder, `theirs-${handler}`);
    writeFileSync(theirs, 'theirs\n');
    const script = `echo first; until [ -e /go ]; do sleep 0.05; done; echo second; ${untilStopped()}`;
    const id = await startContainer(daemon, pod, containerConfig(script, { log_path: 'c/0.log' }));
    const status = await daemon.client.runtime.ContainerStatus({ container_id: id });
    expect(status.status?.log_path).toBe(path);
    for (const planted of [`${path}.tmp`, path]) {
      if (existsSync(path)) renameSync(path, `${path}.old`);
      symlinkSync(theirs, planted);
      await reopen(id);
      expect(lstatSync(path).isFile()).toBe(true);
      expect(readFileSync(theirs, 'utf8')).toBe('theirs\n');
    }
    rmSync(folder, { recursive: true });
    await Promise.all([reopen(id), reopen(id)]);
    expect(readFileSync(path, 'utf8')).toBe('');
    await execIn(id, 'touch /go');
    for (;;)
      if (readFileSync(path, 'utf8').includes('second')) break;
      else await execIn(id, 'true');
    expect(readFileSync(path, 'utf8')).toMatch(/^\S+ stdout F second\n$/);
    // Out of the log folder by a folder that has become a link.
    renameSync(folder, `${folder}.old`);
    symlinkSync(daemon.folder, folder);
    await expect(reopen(id)).rejects.toMatchObject({ code: Code.INVALID_ARGUMENT });
    expect(present(join(daemon.folder, '0.log'))).toEqual([]);
    await removePod(daemon, pod.id);
  });

  test('the size of the files of a pod is limited', async () => {
    const pod = await runPod(daemon, {}, handler);
    const id = await startContainer(daemon, pod, containerConfig(untilStopped()));
    for (const file of ['/etc/hosts', '/etc/hostname', '/etc/resolv.conf', '/dev/shm/file'])
      expect(
        await execIn(id, `dd if=/dev/zero of=${file} bs=1M count=80 2>&1 | grep -c "No space"; : >${file}`),
      ).toBe('1\n');
    expect(await execIn(id, 'df -k /dev/shm | tail -n 1 | tr -s " " | cut -d " " -f 2')).toBe('65536\n');
    await removePod(daemon, pod.id);
  });

  test('a missing mount source is created, and the status reports it', async () => {
    const pod = await runPod(daemon, {}, handler);
    const base = join(daemon.folder, `sources-${handler}`);
    const source = join(base, 'deep/source');
    const mounted = (host_path: string) => ({ mounts: [{ host_path, container_path: '/mnt' }] });
    const id = await startContainer(
      daemon,
      pod,
      containerConfig(`touch /mnt/mine; ${untilStopped()}`, mounted(source)),
    );
    await execIn(id, 'until [ -e /mnt/mine ]; do :; done');
    expect(missing(join(source, 'mine'))).toEqual([]);
    expect(statSync(source)).toMatchObject({ mode: 0o40755, uid: 0, gid: 0 });
    const { info } = await daemon.client.runtime.ContainerStatus({ container_id: id, verbose: true });
    expect(JSON.parse(info['info'] ?? '{}')).toMatchObject({
      madeMountSources: [base, join(base, 'deep'), source],
    });
    const other = (more: ContainerConfig) =>
      createContainer(daemon, pod, containerConfig('true', { metadata: { name: 'other' }, ...more }));
    await expect(other(mounted(join(base, 'refused/x')))).rejects.toMatchObject({
      code: Code.FAILED_PRECONDITION,
      details: expect.stringContaining('absent_mount_sources_to_reject'),
    });
    symlinkSync(join(base, 'target'), join(base, 'link'));
    await expect(other(mounted(join(base, 'link/x')))).rejects.toMatchObject({ code: Code.INVALID_ARGUMENT });
    await expect(other(mounted(join(base, 'link')))).rejects.toMatchObject({ code: Code.INVALID_ARGUMENT });
    expect(present(join(base, 'target'))).toEqual([]);
    // One that is refused for something else makes none.
    await expect(
      other({
        mounts: [...mounted(join(base, 'unmade')).mounts, { host_path: '/', container_path: '/../x' }],
      }),
    ).rejects.toMatchObject({ code: Code.INVALID_ARGUMENT });
    expect(present(join(base, 'unmade'))).toEqual([]);
    for (const path of ['a'.repeat(256), `${'a/'.repeat(2050)}a`, 'a\0b']) {
      await expect(
        other({ mounts: [{ host_path: '/etc', container_path: `/${path}` }] }),
      ).rejects.toMatchObject({ code: Code.INVALID_ARGUMENT });
      await expect(other(mounted(`/${path}`))).rejects.toMatchObject({ code: Code.INVALID_ARGUMENT });
    }
    await removePod(daemon, pod.id);
  });

  test.each([
    ['read-only', {}],
    ['in a user namespace', podInUserNamespace(700_000)],
  ])('the VOLUMEs of an image are writable if the root filesystem is %s', async (_, more) => {
    const pod = await runPod(daemon, more, handler);
    const own = 'linux' in more ? { ...more.linux.security_context.namespace_options } : {};
    const config = containerConfig(untilStopped(), {
      image: { image: withVolumes },
      mounts: [{ host_path: '/etc', container_path: '/mnt', readonly: true }],
      linux: { security_context: { readonly_rootfs: true, namespace_options: { ...own, pid: 'CONTAINER' } } },
    });
    const id = await startContainer(daemon, pod, config);
    expect(
      await execIn(
        id,
        'touch /x 2>/dev/null || echo ro; cat /data/sub/file /real/deep/here; readlink /data/out; echo new >/data/sub/file; touch /fresh/f /linked/deep/f && stat -c "%u:%g %a" /data /fresh /data/sub/file | tr "\\n" " "; mount | grep -c -E " on /(data|fresh|real/deep) "',
      ),
    ).toBe('ro\nof the image\nhere\n/etc/passwd\n0:0 755 0:0 755 0:0 644 3\n');
    expect(missing(join(daemon.root, 'containers', id, 'volumes'))).toEqual([]);
    await daemon.client.runtime.RemoveContainer({ container_id: id });
    expect(present(join(daemon.root, 'containers', id))).toEqual([]);
    const again = await startContainer(daemon, pod, { ...config, metadata: { name: 'again' } });
    expect(await execIn(again, 'cat /data/sub/file')).toBe('of the image\n');
    await removePod(daemon, pod.id);
  });
});

describe.each([
  ['mkdir', 'of the image\n0:0 755\n0\n'],
  ['ignore', 'of the image\nnone\n0\n'],
])('with image_volumes %s', (image_volumes, expected) => {
  beforeAll(async () => {
    await daemon.writeConfig({ runtime: { image_volumes } });
    await daemon.restart();
  });
  afterAll(async () => {
    await daemon.writeConfig(settings);
    await daemon.restart();
  });

  test.each([
    ['on crun', 'crun', {}],
    ['on runc', 'runc', {}],
    ['in a user namespace on crun', 'crun', podInUserNamespace(700_000)],
    ['in a user namespace on runc', 'runc', podInUserNamespace(700_000)],
  ])('VOLUMEs are not mounted: %s', async (_, handler, more) => {
    const pod = await runPod(daemon, more, handler);
    const own = 'linux' in more ? { ...more.linux.security_context.namespace_options } : {};
    const id = await startContainer(
      daemon,
      pod,
      containerConfig(untilStopped(), {
        image: { image: withVolumes },
        linux: { security_context: { namespace_options: { ...own, pid: 'CONTAINER' } } },
      }),
    );
    expect(
      await execIn(
        id,
        'cat /data/sub/file; stat -c "%u:%g %a" /fresh 2>/dev/null || echo none; mount | grep -c -E " on /(data|fresh|real/deep) "',
      ),
    ).toBe(expected);
    expect(present(join(daemon.root, 'containers', id, 'volumes'))).toEqual([]);
    await removePod(daemon, pod.id);
  });
});

test('a mount of the request replaces a VOLUME', async () => {
  const pod = await runPod(daemon);
  const source = join(daemon.folder, 'over');
  mkdirSync(source);
  const id = await startContainer(
    daemon,
    pod,
    containerConfig(untilStopped(), {
      image: { image: withVolumes },
      mounts: [{ host_path: source, container_path: '/data' }],
    }),
  );
  expect(await execIn(id, 'ls /data; touch /data/mine')).toBe('');
  expect(missing(join(source, 'mine'))).toEqual([]);
  await removePod(daemon, pod.id);
});

test('folders that an older version opened to all users are closed at the start, and their pods continue', async () => {
  const pod = await runPod(daemon);
  const id = await startContainer(daemon, pod, containerConfig(`touch /dev/shm/before; ${untilStopped()}`));
  await execIn(id, 'until [ -e /dev/shm/before ]; do :; done');
  for (const path of [
    daemon.root,
    daemon.state,
    ...['bundles', 'pods', 'exits'].map((name) => join(daemon.state, name)),
  ])
    chmodSync(daemon.machine.path(path), 0o777);
  for (const path of [join(daemon.state, 'bundles', id), join(daemon.state, 'pods', pod.id)])
    chmodSync(daemon.machine.path(path), 0o711);
  await daemon.restart();
  const mode = async (path: string) => (await daemon.machine.must(['stat', '-c', '%a', path])).trim();
  expect(await mode(daemon.root)).toBe('700');
  expect(await mode(daemon.state)).toBe('711');
  expect(await mode(join(daemon.state, 'exits'))).toBe('700');
  expect(await mode(join(daemon.state, 'bundles', id))).toBe('700');
  expect(await mode(join(daemon.state, 'pods', pod.id))).toBe('700');
  expect(await execIn(id, 'ls /dev/shm')).toBe('before\n');
  const second = await startContainer(
    daemon,
    pod,
    containerConfig(untilStopped(), { metadata: { name: 'second' }, log_path: 'second.log' }),
  );
  expect(await execIn(second, 'ls /dev/shm')).toBe('before\n');
  await removePod(daemon, pod.id);
});

test('a pod with a user namespace is refused with the reason if a parent folder of the state cannot be entered', async () => {
  chmodSync(daemon.folder, 0o700);
  try {
    await expect(runPod(daemon, podInUserNamespace(800_000))).rejects.toMatchObject({
      code: Code.UNIMPLEMENTED,
      details: expect.stringContaining(`${daemon.folder} cannot be traversed by the ids of a user namespace`),
    });
    await removePod(daemon, (await runPod(daemon)).id);
  } finally {
    chmodSync(daemon.folder, 0o711);
  }
});
