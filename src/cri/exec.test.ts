import { afterEach, expect, test } from '@jest/globals';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { createServer, type AddressInfo } from 'node:net';
import { duplexPair } from 'node:stream';
import { text } from 'node:stream/consumers';
import type { ExecPlan } from '../backends/backend.js';
import { Bench, call, type StandIns } from '../../test/helpers/services.js';
import type { ExecSyncResponse } from './generated/runtime/v1/ExecSyncResponse.js';
import { loadProto } from './proto.js';
import { attach, exec, execSync, portForward, streamingHandlers } from './exec.js';

let bench: Bench;
afterEach(() => bench?.end());

const mostBytes = 16 * 1024 * 1024;
const encodedBytes = (answer: ExecSyncResponse): number =>
  loadProto().runtime.v1.RuntimeService.service.ExecSync.responseSerialize(answer).length;
const executing = (does: (plan: ExecPlan) => Promise<void>): StandIns => ({
  backend: {
    exec: async (_, plan) => {
      await does(plan);
      return { exitCode: 5 };
    },
  },
});
const sync = (id: string, timeout = '0', cmd = ['sh']) =>
  execSync(bench.services, { container_id: id, cmd, timeout }, call);

test('ExecSync returns stdout and stderr separately', async () => {
  bench = new Bench(
    executing(async ({ io }) => {
      io.stdout?.write('out');
      io.stderr?.write('err');
    }),
  );
  const { id } = await bench.running(await bench.pod());
  expect(await sync(id)).toEqual({ exit_code: 5, stdout: Buffer.from('out'), stderr: Buffer.from('err') });
});

test('ExecSync keeps 16 MiB of both streams together, for an answer that the kubelet accepts', async () => {
  const chunk = Buffer.alloc(3 << 20, 'x');
  bench = new Bench(
    executing(async ({ io }) => {
      for (let count = 0; count < 7; count++)
        for (const stream of [io.stdout, io.stderr])
          if (stream?.write(chunk) === false) await once(stream, 'drain');
    }),
  );
  const { id } = await bench.running(await bench.pod());
  const answer = await sync(id);
  expect(answer.stdout?.length).toBe(9 << 20);
  expect(encodedBytes(answer)).toBeLessThanOrEqual(mostBytes);
  expect(encodedBytes(answer)).toBeGreaterThan(mostBytes - 2048);
});

test.each([
  ['0', undefined],
  ['7', 7_000],
  ['99999999999', 2 ** 31 - 1],
])('a timeout of %s s is %s ms for the backend', async (timeout, ms) => {
  let given: ExecPlan | undefined;
  bench = new Bench(executing(async (plan) => void (given = plan)));
  const { id } = await bench.running(await bench.pod());
  await sync(id, timeout, ['a', 'b']);
  expect(given).toMatchObject({ args: ['a', 'b'], io: { terminal: false } });
  expect(given?.timeoutMs).toBe(ms);
});

test.each<[string, () => Promise<unknown>, string]>([
  [
    'a negative timeout',
    async () => sync((await bench.running(await bench.pod())).id, '-1'),
    'InvalidArgument',
  ],
  ['no command', async () => sync((await bench.running(await bench.pod())).id, '0', []), 'InvalidArgument'],
  [
    'a container that does not run',
    async () => sync((await bench.container(await bench.pod())).id),
    'WrongContainerState',
  ],
])('ExecSync with %s is refused', async (_, run, id) => {
  bench = new Bench();
  await expect(run()).rejects.toMatchObject({ id });
  expect(bench.toldOf('backend.exec')).toEqual([]);
});

const streams = { stdin: false, stdout: true, stderr: false, tty: false };
function withUrls(): { urls: object[] } {
  const urls: object[] = [];
  bench = new Bench();
  Object.assign(bench.services, { streaming: { url: (request: object) => `url ${urls.push(request)}` } });
  return { urls };
}

test('Exec, Attach and PortForward return a URL for the request', async () => {
  const { urls } = withUrls();
  const pod = await bench.pod();
  const { id } = await bench.running(pod);
  const terminal = await bench.running(pod, {}, { tty: true });
  expect(await exec(bench.services, { container_id: id, cmd: ['sh'], ...streams, stdin: true })).toEqual({
    url: 'url 1',
  });
  expect(await attach(bench.services, { container_id: id, ...streams, stderr: true })).toEqual({
    url: 'url 2',
  });
  expect(await attach(bench.services, { container_id: terminal.id, ...streams, stderr: true })).toEqual({
    url: 'url 3',
  });
  expect(await portForward(bench.services, { pod_sandbox_id: pod.id, port: [1, 65_535] })).toEqual({
    url: 'url 4',
  });
  expect(urls).toEqual([
    { kind: 'exec', sandboxId: pod.id, containerId: id, cmd: ['sh'], ...streams, stdin: true },
    { kind: 'attach', sandboxId: pod.id, containerId: id, ...streams, stderr: true },
    { kind: 'attach', sandboxId: pod.id, containerId: terminal.id, ...streams, tty: true, stderr: false },
    { kind: 'portforward', sandboxId: pod.id, ports: [1, 65_535] },
  ]);
});

test.each<[string, (id: string, pod: string) => Promise<unknown>, string]>([
  [
    'a terminal with stderr',
    (id) => exec(bench.services, { container_id: id, cmd: ['sh'], ...streams, tty: true, stderr: true }),
    'InvalidArgument',
  ],
  [
    'no stream',
    (id) => exec(bench.services, { container_id: id, cmd: ['sh'], ...streams, stdout: false }),
    'InvalidArgument',
  ],
  ['no command', (id) => exec(bench.services, { container_id: id, cmd: [], ...streams }), 'InvalidArgument'],
  [
    'nothing to attach to',
    (id) => attach(bench.services, { container_id: id, ...streams, stdout: false }),
    'InvalidArgument',
  ],
  ['port 0', (_, pod) => portForward(bench.services, { pod_sandbox_id: pod, port: [0] }), 'InvalidArgument'],
  [
    'port 65,536',
    (_, pod) => portForward(bench.services, { pod_sandbox_id: pod, port: [65_536] }),
    'InvalidArgument',
  ],
  [
    '129 ports',
    (_, pod) =>
      portForward(bench.services, { pod_sandbox_id: pod, port: Array.from({ length: 129 }, () => 80) }),
    'InvalidArgument',
  ],
])('a stream with %s is refused', async (_, ask, id) => {
  const { urls } = withUrls();
  const pod = await bench.pod();
  await expect(ask((await bench.running(pod)).id, pod.id)).rejects.toMatchObject({ id });
  expect(urls).toEqual([]);
});

test('a ticket is invalid when its container or pod no longer runs', async () => {
  bench = new Bench();
  const pod = await bench.pod({ stoppedAt: '1' });
  const { id } = await bench.container(pod);
  const handlers = streamingHandlers(() => bench.services);
  const request = { containerId: id, sandboxId: pod.id, cmd: ['sh'], ...streams };
  await expect(
    handlers.exec({ kind: 'exec', ...request }, { terminal: false }, call.signal),
  ).rejects.toMatchObject({ id: 'WrongContainerState' });
  await expect(
    handlers.attach({ kind: 'attach', ...request }, { terminal: false }, call.signal),
  ).rejects.toMatchObject({ id: 'WrongContainerState' });
  await expect(
    handlers.portForward(
      { kind: 'portforward', sandboxId: pod.id, ports: [80] },
      80,
      undefined as never,
      call.signal,
    ),
  ).rejects.toMatchObject({ id: 'SandboxNotReady' });
  expect(bench.toldOf('backend')).toEqual([]);
});

test('a port is forwarded into the network of the pod: of the host, its own, or that of its container', async () => {
  const server = createServer((socket) => socket.end('of the host')).listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;
  const other = spawn('unshare', ['--net', 'sh', '-c', 'echo up; exec sleep 600'], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  await once(other.stdout, 'data');
  bench = new Bench();
  const pod = await bench.pod();
  const forwarded = async () => {
    const [client, stream] = duplexPair();
    const answer = text(client);
    client.end();
    await streamingHandlers(() => bench.services).portForward(
      { kind: 'portforward', sandboxId: pod.id, ports: [port] },
      port,
      stream,
      call.signal,
    );
    return answer;
  };
  try {
    expect(await forwarded()).toBe('of the host');
    const change = (plan: object) =>
      bench.services.store.sandboxes.change(pod.id, { plan: { ...pod.plan, ...plan } });
    await change({ namespaces: { network: `/proc/${other.pid}/ns/net` } });
    await expect(forwarded()).rejects.toMatchObject({ id: 'PortRefused' });
    await change({ namespaces: {}, ownNetwork: true });
    await expect(forwarded()).rejects.toMatchObject({ id: 'WrongContainerState' });
    await bench.container(pod, { pid: process.pid });
    await expect(forwarded()).rejects.toMatchObject({ id: 'WrongContainerState' });
    const { id } = await bench.running(pod, { pid: process.pid });
    expect(await forwarded()).toBe('of the host');
    await bench.services.store.containers.change(id, { pid: other.pid });
    await expect(forwarded()).rejects.toMatchObject({ id: 'PortRefused' });
  } finally {
    other.kill('SIGKILL');
    server.close();
  }
});

test('an attach ends when the backend has ended it', async () => {
  const ended: string[] = [];
  bench = new Bench({
    backend: {
      attach: async () => {
        await new Promise((resolve) => setImmediate(resolve));
        ended.push('attach');
      },
    },
  });
  const { id } = await bench.running(await bench.pod());
  const request = { kind: 'attach' as const, containerId: id, sandboxId: '', ...streams };
  await streamingHandlers(() => bench.services).attach(request, { terminal: false }, call.signal);
  expect(ended).toEqual(['attach']);
});

test('as many ports are forwarded as a WebSocket has channels', async () => {
  const { urls } = withUrls();
  const pod = await bench.pod();
  await portForward(bench.services, {
    pod_sandbox_id: pod.id,
    port: Array.from({ length: 128 }, () => 80),
  });
  expect(urls).toHaveLength(1);
});

test.each([{ stdin: true }, { stdout: true }, { stderr: true }])('one stream is enough: %j', async (only) => {
  const { urls } = withUrls();
  const { id } = await bench.running(await bench.pod());
  const none = { stdin: false, stdout: false, stderr: false, tty: false };
  await exec(bench.services, { container_id: id, cmd: ['sh'], ...none, ...only });
  expect(urls).toMatchObject([{ ...none, ...only }]);
});

test.each([
  [
    { stdin: true, stdin_once: true, tty: false },
    { endsWithStdin: false, hasInput: true },
  ],
  [
    { stdin: true, stdin_once: false, tty: false },
    { endsWithStdin: true, hasInput: true },
  ],
  [
    { stdin: true, stdin_once: true, tty: true },
    { endsWithStdin: true, hasInput: true },
  ],
  [
    { stdin: false, stdin_once: false, tty: false },
    { endsWithStdin: true, hasInput: false },
  ],
])('attached to a container with %j', async (config, wanted) => {
  const seen: object[] = [];
  bench = new Bench({
    backend: {
      attach: async (_, io) =>
        void seen.push({
          endsWithStdin: (io as { endsWithStdin?: boolean }).endsWithStdin,
          hasInput: io.stdin !== undefined,
        }),
    },
  });
  const pod = await bench.pod();
  const { id } = await bench.running(pod, {}, config);
  let drained = false;
  const stdin = { resume: () => (drained = true) } as never;
  await streamingHandlers(() => bench.services).attach(
    { kind: 'attach', containerId: id, sandboxId: pod.id, ...streams, stdin: true },
    { terminal: false, stdin },
    call.signal,
  );
  expect(seen).toEqual([wanted]);
  expect(drained).toBe(!wanted.hasInput); // otherwise it is not read
});
