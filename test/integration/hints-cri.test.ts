// The advice that a client of the CRI gets, followed: each call fails, what its hint
// says is done, and then the call works.
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { mkdir, rename, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { crisp, startDaemon, type Daemon } from '../helpers/daemon.js';
import { hintPattern } from '../helpers/hints.js';
import { makeLayout } from '../helpers/image.js';
import { startRegistry, type Registry } from '../helpers/registry.js';
import {
  containerConfig,
  createContainer,
  runPod,
  startContainer,
  testImage,
  untilStopped,
} from '../helpers/requests.js';
import { writeRuntime, writeWrapper } from '../helpers/stand-ins.js';

let daemon: Daemon;
let wrapper: string;
let pod: Awaited<ReturnType<typeof runPod>>;
let running: string;
let registry: Registry;
let reference: string;
let attempt = 0;

beforeAll(async () => {
  daemon = await startDaemon();
  wrapper = join(daemon.folder, 'wrapped-crun');
  await writeRuntime(wrapper, '');
  registry = await startRegistry(join(daemon.folder, 'registry'), { tls: true });
  const layout = join(daemon.folder, 'layout');
  await mkdir(layout);
  reference = await registry.push(await makeLayout(layout, { layers: [{ file: 'content' }] }), 'app:1');
  await configured({});
  await daemon.addImage(testImage);
  pod = await runPod(daemon);
  running = await startContainer(daemon, pod, containerConfig(untilStopped()));
});
afterAll(async () => {
  await registry?.close();
  await daemon?.destroy();
});

/** The daemon runs with these keys of the section "runtime", and these handlers as well. */
async function configured(
  keys: Readonly<Record<string, unknown>>,
  handlers: Readonly<Record<string, unknown>> = {},
): Promise<void> {
  await daemon.writeConfig({
    handlers: {
      wrapped: { type: 'oci', path: wrapper },
      absent: { type: 'oci', path: '/nonexistent/runtime' },
      ...handlers,
    },
    images: { certs_dir: registry.certsDir },
    runtime: { absent_mount_sources_to_reject: [join(daemon.folder, 'source')], ...keys },
  });
  await daemon.restart();
}
const runtime = () => daemon.client.runtime;
const container = (more: Parameters<typeof containerConfig>[1]): Promise<string> =>
  createContainer(daemon, pod, {
    ...containerConfig('true'),
    metadata: { name: 'other', attempt: attempt++ },
    ...more,
  });
const pull = (auth: object): Promise<unknown> =>
  daemon.client.image.PullImage({ image: { image: reference }, auth });
const withDefaultSeccomp = {
  linux: { security_context: { seccomp: { profile_type: 'RuntimeDefault' } } },
} as const;
const sharedPid = {
  linux: { security_context: { namespace_options: { network: 'POD', ipc: 'POD', pid: 'POD' } } },
} as const;
/** The image of the registry has no program, so one of the host is mounted. */
const ofReference = () => ({
  image: { image: reference },
  command: ['/busybox', 'true'],
  mounts: [{ host_path: '/bin/busybox', container_path: '/busybox' }],
});
async function crictl(...args: string[]): Promise<string> {
  const { stdout, stderr, exitCode } = await daemon.crictl(...args);
  expect({ stderr, exitCode }).toMatchObject({ exitCode: 0 });
  return stdout;
}
/** `crisp check` exits with 1, since a handler is broken. */
async function check(): Promise<string> {
  const { stdout } = await daemon.machine.run([
    process.execPath,
    crisp,
    'check',
    '--config',
    daemon.configFile,
  ]);
  return stdout;
}

interface Mistake {
  readonly hint: string;
  readonly call: () => Promise<unknown>;
  readonly follow: () => Promise<unknown>;
}
const mistakes: Readonly<Record<string, Mistake>> = {
  'a handler that is not ready': {
    hint: 'see `crisp check` for the reason',
    call: () => runPod(daemon, {}, 'absent'),
    follow: async () => expect(await check()).toMatch(/absent.*\/nonexistent\/runtime is not installed/),
  },
  'a program that is gone': {
    hint: '`crisp check` names the package',
    call: async () => {
      const own = await runPod(daemon, {}, 'wrapped');
      const id = await startContainer(daemon, own, containerConfig(untilStopped()));
      await rename(wrapper, `${wrapper}.away`);
      await runtime().ExecSync({ container_id: id, cmd: ['true'] });
    },
    follow: async () => {
      expect(await check()).toMatch(/wrapped.*wrapped-crun is not installed/);
      await rename(`${wrapper}.away`, wrapper);
    },
  },
  'no such sandbox': {
    hint: 'list them with `crictl pods`',
    call: () => runtime().PodSandboxStatus({ pod_sandbox_id: 'gone' }),
    follow: async () => expect(await crictl('pods', '-q', '--no-trunc')).toContain(pod.id),
  },
  'no such container': {
    hint: 'list them with `crictl ps -a`',
    call: () => runtime().ContainerStatus({ container_id: 'gone' }),
    follow: async () => expect(await crictl('ps', '-a', '-q', '--no-trunc')).toContain(running),
  },
  'a container that runs is started': {
    hint: 'see its state with `crictl inspect`',
    call: () => runtime().StartContainer({ container_id: running }),
    follow: async () => expect(await crictl('inspect', running)).toContain('CONTAINER_RUNNING'),
  },
  'a name that is in use': {
    hint: 'remove it first, or raise metadata.attempt',
    call: () => runtime().RunPodSandbox({ config: { ...pod.config, labels: { other: 'yes' } } }),
    follow: () => {
      const { metadata } = pod.config as { metadata: object };
      return runtime().RunPodSandbox({ config: { ...pod.config, metadata: { ...metadata, attempt: 7 } } });
    },
  },
  'a sandbox that is stopped': {
    hint: 'run a new sandbox',
    call: async () => {
      const stopped = await runPod(daemon);
      await runtime().StopPodSandbox({ pod_sandbox_id: stopped.id });
      await createContainer(daemon, stopped, containerConfig('true'));
    },
    follow: async () => createContainer(daemon, await runPod(daemon), containerConfig('true')),
  },
  'an image that is used': {
    hint: 'remove the container first (`crictl ps -a`)',
    call: async () => {
      await daemon.addImage('docker.io/library/used:1', { files: { 'etc/used': 'yes' } });
      await container({ image: { image: 'docker.io/library/used:1' } });
      await daemon.client.image.RemoveImage({ image: { image: 'docker.io/library/used:1' } });
    },
    follow: async () => {
      const { containers } = JSON.parse(await crictl('ps', '-a', '-o', 'json')) as {
        containers: { id: string; image: { image: string } }[];
      };
      const users = containers.filter(({ image }) => image.image === 'docker.io/library/used:1');
      expect(users).toHaveLength(1);
      await crictl('rm', users[0]?.id ?? '');
      await daemon.client.image.RemoveImage({ image: { image: 'docker.io/library/used:1' } });
    },
  },
  'a mount source that is not there': {
    hint: 'create the path on the host, or correct the mount',
    call: () => container({ mounts: [{ host_path: join(daemon.folder, 'source'), container_path: '/a' }] }),
    follow: async () => {
      await mkdir(join(daemon.folder, 'source'));
      await container({ mounts: [{ host_path: join(daemon.folder, 'source'), container_path: '/a' }] });
    },
  },
  'a log path that leaves its folder': {
    hint: 'use a path without .. and without symlinks out of the folder',
    call: () => container({ log_path: '../out.log' }),
    follow: () => container({ log_path: 'out.log' }),
  },
  'a sub path that is not in the image': {
    hint: 'see the detail; the sub path must exist in the image',
    call: () =>
      container({
        mounts: [
          { image: { image: testImage }, image_sub_path: 'none', container_path: '/a', readonly: true },
        ],
      }),
    follow: () =>
      container({
        mounts: [
          { image: { image: testImage }, image_sub_path: 'etc', container_path: '/a', readonly: true },
        ],
      }),
  },
  'a sysctl with a value that is none': {
    hint: 'check its name and value',
    call: () => runPod(daemon, { linux: { sysctls: { 'net.ipv4.ip_forward': 'maybe' } } }),
    follow: () => runPod(daemon, { linux: { sysctls: { 'net.ipv4.ip_forward': '1' } } }),
  },
  'a sysctl of the host': {
    hint: "only sysctls of the pod's own network and ipc namespaces can be set",
    call: () => runPod(daemon, { linux: { sysctls: { 'kernel.panic': '1' } } }),
    follow: () => runPod(daemon, { linux: { sysctls: { 'net.ipv4.ip_forward': '1' } } }),
  },
  'a command that is not in the image': {
    hint: 'the command is not in the image: check command, args and PATH',
    call: () => container({ command: ['/no/such/program'] }),
    follow: () => container({ command: ['true'] }),
  },
  'a command that is not executable': {
    hint: 'the program is not executable for the user of the container',
    call: () => container({ command: ['/etc/passwd'] }),
    follow: () => container({ command: ['true'] }),
  },
  'a working folder in /proc': {
    hint: 'name a folder of the image or of a volume, in the request or as the WorkingDir of the image',
    call: () => container({ working_dir: '/proc/self' }),
    follow: () => container({ working_dir: '/etc' }),
  },
  'a command that takes longer than its timeout': {
    hint: 'raise the timeout of the probe or the call',
    call: () => runtime().ExecSync({ container_id: running, cmd: ['sleep', '2'], timeout: '1' }),
    follow: () => runtime().ExecSync({ container_id: running, cmd: ['sleep', '2'], timeout: '50' }),
  },
  'an image that is not there': {
    hint: 'pull it first with `crictl pull`',
    call: () => container(ofReference()),
    follow: async () => {
      expect(await crictl('pull', reference)).toContain('Image is up to date');
      await container(ofReference());
    },
  },
  'a registry token': {
    hint: 'use a user name and password, or an identity token',
    call: () => pull({ registry_token: 'token' }),
    follow: () => pull({ username: 'user', password: 'secret' }),
  },
  'a network without addresses': {
    hint: 'its configuration needs a plugin that gives addresses (ipam)',
    call: async () => {
      const { plugins, ...rest } = daemon.conflist() as { plugins: Record<string, unknown>[] };
      await daemon.writeConflist({ ...rest, plugins: [{ ...plugins[0], ipam: {} }] });
      await runPod(daemon);
    },
    follow: async () => {
      await daemon.writeConflist(daemon.conflist());
      await runPod(daemon);
    },
  },
  'a seccomp profile that cannot be used': {
    hint: 'runtime.seccomp_profile names a file that cannot be used; without it crisp has a profile of its own',
    call: async () => {
      await configured({ seccomp_profile: join(daemon.folder, 'no-profile.json') });
      await container(withDefaultSeccomp);
    },
    follow: async () => {
      await configured({});
      await container(withDefaultSeccomp);
    },
  },
  'a runtime that cannot start the holder of a shared pid namespace': {
    hint: 'see the message of the OCI runtime; `crisp check` runs a container with it',
    call: async () => {
      // The first runtime of the configuration starts it.
      await configured({}, { crun: { type: 'oci', path: wrapper } });
      await writeRuntime(wrapper, 'case "$*" in *" run "*) echo "crun: out of order" >&2; exit 1 ;; esac');
      await runPod(daemon, sharedPid);
    },
    follow: async () => {
      await writeWrapper(wrapper, 'crun', 'exit 1');
      expect(await check()).toMatch(/crun.*wrapped-crun exited with 1/);
      await writeRuntime(wrapper, '');
      await runPod(daemon, sharedPid);
      await configured({});
    },
  },
  'a working folder that is a file': {
    hint: 'check the working folder of the container',
    call: () => container({ working_dir: '/etc/passwd' }),
    follow: () => container({ working_dir: '/etc' }),
  },
  'an id that is too short': {
    hint: 'give more digits of the id',
    call: async () => {
      for (let made = 0; made < 17; made++) {
        const { containers } = await runtime().ListContainers({});
        const first = containers.map(({ id }) => id[0]);
        const twice = first.find((digit, index) => first.indexOf(digit) !== index);
        if (twice !== undefined) return runtime().ContainerStatus({ container_id: twice });
        await container({});
      }
      return undefined;
    },
    follow: () => runtime().ContainerStatus({ container_id: running.slice(0, 20) }),
  },
};

test.each(Object.entries(mistakes))('%s', async (_, { hint, call, follow }) => {
  await expect(call()).rejects.toMatchObject({ details: expect.stringMatching(hintPattern(hint)) });
  await follow();
});

test('a second daemon is given folders of its own, or the first is stopped', async () => {
  const second = join(daemon.folder, 'second');
  const serve = (...more: string[]): string[] => [
    ...['timeout', '20', process.execPath, crisp, 'serve', '--config', daemon.configFile, ...more],
  ];
  expect((await daemon.machine.run(serve())).stderr).toMatch(
    hintPattern(
      'stop it first (`systemctl stop crisp`), or give this one a socket, a root and a state folder of its own',
    ),
  );
  const own = ['--listen', `unix://${second}/s`, '--root', `${second}/root`, '--state', `${second}/state`];
  await mkdir(second);
  const { stdout, stderr } = await daemon.machine.run(serve(...own));
  expect(stdout + stderr).toMatch(/crisp is ready/);
});

test('a socket is given a path that is short and free', async () => {
  const serve = (path: string) =>
    daemon.machine.run(
      [
        'timeout',
        '20',
        process.execPath,
        crisp,
        'serve',
        '--config',
        daemon.configFile,
        '--listen',
        path,
      ].concat([
        ...['--root', join(daemon.folder, 'third', 'root'), '--state', join(daemon.folder, 'third', 'state')],
      ]),
    );
  const said = async (path: string): Promise<string> => {
    const { stdout, stderr } = await serve(`unix://${path}`);
    return stdout + stderr;
  };
  expect(await said(`/tmp/${'x'.repeat(200)}`)).toMatch(hintPattern('choose a shorter path'));
  const file = join(daemon.folder, 'file');
  await writeFile(file, '');
  expect(await said(file)).toMatch(hintPattern('choose another path, or remove it'));
  expect(await said(join(daemon.folder, 'free'))).toMatch(/crisp is ready/);
});
