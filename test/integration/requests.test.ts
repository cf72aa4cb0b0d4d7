// Request fields without a test of their own, each sent by a client and checked for its
// effect. src/coverage.ts refers to these tests.
import { status as Code } from '@grpc/grpc-js';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { readFileSync } from 'node:fs';
import { writeFile } from 'node:fs/promises';
import { createServer, get, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import { createServer as createListener, type AddressInfo } from 'node:net';
import { once } from 'node:events';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import type { AuthConfig } from '../../src/cri/generated/runtime/v1/AuthConfig.js';
import type { ContainerConfig } from '../../src/cri/generated/runtime/v1/ContainerConfig.js';
import type { ContainerFilter } from '../../src/cri/generated/runtime/v1/ContainerFilter.js';
import type { LinuxContainerSecurityContext } from '../../src/cri/generated/runtime/v1/LinuxContainerSecurityContext.js';
import type { PodSandboxFilter } from '../../src/cri/generated/runtime/v1/PodSandboxFilter.js';
import { startDaemon, type Daemon } from '../helpers/daemon.js';
import {
  containerConfig,
  createContainer,
  podConfig,
  removePod,
  runPod,
  startContainer,
  testImage,
  untilStopped,
  waitForExit,
} from '../helpers/requests.js';

let daemon: Daemon;
let pod: Awaited<ReturnType<typeof runPod>>;
let other: Awaited<ReturnType<typeof runPod>>;
let running: string;
let created: string;
beforeAll(async () => {
  daemon = await startDaemon();
  await daemon.addImage(testImage);
  pod = await runPod(daemon, { labels: { app: 'shop' } });
  other = await runPod(daemon, { labels: { app: 'mail' } });
  running = await startContainer(daemon, pod, {
    ...containerConfig(untilStopped()),
    image: { image: testImage, user_specified_image: 'busybox:1' },
    labels: { tier: 'front' },
  });
  created = await createContainer(daemon, other, {
    ...containerConfig(untilStopped()),
    labels: { tier: 'back' },
  });
});
afterAll(() => daemon?.destroy());

const runtime = () => daemon.client.runtime;
const named = (name: string) => ({ metadata: { name, attempt: 0 } });
const secured = (security_context: LinuxContainerSecurityContext): ContainerConfig => ({
  ...containerConfig(untilStopped()),
  ...named('secured'),
  linux: { security_context },
});
const execIn = async (id: string, script: string): Promise<string> =>
  String((await runtime().ExecSync({ container_id: id, cmd: ['sh', '-c', script], timeout: '10' })).stdout);
async function collect(call: AsyncIterable<unknown>): Promise<unknown[]> {
  const all = [];
  for await (const item of call) all.push(item);
  return all;
}

describe('lists are filtered', () => {
  test('of pods', async () => {
    const ids = async (filter: PodSandboxFilter) =>
      (await runtime().ListPodSandbox({ filter })).items.map(({ id }) => id);
    expect(await ids({ id: pod.id })).toEqual([pod.id]);
    expect(await ids({ label_selector: { app: 'mail' } })).toEqual([other.id]);
    expect(await ids({ state: { state: 'SANDBOX_NOTREADY' } })).toEqual([]);
    expect((await ids({ state: { state: 'SANDBOX_READY' } })).sort()).toEqual([pod.id, other.id].sort());
    expect(
      JSON.stringify(
        await collect(
          daemon.client.streams.StreamPodSandboxes({ filter: { label_selector: { app: 'mail' } } }),
        ),
      ),
    ).not.toContain(pod.id);
  });
  test('of containers', async () => {
    const ids = async (filter: ContainerFilter) =>
      (await runtime().ListContainers({ filter })).containers.map(({ id }) => id);
    expect(await ids({ id: running })).toEqual([running]);
    expect(await ids({ pod_sandbox_id: other.id })).toEqual([created]);
    expect(await ids({ state: { state: 'CONTAINER_RUNNING' } })).toEqual([running]);
    expect(await ids({ label_selector: { tier: 'back' } })).toEqual([created]);
    expect(
      JSON.stringify(
        await collect(daemon.client.streams.StreamContainers({ filter: { pod_sandbox_id: other.id } })),
      ),
    ).not.toContain(running);
  });
  test('of images', async () => {
    const names = async (image: string) =>
      (await daemon.client.image.ListImages({ filter: { image: { image } } })).images.flatMap(
        ({ repo_tags: tags }) => tags,
      );
    expect(await names(testImage)).toEqual([testImage]);
    expect(await names('docker.io/library/none:1')).toEqual([]);
    const streamed = async (image: string) =>
      JSON.stringify(
        await collect(daemon.client.imageStreams.StreamImages({ filter: { image: { image } } })),
      );
    expect(await streamed(testImage)).toContain(testImage);
    expect(await streamed('docker.io/library/none:1')).not.toContain(testImage);
    const { image, info } = await daemon.client.image.ImageStatus({
      image: { image: testImage },
      verbose: true,
    });
    expect(image?.repo_tags).toEqual([testImage]);
    expect(Object.keys(info)).not.toEqual([]);
  });
});

test('the image is shown under the requested name', async () => {
  const { status, info } = await runtime().ContainerStatus({ container_id: running, verbose: true });
  expect(status?.image).toMatchObject({ user_specified_image: 'busybox:1' });
  expect(JSON.parse(info['info'] ?? '')).toMatchObject({ sandboxID: pod.id, notHonoured: [] });
});

test('a port of the host leads to the pod, only at the requested address', async () => {
  const server = createListener().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;
  await new Promise((resolve) => {
    server.close(resolve);
  });
  const mapped = await runPod(daemon, {
    port_mappings: [{ protocol: 'TCP', container_port: 80, host_port: port, host_ip: '127.0.0.1' }],
  });
  await startContainer(
    daemon,
    mapped,
    containerConfig('mkdir /w; echo found > /w/index.html; httpd -f -p 80 -h /w'),
  );
  const fetched = async (address: string): Promise<string> =>
    new Promise((resolve, reject) => {
      get(`http://${address}:${port}/`, (answer) => resolve(text(answer))).on('error', reject);
    });
  for (let tries = 0; ; tries++) {
    try {
      expect(await fetched('127.0.0.1')).toBe('found\n');
      break;
    } catch (error) {
      if (tries > 50) throw error;
      await new Promise((resolve) => {
        setTimeout(resolve, 50);
      });
    }
  }
  // The gateway of the pod's network is another address of this host.
  const gateway = daemon.network.subnet.replace(/\.0\/24$/, '.1');
  await expect(fetched(gateway)).rejects.toMatchObject({ code: 'ECONNREFUSED' });
  await removePod(daemon, mapped.id);
});

describe('a pod whose cgroup is ours', () => {
  test('is resized, and keeps its overhead', async () => {
    const own = await runPod(daemon);
    await runtime().UpdatePodSandboxResources({
      pod_sandbox_id: own.id,
      resources: { memory_limit_in_bytes: String(64 << 20), cpu_quota: '50000', cpu_period: '100000' },
      overhead: { memory_limit_in_bytes: String(1 << 20) },
    });
    const limits = await daemon.machine.must([
      'sh',
      '-c',
      `cat /sys/fs/cgroup/memory/crisp/${own.id}/memory.limit_in_bytes /sys/fs/cgroup/cpu/crisp/${own.id}/cpu.cfs_quota_us 2>/dev/null || cat /sys/fs/cgroup/crisp/${own.id}/memory.max /sys/fs/cgroup/crisp/${own.id}/cpu.max`,
    ]);
    expect(limits).toMatch(/^67108864\n50000/);
    const { info } = await runtime().PodSandboxStatus({ pod_sandbox_id: own.id, verbose: true });
    expect(info['info']).toContain('"overhead"');
    await removePod(daemon, own.id);
  });
  test('and a cgroup named by the caller contains the containers', async () => {
    const parent = `/crisp-requests-${process.pid}`;
    const theirs = await runPod(daemon, { linux: { cgroup_parent: parent } });
    const id = await startContainer(daemon, theirs, containerConfig(untilStopped()));
    expect(await execIn(id, 'cat /proc/1/cgroup')).toContain(`${parent}/${id}`);
    await removePod(daemon, theirs.id);
    await daemon.machine.run(['sh', '-c', `rmdir /sys/fs/cgroup/*${parent} /sys/fs/cgroup${parent}`]);
  });
});

describe('a container', () => {
  test('has the requested terminal, stop signal and arguments', async () => {
    const id = await startContainer(daemon, pod, {
      ...containerConfig(''),
      ...named('signal'),
      tty: true,
      stop_signal: 'SIGNAL_SIGUSR1',
      command: ['sh', '-c'],
      args: ['trap "exit 9" USR1; tty > /where; while :; do sleep 1000 & wait $!; done'],
    });
    expect(await execIn(id, 'until [ -s /where ]; do :; done; cat /where')).toMatch(/^\/dev\//);
    await runtime().StopContainer({ container_id: id, timeout: '10' });
    expect(await waitForExit(daemon, id)).toMatchObject({ exit_code: 9 });
  });
  test('has a read-only view of a folder of an image', async () => {
    const id = await startContainer(daemon, pod, {
      ...containerConfig(untilStopped()),
      ...named('volume'),
      mounts: [
        { image: { image: testImage }, image_sub_path: 'bin', container_path: '/programs', readonly: true },
      ],
    });
    expect(await execIn(id, 'ls /programs/sh; touch /programs/x 2>/dev/null || echo refused')).toBe(
      '/programs/sh\nrefused\n',
    );
  });
  test('shares the pid namespace of a container of its own pod only', async () => {
    const target = (id: string) => ({
      linux: { security_context: { namespace_options: { pid: 'TARGET' as const, target_id: id } } },
    });
    const id = await startContainer(daemon, pod, {
      ...containerConfig(untilStopped()),
      ...named('debugger'),
      ...target(running),
    });
    expect(await execIn(id, 'tr "\\0" " " < /proc/1/cmdline')).toContain('trap');
    const far = await startContainer(daemon, other, { ...containerConfig(untilStopped()), ...named('far') });
    await expect(
      createContainer(daemon, pod, { ...containerConfig('true'), ...named('thief'), ...target(far) }),
    ).rejects.toMatchObject({ code: Code.INVALID_ARGUMENT, details: expect.stringContaining('target_id') });
  });
});

describe('credentials of a pull', () => {
  const base64 = (text: string): string => Buffer.from(text).toString('base64');
  let registry: Server;
  let address: string;
  /** The requests that it received. */
  let seen: string[] = [];
  beforeAll(async () => {
    registry = createServer((request, response) => void answer(request, response)).listen(0, '127.0.0.1');
    await once(registry, 'listening');
    address = `127.0.0.1:${(registry.address() as AddressInfo).port}`;
    const registries = join(daemon.folder, 'registries.conf');
    await writeFile(registries, `[[registry]]\nlocation = "${address}"\ninsecure = true\n`);
    await daemon.writeConfig({ images: { registries_conf: registries } });
    await daemon.restart();
  });
  afterAll(() => {
    registry?.close();
  });

  /** A stub of a registry that wants a password, or below /v2/tokens a token, and has no images. */
  async function answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const body = await text(request);
    const { authorization } = request.headers;
    if (authorization) seen.push(authorization);
    if (request.url?.startsWith('/token')) {
      seen.push(body);
      response.end('{"access_token":"given"}');
      return;
    }
    if (authorization) {
      response.writeHead(404).end();
      return;
    }
    response
      .writeHead(401, {
        'www-authenticate': wantsToken
          ? `Bearer realm="http://${address}/token",service="test"`
          : 'Basic realm="test"',
      })
      .end();
  }
  let wantsToken = false;

  const pull = async (auth: AuthConfig, wants: 'password' | 'token' = 'password'): Promise<string> => {
    seen = [];
    wantsToken = wants === 'token';
    await expect(
      daemon.client.image.PullImage({ image: { image: `${address}/app:1` }, auth }),
    ).rejects.toThrow(/app:1/); // it has no images
    return [...new Set(seen)].join(' ');
  };
  test('reach only the registry that they are for', async () => {
    expect(await pull({ username: 'me', password: 'open-sesame' })).toBe(`Basic ${base64('me:open-sesame')}`);
    expect(await pull({ auth: base64('you:open-sesame') })).toBe(`Basic ${base64('you:open-sesame')}`);
    expect(await pull({ username: 'me', password: 'open-sesame', server_address: `http://${address}` })).toBe(
      `Basic ${base64('me:open-sesame')}`,
    );
    expect(
      await pull({ username: 'me', password: 'open-sesame', server_address: 'elsewhere.example' }),
    ).not.toContain(base64('me:open-sesame'));
  });
  test('and an identity token is exchanged for a registry token', async () => {
    const told = await pull({ identity_token: 'open-sesame' }, 'token');
    expect(told).toContain('refresh_token=open-sesame');
    expect(told).toContain('Bearer given');
  });
});

describe('what Linux nodes or crisp do not support is refused', () => {
  test.each<[string, () => Promise<unknown>, Code, string]>([
    [
      'limits for Windows',
      () => runtime().UpdateContainerResources({ container_id: running, windows: { cpu_count: '1' } }),
      Code.INVALID_ARGUMENT,
      'linux is missing',
    ],
    [
      'a checkpoint of a pod',
      () =>
        runtime().CheckpointPod({
          pod_sandbox_id: pod.id,
          output_path: join(daemon.folder, 'pod.tar'),
          container_ids: [running],
          options: { a: 'b' },
        }),
      Code.UNIMPLEMENTED,
      'whole pods',
    ],
    [
      'its restore',
      () =>
        runtime().RestorePod({
          checkpoint_path: join(daemon.folder, 'pod.tar'),
          config: podConfig(daemon),
          runtime_handler: '',
          options: { a: 'b' },
          container_configs: [containerConfig('true')],
        }),
      Code.UNIMPLEMENTED,
      'no pod checkpoints',
    ],
    [
      'a registry token',
      () =>
        daemon.client.image.PullImage({
          image: { image: 'localhost/x:1' },
          auth: { registry_token: 'open-sesame' },
        }),
      Code.INVALID_ARGUMENT,
      'registry_token',
    ],
    [
      'a missing AppArmor profile',
      () =>
        createContainer(
          daemon,
          pod,
          secured({ apparmor: { profile_type: 'Localhost', localhost_ref: 'crisp-test-none' } }),
        ),
      Code.INVALID_ARGUMENT,
      'profile "crisp-test-none"',
    ],
  ])('%s', async (_, call, code, words) => {
    await expect(call()).rejects.toMatchObject({ code, details: expect.stringContaining(words) });
  });
  test('and no secret is written to the log', () => {
    const lines = daemon.logs().split('\n');
    expect(lines.filter((line) => line.includes('open-sesame'))).toEqual([]);
  });
});

test('a terminal and ports get a URL to connect to', async () => {
  expect(
    await runtime().Exec({
      container_id: running,
      cmd: ['sh'],
      tty: true,
      stdin: true,
      stdout: true,
      stderr: false,
    }),
  ).toMatchObject({ url: expect.stringMatching(/^http:\/\/127\.0\.0\.1:/) });
  expect(
    await runtime().Attach({ container_id: running, stdin: false, tty: false, stdout: true, stderr: true }),
  ).toMatchObject({ url: expect.stringMatching(/^http/) });
  expect(await runtime().PortForward({ pod_sandbox_id: pod.id, port: [80] })).toMatchObject({
    url: expect.stringMatching(/^http/),
  });
  expect(readFileSync(join(pod.config.log_directory ?? '', 'main.log'), 'utf8')).toBe('');
});
