// Problems at the start of the daemon: it starts without the affected part, or exits
// with the reason.
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { once } from 'node:events';
import { existsSync, readFileSync } from 'node:fs';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { connect, createServer, type AddressInfo } from 'node:net';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { crisp, startDaemon, type Daemon } from '../helpers/daemon.js';
import {
  containerConfig,
  removePod,
  runPod,
  startContainer,
  untilStopped,
  waitForExit,
} from '../helpers/requests.js';
import { writeWrapper } from '../helpers/stand-ins.js';

let daemon: Daemon;
let program: string;
beforeAll(async () => {
  daemon = await startDaemon();
  await daemon.addImage();
  program = join(daemon.folder, 'own-crun');
});
afterAll(() => daemon?.destroy());

const install = (): Promise<void> => writeWrapper(program, 'crun');

test('a failed start exits with the reason, even if some sockets already listen', async () => {
  const taken = createServer().listen(0, '127.0.0.1');
  await once(taken, 'listening');
  await daemon.stop();
  await daemon.writeConfig({ metrics: { port: (taken.address() as AddressInfo).port } });
  await expect(daemon.start()).rejects.toThrow(/EADDRINUSE/);
  expect(await daemon.stop()).toBe(2); // a mistake in the configuration
  taken.close();
  await daemon.writeConfig({});
  await daemon.start();
});

test.each([
  [
    'whose program is missing',
    async () => {
      await rm(program);
    },
    false, // the kernel says that its process runs
  ],
  [
    'that is no longer configured',
    async () => {
      await daemon.writeConfig({});
    },
    true,
  ],
])(
  'the containers of a handler %s continue, and those of others are recovered',
  async (_name, breakIt, isLeft) => {
    const handlers = { own: { type: 'oci', path: program } };
    await install();
    await daemon.writeConfig({ handlers });
    await daemon.restart();
    const [own, other] = [await runPod(daemon, {}, 'own'), await runPod(daemon)];
    const [ownId, otherId] = [
      await startContainer(daemon, own, containerConfig(untilStopped(3))),
      await startContainer(daemon, other, containerConfig(untilStopped(4))),
    ];
    await daemon.kill9();
    await breakIt();
    await daemon.start();
    const state = async (id: string) =>
      (await daemon.client.runtime.ContainerStatus({ container_id: id })).status?.state;
    expect([await state(ownId), await state(otherId)]).toEqual(['CONTAINER_RUNNING', 'CONTAINER_RUNNING']);
    expect(
      daemon
        .entries()
        .some(
          ({ msg, handler }) => handler === 'own' && String(msg).includes('its record is left unchanged'),
        ),
    ).toBe(isLeft);
    await daemon.client.runtime.StopContainer({ container_id: otherId, timeout: '10' });
    expect(await waitForExit(daemon, otherId)).toMatchObject({ exit_code: 4 });

    await install();
    await daemon.writeConfig({ handlers });
    await daemon.restart();
    await daemon.client.runtime.StopContainer({ container_id: ownId, timeout: '10' });
    expect(await waitForExit(daemon, ownId)).toMatchObject({ exit_code: 3 });
    for (const pod of [own, other]) await removePod(daemon, pod.id);
  },
);

/** Runs the command `crisp serve` with its own folders, to its end. */
async function serve(...args: string[]) {
  const own = await mkdtemp(join(daemon.folder, 'other-'));
  return daemon.machine.run([
    ...[process.execPath, crisp, 'serve', '--config', daemon.configFile],
    ...['--root', join(own, 'root'), '--state', join(own, 'state'), ...args],
  ]);
}

test('the socket of a running daemon is not replaced', async () => {
  const { exitCode, stderr } = await serve();
  expect(stderr).toContain(`DaemonRunning: listen: another process listens on ${daemon.socket}`);
  expect(exitCode).toBe(1);
  await expect(daemon.client.runtime.Version({})).resolves.toMatchObject({ runtime_name: 'crisp' });
});

test.each<[string, () => string[], RegExp]>([
  [
    'a socket path that is a file',
    () => ['--listen', `unix://${join(daemon.folder, 'precious')}`],
    /InvalidConfigFile: listen: \S+precious exists and is not a socket/,
  ],
  [
    'a socket whose path is too long',
    () => ['--listen', `unix://${join(daemon.folder, 'n'.repeat(120))}`],
    /InvalidConfigFile: listen: the path \S+ has \d+ bytes, and the limit for a unix socket is 107/,
  ],
  [
    'a socket in a folder that is a file',
    () => ['--listen', `unix://${daemon.configFile}/crisp.sock`],
    /InvalidConfigFile: listen: /,
  ],
  ['a state folder that is a file', () => ['--state', daemon.configFile], /InvalidConfigFile: state: /],
  ['a root folder that is a file', () => ['--root', daemon.configFile], /InvalidConfigFile: root: /],
])('%s is an error that is named, and nothing is changed', async (_, mistake, words) => {
  await writeFile(join(daemon.folder, 'precious'), 'text');
  const { exitCode, stderr } = await serve(...mistake());
  expect(stderr).toMatch(words);
  expect(stderr).not.toMatch(/Internal|\n {4}at /);
  expect(exitCode).toBe(2);
  expect(await readFile(join(daemon.folder, 'precious'), 'utf8')).toBe('text');
});

test('SIGUSR1 opens no debugger', async () => {
  const pid = daemon.pid as number;
  process.kill(pid, 'SIGUSR1');
  process.kill(pid, 'SIGHUP');
  await daemon.logged((line) => line.includes('configuration reloaded')); // so the signals have been taken
  expect(readFileSync(`/proc/${pid}/net/tcp`, 'utf8')).not.toContain('0100007F:240D'); // 127.0.0.1:9229
});

test('a start that hangs ends at SIGTERM', async () => {
  await daemon.stop();
  const hanging = join(daemon.folder, 'hanging-crun');
  await writeFile(hanging, `#!/bin/sh\necho $$ >${hanging}.begun\nexec sleep 1000\n`, { mode: 0o755 });
  await daemon.writeConfig({ handlers: { hanging: { type: 'oci', path: hanging } } });
  const starting = daemon.start().catch((error: Error) => error);
  while (!existsSync(`${hanging}.begun`)) await sleep(20);
  expect(await dump()).toMatchObject({ pid: daemon.pid, calls: [], children: [{ name: 'sleep' }] }); // there is no socket yet
  await daemon.stop();
  await expect(dump()).rejects.toThrow(/no daemon runs with the state folder/);
  await starting;
  await daemon.machine.run(['kill', '-9', (await readFile(`${hanging}.begun`, 'utf8')).trim()]); // for which the next start would wait
  await daemon.writeConfig({});
  await daemon.start();
});

const dump = async (): Promise<Record<string, unknown>> =>
  JSON.parse(
    await daemon.machine.must([process.execPath, crisp, 'dump', '--config', daemon.configFile]),
  ) as Record<string, unknown>;

test('a state dump shows what is under way, and nothing of what requests hold', async () => {
  const pod = await runPod(daemon);
  const id = await startContainer(
    daemon,
    pod,
    containerConfig("trap '' TERM; while :; do sleep 1; done # SECRET", {
      envs: [{ key: 'TOKEN', value: 'SECRET' }],
    }),
  );
  const calls = [
    daemon.client.runtime.StopContainer({ container_id: id, timeout: '600' }),
    daemon.client.runtime.ExecSync({ container_id: id, cmd: ['sh', '-c', 'exec sleep 1000 # SECRET'] }),
  ];
  for (const call of calls) call.catch(() => undefined);
  let dumped: Record<string, unknown> = {};
  while (!JSON.stringify(dumped['children'] ?? []).includes('"crun"')) dumped = await dump();
  expect(dumped).toMatchObject({
    pid: daemon.pid,
    calls: [
      { method: 'StopContainer', containerId: id, podId: pod.id },
      { method: 'ExecSync', containerId: id, podId: pod.id },
    ],
    locks: [],
    containers: { stopping: [id], awaited: [id] },
    records: { pods: 1, containers: 1 },
    openFiles: { socket: expect.any(Number) },
  });
  expect(JSON.stringify(dumped)).not.toContain('SECRET');
  await daemon.client.runtime.StopContainer({ container_id: id, timeout: '0' });
  await Promise.allSettled(calls);
  expect(await dump()).toMatchObject({ calls: [], steps: [], locks: [], children: [] });
  await removePod(daemon, pod.id);
});

test('neither a long stop nor a client that says nothing keeps it from ending', async () => {
  const pod = await runPod(daemon);
  const id = await startContainer(daemon, pod, containerConfig("trap '' TERM; while :; do sleep 1; done"));
  const silent = connect(daemon.socket).on('error', () => undefined);
  await once(silent, 'connect');
  const stopping = daemon.client.runtime
    .StopContainer({ container_id: id, timeout: '600' })
    .catch(() => undefined);
  await daemon.client.runtime.Version({}); // on the same connection, so the other call has come
  expect(await daemon.stop()).toBe(0);
  await stopping;
  silent.destroy();
  await daemon.start();
  await expect(daemon.client.runtime.ContainerStatus({ container_id: id })).resolves.toMatchObject({
    status: { state: 'CONTAINER_RUNNING' },
  });
  await daemon.client.runtime.StopContainer({ container_id: id, timeout: '0' });
  await removePod(daemon, pod.id);
});

test('a second SIGTERM ends it at once', async () => {
  const pod = await runPod(daemon);
  const id = await startContainer(daemon, pod, containerConfig("trap '' TERM; while :; do sleep 1; done"));
  const stopping = daemon.client.runtime
    .StopContainer({ container_id: id, timeout: '600' })
    .catch(() => undefined);
  await daemon.client.runtime.Version({});
  const pid = daemon.pid as number;
  const ended = daemon.stop();
  while (!takesDefault(pid)) await sleep(5); // it has taken the first one
  process.kill(pid, 'SIGTERM');
  expect(await ended).toBeNull(); // by the signal
  await stopping;
  await daemon.start();
  await daemon.client.runtime.StopContainer({ container_id: id, timeout: '0' });
  await removePod(daemon, pod.id);
});

/** Whether SIGTERM has its default effect on the process again. */
function takesDefault(pid: number): boolean {
  const caught = /^SigCgt:\s+([0-9a-f]+)/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1] ?? '0';
  return (BigInt(`0x${caught}`) & (1n << 14n)) === 0n;
}
