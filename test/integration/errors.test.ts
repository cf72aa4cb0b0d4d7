// Every error of the catalogue, caused by a real fault, with the message that the
// client gets: id, finding, stage and tool, the last output of the tool, a hint.
import { status as Code } from '@grpc/grpc-js';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { mkdir, readFile, rename, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { catalogue, type ErrorId } from '../../src/errors.js';
import { crisp, startDaemon, type Daemon } from '../helpers/daemon.js';
import {
  containerConfig,
  createContainer,
  removePod,
  runPod,
  startContainer,
  testImage,
  untilStopped,
} from '../helpers/requests.js';
import { writePlugin, writeRuntime } from '../helpers/stand-ins.js';
import { testsThatSay } from '../helpers/tests.js';
import { podInUserNamespace } from '../helpers/user-namespaces.js';

let daemon: Daemon;
/** The faults of the wrapper of handler "faulty": "VERB WORDS" makes the verb fail with the words. */
let fault: string;
let wrapper: string;
let pod: Awaited<ReturnType<typeof runPod>>;
let running: string;
const imageWithVolume = 'docker.io/library/with-volume:1';

beforeAll(async () => {
  daemon = await startDaemon();
  fault = join(daemon.folder, 'fault');
  wrapper = join(daemon.folder, 'faulty-crun');
  await mkdir(join(daemon.folder, 'plugins'));
  await writeFile(fault, '');
  await writeRuntime(
    wrapper,
    `read -r verb words <'${fault}'
for word in "$@"; do if [ "$word" = "$verb" ]; then echo "$words" >&2; exit 1; fi; done`,
  );
  await daemon.writeConfig({
    handlers: {
      faulty: { type: 'oci', path: wrapper },
      absent: { type: 'oci', path: '/nonexistent/runtime' },
    },
    runtime: { absent_mount_sources_to_reject: ['/nonexistent'] },
    network: {
      conf_dir: daemon.confDir,
      bin_dirs: [join(daemon.folder, 'plugins'), '/opt/cni/bin', '/usr/lib/cni'],
      plugin_timeout_seconds: 1,
      template: join(daemon.folder, 'template'),
    },
  });
  await daemon.restart();
  await daemon.addImage(testImage);
  await daemon.addImage(imageWithVolume, { config: { Volumes: { '/etc': {} } } });
  pod = await runPod(daemon);
  running = await startContainer(daemon, pod, containerConfig(untilStopped()));
});
afterAll(() => daemon?.destroy());

const runtime = () => daemon.client.runtime;
const container = (more: Parameters<typeof containerConfig>[1]) =>
  createContainer(daemon, pod, {
    ...containerConfig('true'),
    metadata: { name: 'faulty', attempt: 0 },
    ...more,
  });

/** A call on a pod of the handler "faulty" while one verb of its runtime fails with these words. */
async function withFault(
  line: string,
  call: (pod: { id: string; config: object }) => Promise<unknown>,
): Promise<void> {
  const own = await runPod(daemon, {}, 'faulty');
  await writeFile(fault, `${line}\n`);
  try {
    await call(own);
  } finally {
    await writeFile(fault, '');
    await removePod(daemon, own.id);
  }
}

/** Something stands in for a program, for the daemon alone. */
async function withProgram(path: string, script: string, call: () => Promise<unknown>): Promise<void> {
  const standIn = join(daemon.folder, 'stand-in');
  await writeFile(standIn, `#!/bin/sh\n${script}\n`, { mode: 0o755 });
  await daemon.machine.must(['mount', '--bind', standIn, path]);
  try {
    await call();
  } finally {
    await daemon.machine.must(['umount', path]);
  }
}

/** A pod whose network ends with a plugin of ours. */
async function podWithPlugin(name: string, add: string): Promise<void> {
  await writePlugin(join(daemon.folder, 'plugins', name), { add });
  const { plugins, ...rest } = daemon.conflist() as { plugins: object[] };
  await daemon.writeConflist({ ...rest, plugins: [...plugins, { type: name }] });
  await daemon.restart(); // sooner than its watch, which this test is not about
  try {
    await runPod(daemon);
  } finally {
    await daemon.writeConflist(daemon.conflist());
    await daemon.restart();
  }
}

interface Injection {
  readonly code: Code;
  readonly words: RegExp;
  readonly provoke: () => Promise<unknown>;
}

/** By a call of a client. */
const injections: Partial<Record<ErrorId, Injection>> = {
  InvalidArgument: {
    code: Code.INVALID_ARGUMENT,
    words: /config is missing$/,
    provoke: () => runtime().RunPodSandbox({}),
  },
  UnsupportedField: {
    code: Code.INVALID_ARGUMENT,
    words: /registry_token.*hint: /,
    provoke: () =>
      daemon.client.image.PullImage({
        image: { image: 'localhost/x:1' },
        auth: { registry_token: 'secret' },
      }),
  },
  UnknownHandler: {
    code: Code.INVALID_ARGUMENT,
    words:
      /"kata" is not configured; there are: crun, runc, faulty, absent; hint: use a handler that is there/,
    provoke: () => runPod(daemon, {}, 'kata'),
  },
  HandlerNotReady: {
    code: Code.FAILED_PRECONDITION,
    words:
      /RuntimeClass handler absent\): absent: ToolMissing: \/nonexistent\/runtime is not installed.*hint: .*crisp check/,
    provoke: () => runPod(daemon, {}, 'absent'),
  },
  SandboxNotFound: {
    code: Code.NOT_FOUND,
    words: /there is no pod sandbox gone; hint: .*crictl pods/,
    provoke: () => runtime().PodSandboxStatus({ pod_sandbox_id: 'gone' }),
  },
  ContainerNotFound: {
    code: Code.NOT_FOUND,
    words: /there is no container gone; hint: .*crictl ps -a/,
    provoke: () => runtime().ContainerStatus({ container_id: 'gone' }),
  },
  ImageNotFound: {
    code: Code.NOT_FOUND,
    words: /docker.io\/library\/none:1 is not on this node; hint: .*crictl pull/,
    provoke: () => container({ image: { image: 'docker.io/library/none:1' } }),
  },
  NameInUse: {
    code: Code.ALREADY_EXISTS,
    words: /exists already as [0-9a-f]{64}/,
    provoke: () => runtime().RunPodSandbox({ config: { ...pod.config, labels: { other: 'yes' } } }),
  },
  SandboxNotReady: {
    code: Code.FAILED_PRECONDITION,
    words: /is not ready; hint: run a new sandbox/,
    provoke: async () => {
      const stopped = await runPod(daemon);
      await runtime().StopPodSandbox({ pod_sandbox_id: stopped.id });
      await createContainer(daemon, stopped, containerConfig('true'));
    },
  },
  WrongContainerState: {
    code: Code.FAILED_PRECONDITION,
    words: /cannot be started: it is CONTAINER_RUNNING/,
    provoke: () => runtime().StartContainer({ container_id: running }),
  },
  ImageInUse: {
    code: Code.FAILED_PRECONDITION,
    words: /hint: remove the container first/,
    provoke: () => daemon.client.image.RemoveImage({ image: { image: testImage } }),
  },
  MountSourceMissing: {
    code: Code.FAILED_PRECONDITION,
    words: /mounts\[0\]\.host_path: \/nonexistent does not exist, and runtime\.absent_mount_sources/,
    provoke: () => container({ mounts: [{ host_path: '/nonexistent', container_path: '/a' }] }),
  },
  PathEscapes: {
    code: Code.INVALID_ARGUMENT,
    words: /log_path "\.\.\/out\.log" leaves the log folder/,
    provoke: () => container({ log_path: '../out.log' }),
  },
  UserNotFound: {
    code: Code.INVALID_ARGUMENT,
    words: /nobody-here/,
    provoke: () => container({ linux: { security_context: { run_as_username: 'nobody-here' } } }),
  },
  ImageVolumeMountFailed: {
    code: Code.INTERNAL,
    words: /image_sub_path: "none" does not exist in the image/,
    provoke: () =>
      container({
        mounts: [
          { image: { image: testImage }, image_sub_path: 'none', container_path: '/a', readonly: true },
        ],
      }),
  },
  SysctlFailed: {
    code: Code.INVALID_ARGUMENT,
    words:
      /cannot set net\.ipv4\.ip_forward in the pod; \[stage: pin namespaces\]; stderr: .*invalid argument/,
    provoke: () => runPod(daemon, { linux: { sysctls: { 'net.ipv4.ip_forward': 'maybe' } } }),
  },
  NamespaceFailed: {
    code: Code.INTERNAL,
    words:
      /unshare exited with 1; \[stage: pin namespaces, tool: unshare\]; stderr: no space for namespaces; hint: .*\/proc\/sys\/user/,
    provoke: () =>
      withProgram('/usr/bin/unshare', 'echo no space for namespaces >&2; exit 1', () =>
        runPod(daemon, podInUserNamespace(200_000)),
      ),
  },
  StorageFailed: {
    code: Code.INTERNAL,
    words: /cp exited with 1; \[.*tool: cp\]; stderr: cp: input\/output error/,
    provoke: () =>
      withProgram('/usr/bin/cp', 'echo cp: input/output error >&2; exit 1', () =>
        container({ image: { image: imageWithVolume } }),
      ),
  },
  CniFailed: {
    code: Code.UNAVAILABLE,
    words: /CNI plugin full failed ADD: no room at the inn \(code 7\); \[stage: cni add, tool: full\]$/,
    provoke: () => podWithPlugin('full', 'echo \'{"code":7,"msg":"no room at the inn"}\'; exit 1'),
  },
  CniConfigInvalid: {
    code: Code.FAILED_PRECONDITION,
    words: /template: .*hint: correct the file/,
    provoke: async () => {
      await writeFile(join(daemon.folder, 'template'), '{"cniVersion": }');
      await runtime().UpdateRuntimeConfig({
        runtime_config: { network_config: { pod_cidr: '10.9.0.0/24' } },
      });
    },
  },
  RuntimeFailed: {
    code: Code.INTERNAL,
    words: /faulty create failed: something odd; \[stage: container create, tool: faulty\]$/,
    provoke: () =>
      withFault('create something odd', (own) => createContainer(daemon, own, containerConfig('true'))),
  },
  OutOfMemory: {
    code: Code.RESOURCE_EXHAUSTED,
    words: /faulty create failed: cannot allocate memory.*hint: the memory limit is too small/,
    provoke: () =>
      withFault('create cannot allocate memory', (own) =>
        createContainer(daemon, own, containerConfig('true')),
      ),
  },
  DiskFull: {
    code: Code.RESOURCE_EXHAUSTED,
    words: /no space left on device.*hint: free space/,
    provoke: () =>
      withFault('create no space left on device', (own) =>
        createContainer(daemon, own, containerConfig('true')),
      ),
  },
  PermissionDenied: {
    code: Code.PERMISSION_DENIED,
    words: /operation not permitted.*hint: run crisp as root/,
    provoke: () =>
      withFault('create operation not permitted', (own) =>
        createContainer(daemon, own, containerConfig('true')),
      ),
  },
  StartFailed: {
    code: Code.FAILED_PRECONDITION,
    words: /\[stage: container (create|start), tool: crun\].*hint: the command is not in the image/,
    provoke: () => container({ command: ['/no/such/program'] }),
  },
  Unsupported: {
    code: Code.UNIMPLEMENTED,
    words: /checkpoints of whole pods are not supported: criu.*hint: docs\/cri-coverage\.md/,
    provoke: () => runtime().CheckpointPod({}),
  },
  ExecTimeout: {
    code: Code.DEADLINE_EXCEEDED,
    words: /did not end within 1000 ms and was killed; \[stage: exec\]; hint: raise the timeout/,
    provoke: () => runtime().ExecSync({ container_id: running, cmd: ['sleep', '100'], timeout: '1' }),
  },
  ToolMissing: {
    code: Code.INTERNAL,
    words: /faulty-crun is not installed; \[stage: find program, .*hint: .*crisp check/,
    provoke: async () => {
      const own = await runPod(daemon, {}, 'faulty');
      const id = await startContainer(daemon, own, containerConfig(untilStopped()));
      await rename(wrapper, `${wrapper}.away`);
      try {
        await runtime().ExecSync({ container_id: id, cmd: ['true'] });
      } finally {
        await rename(`${wrapper}.away`, wrapper);
        await removePod(daemon, own.id);
      }
    },
  },
  ToolTimeout: {
    code: Code.DEADLINE_EXCEEDED,
    words: /hang did not end within 1000 ms; \[stage: cni add, tool: hang\]/,
    provoke: () => podWithPlugin('hang', 'exec sleep 100'),
  },
};

/** By a command. */
const refusedCommands: Partial<Record<ErrorId, { readonly words: RegExp; readonly argv: () => string[] }>> = {
  InvalidConfigFile: {
    words: /InvalidConfigFile: .*bad\.yaml:1: colour: unknown key; hint: see docs\/configuration\.md/,
    argv: () => ['config', '--config', join(daemon.folder, 'bad.yaml')],
  },
  DaemonRunning: {
    words: /DaemonRunning: crisp runs already as process \d+, .*hint: stop it first/,
    argv: () => ['serve', '--config', daemon.configFile],
  },
  DaemonUnreachable: {
    words: /DaemonUnreachable: .*hint: start it/,
    argv: () => ['status', '--listen', 'unix:///nonexistent/crisp.sock'],
  },
};

/** What takes a registry, a client that goes away, or a state that no call can reach: the test that brings it about. */
const elsewhere: Partial<Record<ErrorId, string>> = {
  NotFoundInRegistry: 'test/integration/images-failures.test.ts',
  RegistryDenied: 'test/integration/images-failures.test.ts',
  RegistryUnavailable: 'test/integration/images-failures.test.ts',
  SignatureValidationFailed: 'test/integration/images-failures.test.ts',
  ImageCorrupt: 'test/integration/images-failures.test.ts',
  PullStalled: 'test/integration/images-failures.test.ts',
  RootfsMissing: 'test/integration/rootfs.test.ts',
  Cancelled: 'test/integration/images.test.ts',
  NetworkNotReady: 'test/integration/bad-input.test.ts',
  PortRefused: 'src/network/port-forward.test.ts',
  RROUnsupported: 'src/oci/mounts.test.ts',
  TooManyTickets: 'src/streaming/tickets.test.ts',
  ClientTooSlow: 'test/integration/streaming-hostile.test.ts',
  FileRefused: 'src/host/files.test.ts',
  RecordUnreadable: 'test/integration/records.test.ts',
  Locked: 'src/cri/events.test.ts',
  Internal: 'src/errors.test.ts',
  NoQuorum: 'src/backends/pct/pct.test.ts',
  BridgeMissing: 'src/backends/pct/pct.test.ts',
  GuestMissing: 'src/backends/pct/pct.test.ts',
  ForeignGuest: 'src/backends/pct/guard.test.ts',
  NoVmid: 'src/backends/pct/vmids.test.ts',
  LimitReached: 'test/integration/faults.test.ts',
};

describe('a client gets', () => {
  test.each(Object.entries(injections))('%s', async (id, { code, words, provoke }) => {
    await expect(provoke()).rejects.toMatchObject({
      code,
      details: expect.stringMatching(new RegExp(`^${id}: .*(${words.source})`)),
    });
  });
});

describe('a command prints', () => {
  beforeAll(() => writeFile(join(daemon.folder, 'bad.yaml'), 'colour: red\n'));
  test.each(Object.entries(refusedCommands))('%s', async (_id, { words, argv }) => {
    const { stderr, exitCode } = await daemon.machine.run([process.execPath, crisp, ...argv()]);
    expect(stderr).toMatch(words);
    expect(exitCode).not.toBe(0);
  });
});

test('every error of the catalogue is tested', async () => {
  expect(
    [...Object.keys(injections), ...Object.keys(refusedCommands), ...Object.keys(elsewhere)].sort(),
  ).toEqual(Object.keys(catalogue).sort());
  for (const [id, file] of Object.entries(elsewhere))
    expect({ id, file, tests: testsThatSay(file, await readFile(file, 'utf8'), id) }).not.toMatchObject({
      tests: [],
    });
});
