// Invalid requests get a clear error, and leave nothing behind.
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from '@jest/globals';
import * as grpc from '@grpc/grpc-js';
import { status as Code } from '@grpc/grpc-js';
import { mkdir, readdir, rm, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { ContainerConfig } from '../../src/cri/generated/runtime/v1/ContainerConfig.js';
import type { PodSandboxConfig } from '../../src/cri/generated/runtime/v1/PodSandboxConfig.js';
import { crisp, startDaemon, type Daemon } from '../helpers/daemon.js';
import { patience } from '../helpers/patience.js';
import { closedAddress, startBadRegistry } from '../helpers/registry.js';
import {
  containerConfig,
  createContainer,
  podConfig,
  removePod,
  runPod,
  startContainer,
  testImage,
} from '../helpers/requests.js';
import { writePlugin } from '../helpers/stand-ins.js';
import { eventually } from '../helpers/wait.js';

const missing = 'f'.repeat(64);
const badUserImage = 'docker.io/library/bad-user:1';
const hugeUserImage = 'docker.io/library/huge-user:1';
const endlessImage = 'docker.io/library/endless:1';
const lostImage = 'docker.io/library/lost:1';
const linksImage = 'docker.io/library/links:1';

let daemon: Daemon;
beforeAll(async () => {
  daemon = await startDaemon({
    config: {
      runtime: {
        absent_mount_sources_to_reject: ['/nonexistent/*'],
      },
    },
  });
  await daemon.addImage(testImage);
  await daemon.addImage(badUserImage, { config: { User: 'web:nogroup' } });
  await daemon.addImage(hugeUserImage, {
    config: { User: 'web' },
    files: { 'etc/passwd': 'web:x:4294967296:0::/:\n' },
  });
  await daemon.addImage(endlessImage, { files: { 'etc/group': 'x:x:1:y\n'.repeat(1_000_000) } });
  await daemon.addImage(lostImage, { files: { lost: 'soon' } });
  const { info } = await daemon.client.image.ImageStatus({ image: { image: lostImage }, verbose: true });
  const { layers } = JSON.parse(info['info'] ?? '') as { layers: string[] };
  await rm(layers[0] ?? '', { recursive: true });
  await daemon.addImage(linksImage, {
    links: { out: '../../../../../../../../../..' + join(daemon.folder, 'outside') },
  });
});
afterAll(() => daemon?.destroy());

/** The error that a client gets. */
function refusal(code: Code, words: RegExp) {
  return { code, details: expect.stringMatching(words) };
}

describe('an unknown id', () => {
  const r = () => daemon.client.runtime;
  test.each<[string, () => Promise<object>]>([
    ['PodSandboxStatus', () => r().PodSandboxStatus({ pod_sandbox_id: missing })],
    ['PodSandboxStats', () => r().PodSandboxStats({ pod_sandbox_id: missing })],
    ['PortForward', () => r().PortForward({ pod_sandbox_id: missing, port: [80] })],
    [
      'CreateContainer',
      () =>
        r().CreateContainer({
          pod_sandbox_id: missing,
          config: containerConfig('true'),
          sandbox_config: podConfig(daemon),
        }),
    ],
    ['StartContainer', () => r().StartContainer({ container_id: missing })],
    ['ContainerStatus', () => r().ContainerStatus({ container_id: missing })],
    ['ContainerStats', () => r().ContainerStats({ container_id: missing })],
    ['UpdateContainerResources', () => r().UpdateContainerResources({ container_id: missing, linux: {} })],
    ['ReopenContainerLog', () => r().ReopenContainerLog({ container_id: missing })],
    ['ExecSync', () => r().ExecSync({ container_id: missing, cmd: ['true'] })],
    ['Exec', () => r().Exec({ container_id: missing, cmd: ['true'], stdout: true })],
    ['Attach', () => r().Attach({ container_id: missing, stdout: true })],
  ])('is NOT_FOUND for %s', async (_, call) => {
    await expect(call()).rejects.toMatchObject(
      refusal(Code.NOT_FOUND, /^(Sandbox|Container)NotFound: .*f{64}/),
    );
  });
  test('is accepted by stop and remove calls', async () => {
    await r().StopPodSandbox({ pod_sandbox_id: missing });
    await r().RemovePodSandbox({ pod_sandbox_id: missing });
    await r().StopContainer({ container_id: missing, timeout: '1' });
    await r().RemoveContainer({ container_id: missing });
    await daemon.client.image.RemoveImage({ image: { image: 'docker.io/library/none:1' } });
    expect(
      (await daemon.client.image.ImageStatus({ image: { image: 'docker.io/library/none:1' } })).image,
    ).toBeNull();
  });
});

test('an error that quotes a long value is cut, and the daemon continues', async () => {
  for (const name of ['x', 'xy'])
    await expect(
      daemon.client.image.ImageStatus({ image: { image: `${name}${'\u{1f642}'.repeat(200)}` } }),
    ).rejects.toMatchObject({ code: Code.INVALID_ARGUMENT });
  const pod = await runPod(daemon);
  for (const name of ['x', 'xy']) {
    const long = containerConfig('true', {
      command: [`/${name}${`/${'\u{1f642}'.repeat(60)}`.repeat(6)}`],
      metadata: { name, attempt: 0 },
    });
    await expect(startContainer(daemon, pod, long)).rejects.toMatchObject({
      details: expect.stringContaining('[stage: container create'),
    });
  }
  await removePod(daemon, pod.id);
});

test('bytes that are not a valid message are an invalid argument, not an internal error', async () => {
  const client = new grpc.Client(`unix:${daemon.socket}`, grpc.credentials.createInsecure());
  const same = (bytes: Buffer): Buffer => bytes;
  const call = (bytes: Buffer) =>
    new Promise((resolve) => {
      client.makeUnaryRequest('/runtime.v1.RuntimeService/RunPodSandbox', same, same, bytes, (error) =>
        resolve(error),
      );
    });
  for (const bytes of [Buffer.from([0x0a, 0xff, 0xff]), Buffer.alloc(1 << 20, 0x0b)])
    expect(await call(bytes)).toMatchObject(refusal(Code.INVALID_ARGUMENT, /is not a RunPodSandboxRequest/));
  client.close();
});

test('an error is short, whatever it quotes', async () => {
  const error = (await daemon.client.runtime
    .ListContainers({ filter: { id: 'x'.repeat(4000) } })
    .then(() => daemon.client.runtime.ContainerStatus({ container_id: `\u001b${'\u{1f642}'.repeat(1000)}` }))
    .catch((refused: unknown) => refused)) as { details: string };
  expect(Buffer.byteLength(error.details)).toBeLessThanOrEqual(8192);
  expect(error.details).toContain('\\x1b');
});

describe('a pod', () => {
  let clean: string[];
  beforeEach(async () => {
    clean = await daemon.traces();
  });

  test.each<[string, PodSandboxConfig, string, Code, RegExp]>([
    ['without metadata', { metadata: null }, '', Code.INVALID_ARGUMENT, /metadata/],
    [
      'without a uid',
      { metadata: { name: 'nobody', namespace: 'test', uid: '', attempt: 0 } },
      '',
      Code.INVALID_ARGUMENT,
      /config\.metadata\.uid is empty/,
    ],
    [
      'with a port of an unknown protocol',
      { port_mappings: [{ protocol: 9 as never, container_port: 80, host_port: 20_080 }] },
      '',
      Code.INVALID_ARGUMENT,
      /config\.port_mappings\[0\]\.protocol: 9 is not a value of Protocol/,
    ],
    [
      'with a host port above 65535',
      { port_mappings: [{ protocol: 'TCP', container_port: 80, host_port: 65_536 }] },
      '',
      Code.INVALID_ARGUMENT,
      /config\.port_mappings\[0\]\.host_port: 65536/,
    ],
    [
      'with a mapped container port of 0',
      { port_mappings: [{ protocol: 'TCP', container_port: 0, host_port: 20_080 }] },
      '',
      Code.INVALID_ARGUMENT,
      /config\.port_mappings\[0\]\.container_port: 0/,
    ],
    [
      'with an invalid host IP',
      { port_mappings: [{ protocol: 'TCP', container_port: 80, host_port: 20_080, host_ip: '%s' }] },
      '',
      Code.INVALID_ARGUMENT,
      /config\.port_mappings\[0\]\.host_ip: "%s"/,
    ],
    [
      'with a CNI plugin argument in its name',
      { metadata: { name: 'a;K8S_POD_NAMESPACE=b', namespace: 'test', uid: 'x', attempt: 0 } },
      '',
      Code.INVALID_ARGUMENT,
      /config\.metadata\.name/,
    ],
    ['with an unknown handler', {}, 'gvisor', Code.INVALID_ARGUMENT, /^UnknownHandler: .*gvisor/],
    [
      'with a sysctl of the host',
      { linux: { sysctls: { 'vm.swappiness': '1' } } },
      '',
      Code.INVALID_ARGUMENT,
      /vm\.swappiness/,
    ],
    [
      'with a network sysctl on the host network',
      {
        linux: {
          sysctls: { 'net.ipv4.ip_forward': '1' },
          security_context: { namespace_options: { network: 'NODE' } },
        },
      },
      '',
      Code.INVALID_ARGUMENT,
      /net\.ipv4\.ip_forward/,
    ],
    [
      'with a sysctl that leaves /proc/sys',
      { linux: { sysctls: { 'net/../vm/swappiness': '1' } } },
      '',
      Code.INVALID_ARGUMENT,
      /swappiness/,
    ],
    [
      'with a sysctl whose value the kernel refuses',
      { linux: { sysctls: { 'net.ipv4.ip_forward': 'maybe' } } },
      '',
      Code.INVALID_ARGUMENT,
      /net\.ipv4\.ip_forward/,
    ],
    [
      'with a hostname that is too long',
      { hostname: 'x'.repeat(300) },
      '',
      Code.INVALID_ARGUMENT,
      /hostname/,
    ],
    [
      'with a line break in its hostname',
      { hostname: 'box\n127.0.0.1' },
      '',
      Code.INVALID_ARGUMENT,
      /hostname/,
    ],
    [
      'with a control character in its hostname',
      { hostname: 'b\x1bx' },
      '',
      Code.INVALID_ARGUMENT,
      /hostname/,
    ],
    [
      'with a NUL byte in a string',
      { hostname: 'box\0' },
      '',
      Code.INVALID_ARGUMENT,
      /config\.hostname: it contains a NUL character/,
    ],
    [
      'with a line break in a nameserver',
      { dns_config: { servers: ['10.0.0.1\noptions'] } },
      '',
      Code.INVALID_ARGUMENT,
      /dns_config/,
    ],
    ...[
      '/crisp-test/../../../tmp/crisp-out',
      '../crisp-out',
      '/a/./b',
      '/a\nb',
      '/a b',
      '/a:b',
      'x'.repeat(256),
    ].map((cgroup_parent): [string, PodSandboxConfig, string, Code, RegExp] => [
      `with the cgroup parent ${JSON.stringify(cgroup_parent)}`,
      { linux: { cgroup_parent } },
      '',
      Code.INVALID_ARGUMENT,
      /cgroup_parent/,
    ]),
    ['with a relative log folder', { log_directory: 'logs' }, '', Code.INVALID_ARGUMENT, /log_directory/],
  ])('%s is refused', async (_, more, handler, code, words) => {
    await expect(
      daemon.client.runtime.RunPodSandbox({ config: podConfig(daemon, more), runtime_handler: handler }),
    ).rejects.toMatchObject(refusal(code, words));
    expect(await daemon.traces()).toEqual(clean);
  });

  test('without a config is refused', async () => {
    await expect(daemon.client.runtime.RunPodSandbox({})).rejects.toMatchObject(
      refusal(Code.INVALID_ARGUMENT, /config/),
    );
    expect(await daemon.traces()).toEqual(clean);
  });

  test('whose name is in use is refused, and a retry returns the existing one', async () => {
    const pod = await runPod(daemon);
    const before = await daemon.traces();
    await expect(
      daemon.client.runtime.RunPodSandbox({ config: { ...pod.config, hostname: 'other' } }),
    ).rejects.toMatchObject(refusal(Code.ALREADY_EXISTS, /^NameInUse: /));
    expect(await daemon.client.runtime.RunPodSandbox({ config: pod.config })).toEqual({
      pod_sandbox_id: pod.id,
    });
    expect(await daemon.traces()).toEqual(before);
    await removePod(daemon, pod.id);
    expect(await daemon.traces()).toEqual(clean);
  });
});

describe('a container', () => {
  let pod: Awaited<ReturnType<typeof runPod>>;
  let before: string[];
  beforeAll(async () => {
    pod = await runPod(daemon);
    await mkdir(join(daemon.folder, 'elsewhere'));
    await mkdir(pod.config.log_directory ?? '', { recursive: true });
    await symlink(join(daemon.folder, 'elsewhere'), join(pod.config.log_directory ?? '', 'link'));
  });
  beforeEach(async () => {
    before = await daemon.traces();
  });
  afterEach(async () => {
    // what should not have been made must not disturb the next test
    const { containers } = await daemon.client.runtime.ListContainers({ filter: { pod_sandbox_id: pod.id } });
    for (const { id } of containers) await daemon.client.runtime.RemoveContainer({ container_id: id });
  });
  afterAll(() => removePod(daemon, pod.id));

  const mounted = (container_path: string, host_path = '/tmp'): ContainerConfig => ({
    mounts: [{ container_path, host_path }],
  });
  const limited = (resources: object): ContainerConfig => ({ linux: { resources } });
  test.each<[string, ContainerConfig, Code, RegExp]>([
    ['without metadata', { metadata: null }, Code.INVALID_ARGUMENT, /metadata/],
    ['without an image', { image: null }, Code.INVALID_ARGUMENT, /image/],
    [
      'of a missing image',
      { image: { image: 'docker.io/library/none:1' } },
      Code.NOT_FOUND,
      /^ImageNotFound: .*none:1/,
    ],
    ['whose log path escapes', { log_path: '../../main.log' }, Code.INVALID_ARGUMENT, /^PathEscapes: .*log/],
    [
      'with a missing mount source that the configuration does not allow to create',
      mounted('/data', '/nonexistent/source'),
      Code.FAILED_PRECONDITION,
      /^MountSourceMissing: .*\/nonexistent\/source/,
    ],
    ['with a relative mount source', mounted('/data', 'tmp'), Code.INVALID_ARGUMENT, /tmp/],
    ['with a relative mount target', mounted('../../data'), Code.INVALID_ARGUMENT, /data/],
    [
      'with a mount target outside the rootfs',
      mounted('/../../../../data/../..'),
      Code.INVALID_ARGUMENT,
      /mounts\[0\]/,
    ],
    [
      'of a user that does not exist',
      { linux: { security_context: { run_as_username: 'nobody-here' } } },
      Code.INVALID_ARGUMENT,
      /^UserNotFound: .*nobody-here/,
    ],
    [
      'of a group that does not exist',
      { image: { image: badUserImage } },
      Code.INVALID_ARGUMENT,
      /^UserNotFound: .*nogroup/,
    ],
    [
      'of an image with unlimited account files',
      { image: { image: endlessImage } },
      Code.INVALID_ARGUMENT,
      /^FileRefused: \/etc\/group of the image/,
    ],
    [
      'of an image that has lost a layer',
      { image: { image: lostImage } },
      Code.NOT_FOUND,
      /^ImageNotFound: .*hint: /,
    ],
    [
      'of an image with a name of thousands of characters',
      { image: { image: 'a/'.repeat(1000) + 'b' } },
      Code.INVALID_ARGUMENT,
      /^InvalidArgument: image reference/,
    ],
    [
      'of a group without a user',
      { linux: { security_context: { run_as_group: { value: '5' } } } },
      Code.INVALID_ARGUMENT,
      /run_as_group/,
    ],
    [
      'of a negative user',
      { linux: { security_context: { run_as_user: { value: '-1' } } } },
      Code.INVALID_ARGUMENT,
      /user/,
    ],
    [
      'of a user above the highest id',
      { linux: { security_context: { run_as_user: { value: '4294967296' } } } },
      Code.INVALID_ARGUMENT,
      /user id 4294967296/,
    ],
    [
      'of an image whose user has an id that wraps around to that of root',
      { image: { image: hugeUserImage } },
      Code.INVALID_ARGUMENT,
      /user id 4294967296/,
    ],
    [
      'with a NUL byte in an argument',
      { args: ['a\0b'] },
      Code.INVALID_ARGUMENT,
      /config\.args\[0\]: it contains a NUL character/,
    ],
    [
      'with negative memory',
      limited({ memory_limit_in_bytes: '-5' }),
      Code.INVALID_ARGUMENT,
      /memory_limit_in_bytes/,
    ],
    [
      'with one byte of memory',
      limited({ memory_limit_in_bytes: '1' }),
      Code.INVALID_ARGUMENT,
      /memory_limit_in_bytes/,
    ],
    ['with negative cpu shares', limited({ cpu_shares: '-1' }), Code.INVALID_ARGUMENT, /cpu_shares/],
    [
      'with a negative period',
      limited({ cpu_period: '-1', cpu_quota: '1000' }),
      Code.INVALID_ARGUMENT,
      /cpu_period/,
    ],
    ['with an invalid CPU list', limited({ cpuset_cpus: 'all' }), Code.INVALID_ARGUMENT, /cpuset_cpus/],
    ['with an absurd oom score', limited({ oom_score_adj: '5000' }), Code.INVALID_ARGUMENT, /oom_score_adj/],
    [
      'with an unknown capability',
      { linux: { security_context: { capabilities: { add_capabilities: ['FLY'] } } } },
      Code.INVALID_ARGUMENT,
      /FLY/,
    ],
    ['with a relative working folder', { working_dir: 'tmp' }, Code.INVALID_ARGUMENT, /working_dir/],
    [
      'with a missing device',
      { devices: [{ host_path: '/dev/none', container_path: '/dev/none', permissions: 'rwm' }] },
      Code.INVALID_ARGUMENT,
      /\/dev\/none/,
    ],
  ])('%s is refused', async (_, more, code, words) => {
    await expect(createContainer(daemon, pod, containerConfig('true', more))).rejects.toMatchObject(
      refusal(code, words),
    );
    expect(await daemon.traces()).toEqual(before);
  });

  const seccomp = (localhost_ref: string): ContainerConfig => ({
    linux: { security_context: { seccomp: { profile_type: 'Localhost', localhost_ref } } },
  });
  test('whose seccomp profile is not a regular file, too long or not JSON is refused without quoting it', async () => {
    const file = (name: string) => join(daemon.folder, name);
    await daemon.machine.must(['mkfifo', file('fifo')]);
    await writeFile(file('huge'), `${' '.repeat(3 << 20)}{}`);
    await writeFile(file('secret'), 'open-sesame is the password');
    for (const [path, words] of [
      [file('fifo'), /not a regular file/],
      ['/dev/zero', /not a regular file/],
      [daemon.folder, /not a regular file/],
      [file('huge'), /larger than|longer than/],
      [file('secret'), /not JSON/],
    ] as const) {
      const error = (await createContainer(daemon, pod, containerConfig('true', seccomp(path))).catch(
        (refused: unknown) => refused,
      )) as { details: string };
      expect(error).toMatchObject(refusal(Code.INVALID_ARGUMENT, words));
      expect(error.details).not.toMatch(/open|sesame/);
    }
    expect(await daemon.traces()).toEqual(before);
  });

  test('whose log path escapes through a symlink is refused', async () => {
    await expect(
      createContainer(daemon, pod, containerConfig('true', { log_path: 'link/main.log' })),
    ).rejects.toMatchObject(refusal(Code.INVALID_ARGUMENT, /^PathEscapes: .*log/));
    expect(await daemon.traces()).toEqual(before);
    expect(await readdir(join(daemon.folder, 'elsewhere'))).toEqual([]);
  });

  test('whose mount target is a symlink out of the rootfs is refused', async () => {
    const config = containerConfig('sleep 1000', { image: { image: linksImage }, ...mounted('/out/data') });
    await expect(createContainer(daemon, pod, config)).rejects.toMatchObject(
      refusal(Code.INVALID_ARGUMENT, /^PathEscapes: mounts\[0\]\.container_path/),
    );
    expect(await readdir(daemon.machine.path(daemon.folder))).not.toContain('outside');
    expect(await daemon.traces()).toEqual(before);
  });

  test('whose command does not exist fails with the same error at each start', async () => {
    for (let attempt = 0; attempt < 2; attempt++) {
      await expect(
        createContainer(daemon, pod, containerConfig('', { command: ['/no/such/program'] })),
      ).rejects.toMatchObject(refusal(Code.FAILED_PRECONDITION, /\/no\/such\/program/));
      expect(await daemon.traces()).toEqual(before);
    }
  });

  test('is not started twice', async () => {
    const id = await startContainer(daemon, pod, containerConfig('sleep 1000'));
    const running = await tracesOfStarted();
    await expect(daemon.client.runtime.StartContainer({ container_id: id })).rejects.toMatchObject(
      refusal(Code.FAILED_PRECONDITION, /^WrongContainerState: .*CONTAINER_RUNNING/),
    );
    expect(await daemon.traces()).toEqual(running);
    await daemon.client.runtime.RemoveContainer({ container_id: id });
    await expect(daemon.client.runtime.StartContainer({ container_id: id })).rejects.toMatchObject({
      code: Code.NOT_FOUND,
    });
    expect(await daemon.traces()).toEqual(before);
  });

  test('whose name is in use is refused, and a retry returns the existing one', async () => {
    const id = await createContainer(daemon, pod, containerConfig('true'));
    const made = await daemon.traces();
    await expect(createContainer(daemon, pod, containerConfig('false'))).rejects.toMatchObject(
      refusal(Code.ALREADY_EXISTS, /^NameInUse: /),
    );
    expect(await createContainer(daemon, pod, containerConfig('true'))).toBe(id);
    expect(await daemon.traces()).toEqual(made);
    await daemon.client.runtime.RemoveContainer({ container_id: id });
    expect(await daemon.traces()).toEqual(before);
  });

  test('with invalid resources is not updated', async () => {
    const id = await startContainer(daemon, pod, containerConfig('sleep 1000'));
    const running = await tracesOfStarted();
    for (const linux of [
      { memory_limit_in_bytes: '-5' },
      { memory_limit_in_bytes: '1' },
      { cpu_shares: '-1' },
      { cpuset_cpus: 'all' },
    ]) {
      await expect(
        daemon.client.runtime.UpdateContainerResources({ container_id: id, linux }),
      ).rejects.toMatchObject(refusal(Code.INVALID_ARGUMENT, new RegExp(Object.keys(linux)[0] ?? '')));
    }
    expect(await daemon.traces()).toEqual(running);
    await daemon.client.runtime.RemoveContainer({ container_id: id });
  });

  test('for a stopped pod is refused', async () => {
    const stopped = await runPod(daemon);
    const waiting = await createContainer(
      daemon,
      stopped,
      containerConfig('true', { metadata: { name: 'waiting' } }),
    );
    await daemon.client.runtime.StopPodSandbox({ pod_sandbox_id: stopped.id });
    await expect(createContainer(daemon, stopped, containerConfig('true'))).rejects.toMatchObject(
      refusal(Code.FAILED_PRECONDITION, /^SandboxNotReady: /),
    );
    await expect(daemon.client.runtime.StartContainer({ container_id: waiting })).rejects.toMatchObject({
      code: Code.FAILED_PRECONDITION,
    });
    await daemon.client.runtime.RemovePodSandbox({ pod_sandbox_id: stopped.id });
    expect(await daemon.traces()).toEqual(before);
  });
});

describe('a registry', () => {
  let strange: Daemon;
  let clean: string[];
  let close: () => Promise<void> = () => Promise.resolve();
  beforeAll(async () => {
    strange = await startDaemon({ network: false });
  });
  beforeEach(async () => {
    clean = await strange.traces();
  });
  afterEach(() => close());
  afterAll(() => strange?.destroy());

  async function pullFrom(address: string, options = {}, progressSeconds = 1) {
    const registries = join(strange.folder, 'registries.conf');
    await writeFile(registries, `[[registry]]\nlocation = "${address}"\ninsecure = true\n`);
    await strange.stop();
    await strange.writeConfig({
      images: { registries_conf: registries, pull_progress_timeout_seconds: progressSeconds },
    });
    await strange.start();
    return strange.client.image.PullImage(
      { image: { image: `${address}/box:1` }, auth: { username: 'me', password: 'open-sesame' } },
      options,
    );
  }
  async function nothingLeft(): Promise<void> {
    await leaves(clean, strange);
    expect((await strange.client.image.ListImages({})).images).toEqual([]);
    expect(strange.logs()).not.toContain('open-sesame');
  }

  test('that is not reachable', async () => {
    await expect(pullFrom(await closedAddress())).rejects.toMatchObject(
      refusal(Code.UNAVAILABLE, /^RegistryUnavailable: /),
    );
    await nothingLeft();
  });
  test.each([
    ['denies', Code.PERMISSION_DENIED, /^RegistryDenied: /],
    ['lies', Code.INTERNAL, /^ImageCorrupt: /],
    ['hangs', Code.DEADLINE_EXCEEDED, /^PullStalled: /],
  ] as const)('that %s', async (manner, code, words) => {
    const registry = await startBadRegistry(manner);
    close = registry.close;
    await expect(pullFrom(registry.address)).rejects.toMatchObject(refusal(code, words));
    await nothingLeft();
  });
  test('whose client disconnects', async () => {
    const registry = await startBadRegistry('hangs');
    close = registry.close;
    const caller = new AbortController();
    void registry.hanging.then(() => caller.abort());
    await expect(pullFrom(registry.address, { signal: caller.signal }, 600 * patience)).rejects.toMatchObject(
      { code: Code.CANCELLED },
    );
    await nothingLeft();
  });
  test('is not contacted with invalid credentials', async () => {
    await expect(
      strange.client.image.PullImage({
        image: { image: 'localhost:1/x' },
        auth: { auth: 'not base64 at all!' },
      }),
    ).rejects.toMatchObject(refusal(Code.INVALID_ARGUMENT, /auth\.auth is not base64/));
    await nothingLeft();
  });
  test.each([['a name with spaces'], ['UPPER/case'], ['x@sha256:short'], [''], ['x'.repeat(4000)]])(
    'is not contacted for "%s"',
    async (image) => {
      await expect(strange.client.image.PullImage({ image: { image } })).rejects.toMatchObject({
        code: Code.INVALID_ARGUMENT,
      });
      await nothingLeft();
    },
  );
});

describe('a CNI network', () => {
  let strange: Daemon;
  let clean: string[];
  beforeAll(async () => {
    strange = await startDaemon({ network: false });
  });
  beforeEach(async () => {
    await strange.stop();
    const bin = join(strange.folder, 'bin');
    await mkdir(bin, { recursive: true });
    for (const [name, add] of [
      ['fails', 'echo \'{"code":7,"msg":"no room at the inn"}\'; exit 1'],
      ['hangs', 'exec sleep 1000'],
      ['forgets', 'echo \'{"cniVersion":"1.0.0","interfaces":[],"ips":[]}\'; exit'],
    ] as const)
      await writePlugin(join(bin, name), { add });
    await strange.writeConfig({
      network: { bin_dirs: [bin, '/opt/cni/bin', '/usr/lib/cni'], plugin_timeout_seconds: 1 },
    });
    clean = await strange.traces();
  });
  afterAll(() => strange?.destroy());

  /** The real network first, then the plugin: the addresses of the first must be released. */
  const then = (type: string) => {
    const { plugins, ...rest } = strange.conflist() as { plugins: object[] };
    return { ...rest, plugins: [...plugins, { type }] };
  };
  test.each<[string, () => object | string, Code, RegExp]>([
    ['that does not parse', () => '{ "name": ', Code.UNAVAILABLE, /^NetworkNotReady: .*10-test\.conflist/],
    [
      'without a name',
      () => ({ cniVersion: '1.0.0', plugins: [{ type: 'bridge' }] }),
      Code.UNAVAILABLE,
      /^NetworkNotReady: .*10-test\.conflist/,
    ],
    ['whose plugin is not installed', () => then('none-such'), Code.UNAVAILABLE, /none-such/],
    ['whose plugin fails', () => then('fails'), Code.UNAVAILABLE, /^CniFailed: .*no room at the inn/],
    [
      'that gives no address',
      () => then('forgets'),
      Code.UNAVAILABLE,
      /^CniFailed: .*gave the pod no address/,
    ],
    ['whose plugin hangs', () => then('hangs'), Code.DEADLINE_EXCEEDED, /hangs/],
  ])('%s', async (_, conflist, code, words) => {
    await strange.writeConflist(conflist());
    await strange.start();
    await expect(runPod(strange)).rejects.toMatchObject(refusal(code, words));
    expect(await strange.traces()).toEqual(clean);
    const host = await runPod(strange, {
      linux: { security_context: { namespace_options: { network: 'NODE' } } },
    });
    await removePod(strange, host.id);
  });
});

describe('a config file', () => {
  test.each([
    [
      'an unknown key',
      'network:\n  conf_dri: /etc/cni/net.d\n',
      /config\.yaml:2: network\.conf_dri: unknown key/,
    ],
    [
      'a wrong type',
      'log_level: info\nstreaming:\n  port: many\n',
      /config\.yaml:3: streaming\.port: .*number/,
    ],
    [
      'an unknown handler',
      'default_container_type: none\n',
      /config\.yaml:1: default_container_type: "none"/,
    ],
    ['no YAML', 'a: [\n', /config\.yaml:\d+/],
  ])('with %s stops the daemon with an error that names the line and the key', async (_, text, words) => {
    const file = join(daemon.folder, 'bad', 'config.yaml');
    await mkdir(join(file, '..'), { recursive: true });
    await writeFile(file, text);
    const { exitCode, stdout, stderr } = await daemon.machine.run([
      process.execPath,
      crisp,
      'serve',
      '--config',
      file,
    ]);
    expect(exitCode).not.toBe(0);
    expect(stdout + stderr).toMatch(words);
  });
});

/** The traces once the program of each container runs in place of the runtime that started it. */
async function tracesOfStarted(): Promise<string[]> {
  for (;;) {
    const found = await daemon.traces();
    if (!found.some((line) => /^process \d+ \S*crun .* create /.test(line))) return found;
  }
}

/** What goes on after the answer is given time: 10 s. */
async function leaves(wanted: readonly string[], of: Daemon = daemon): Promise<void> {
  await eventually(async () => expect(await of.traces()).toEqual(wanted));
}
