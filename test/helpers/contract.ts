// The behaviour that all backends have in common: the same tests on crun and runc
// (integration/contract.test.ts) and on CTs (pct/contract.test.ts).
import { beforeEach, describe, expect, test } from '@jest/globals';
import { mkdir, mkdtemp, readdir, readFile, readlink, rename, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { ContainerEventResponse__Output } from '../../src/cri/generated/runtime/v1/ContainerEventResponse.js';
import type { Daemon } from './daemon.js';
import { patience } from './patience.js';
import {
  containerConfig,
  createContainer,
  removePod,
  runPod,
  startContainer,
  testImage,
  untilStopped,
  waitForExit,
} from './requests.js';

/** @param current the daemon, with the test image, once beforeAll has run */
export function contract(handler: string, current: () => Daemon): void {
  describe(`a pod on ${handler}`, () => {
    let daemon: Daemon;
    let clean: string[];
    beforeEach(async () => {
      daemon = current();
      clean = await daemon.traces();
    });

    const pathOf = (pod: { config: { log_directory?: string } }, name: string): string =>
      join(pod.config.log_directory ?? '', `${name}.log`);
    const log = (pod: { config: { log_directory?: string } }, name = 'main'): Promise<string> =>
      readFile(pathOf(pod, name), 'utf8');
    const named = (name: string, script: string, more = {}) =>
      containerConfig(script, { metadata: { name, attempt: 0 }, log_path: `${name}.log`, ...more });
    const exec = (id: string, script: string, timeout = '20') =>
      daemon.client.runtime.ExecSync({ container_id: id, cmd: ['sh', '-c', script], timeout });
    const output = async (id: string, script: string): Promise<string> =>
      String((await exec(id, script)).stdout);
    /** How many pipes the daemon has open. */
    async function pipes(): Promise<number> {
      const folder = `/proc/${daemon.pid}/fd`;
      const targets = await Promise.all(
        (await readdir(folder)).map((fd) => readlink(join(folder, fd)).catch(() => '')),
      );
      return targets.filter((target) => target.startsWith('pipe:')).length;
    }
    async function end(pod: { id: string }): Promise<void> {
      await removePod(daemon, pod.id);
      expect(await daemon.traces()).toEqual(clean);
    }

    test('a program that cannot be run has the exit code of a shell', async () => {
      const pod = await runPod(daemon, {}, handler);
      const id = await startContainer(
        daemon,
        pod,
        containerConfig(
          `echo text > /tmp/plain; cp /tmp/plain /tmp/marked; chmod +x /tmp/marked; ${untilStopped()}`,
        ),
      );
      const codeOf = async (...cmd: string[]): Promise<number> =>
        (await daemon.client.runtime.ExecSync({ container_id: id, cmd, timeout: '20' })).exit_code;
      expect([await codeOf('nosuch'), await codeOf('/no/such'), await codeOf('/tmp/plain')]).toEqual([
        127, 127, 126,
      ]);
      expect([
        await codeOf('sh', '-c', 'exit 1'),
        await codeOf('sh', '-c', 'echo "executable file not found" >&2; exit 255'),
      ]).toEqual([1, 255]);
      await end(pod);
    });

    test('runs through its lifecycle, and leaves nothing behind', async () => {
      const { runtime } = daemon.client;
      const pod = await runPod(daemon, {}, handler);
      const { status: sandbox } = await runtime.PodSandboxStatus({ pod_sandbox_id: pod.id });
      expect(sandbox).toMatchObject({
        state: 'SANDBOX_READY',
        metadata: pod.config.metadata,
        runtime_handler: handler,
        network: { ip: expect.stringMatching(/^10\./) },
      });

      const id = await createContainer(
        daemon,
        pod,
        containerConfig(`echo out; echo err >&2; hostname; ${untilStopped(3)}`),
      );
      expect((await runtime.ContainerStatus({ container_id: id })).status).toMatchObject({
        state: 'CONTAINER_CREATED',
        started_at: '0',
        finished_at: '0',
      });
      await runtime.StartContainer({ container_id: id });
      expect((await runtime.ContainerStatus({ container_id: id })).status).toMatchObject({
        state: 'CONTAINER_RUNNING',
        log_path: pathOf(pod, 'main'),
        image: { image: testImage },
      });

      const executed = await exec(
        id,
        'hostname; ip -4 addr show eth0 | grep -o "inet [0-9.]*"; echo no >&2; exit 5',
      );
      expect({ ...executed, stdout: String(executed.stdout), stderr: String(executed.stderr) }).toEqual({
        exit_code: 5,
        stdout: `box\ninet ${sandbox?.network?.ip}\n`,
        stderr: 'no\n',
      });

      await runtime.StopContainer({ container_id: id, timeout: '10' });
      const { status } = await runtime.ContainerStatus({ container_id: id });
      expect(status).toMatchObject({ state: 'CONTAINER_EXITED', exit_code: 3, reason: 'Error' });
      expect(BigInt(status?.finished_at ?? 0)).toBeGreaterThanOrEqual(BigInt(status?.started_at ?? 0));
      const stamp = String.raw`\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+(?:Z|[+-]\d\d:\d\d)`;
      const lines = (await log(pod)).trim().split('\n');
      for (const line of [`${stamp} stdout F out`, `${stamp} stderr F err`, `${stamp} stdout F box`]) {
        expect(lines).toContainEqual(expect.stringMatching(new RegExp(`^${line}$`)));
      }

      await runtime.RemoveContainer({ container_id: id });
      await runtime.StopPodSandbox({ pod_sandbox_id: pod.id });
      expect((await runtime.PodSandboxStatus({ pod_sandbox_id: pod.id })).status?.state).toBe(
        'SANDBOX_NOTREADY',
      );
      await runtime.RemovePodSandbox({ pod_sandbox_id: pod.id });
      expect(await daemon.traces()).toEqual(clean);
    });

    test('the standard streams of a command can be opened by name, as with other runtimes', async () => {
      const pod = await runPod(daemon, {}, handler);
      const id = await startContainer(daemon, pod, containerConfig(untilStopped()));
      const { stdout, stderr, exit_code } = await exec(
        id,
        'echo out >/dev/stdout; echo err >/dev/stderr; cat /dev/stdin; for fd in 0 1 2; do readlink /proc/$$/fd/$fd; done',
      );
      expect({ stdout: String(stdout), stderr: String(stderr), exit_code }).toEqual({
        stdout: expect.stringMatching(/^out\n(\/dev\/null|pipe:\[\d+\])\n(pipe:\[\d+\]\n){2}$/),
        stderr: 'err\n',
        exit_code: 0,
      });
      await end(pod);
    });

    test('a command that leaves a background writer has ended, and its output is complete', async () => {
      const pod = await runPod(daemon, {}, handler);
      const id = await startContainer(daemon, pod, containerConfig(untilStopped()));
      const before = await pipes();
      const command = exec(
        id,
        '(while :; do echo more; sleep 0.05; done) & head -c 50000 /dev/zero | tr "\\0" x; exit 3',
        '3',
      );
      // runc copies the output itself, and waits until all writers have closed it.
      if (handler === 'runc') await expect(command).rejects.toThrow(/ExecTimeout/);
      else {
        const { stdout, exit_code } = await command;
        expect(exit_code).toBe(3);
        expect(String(stdout).match(/x+/g)?.join('').length).toBe(50_000);
      }
      expect(await pipes()).toBeLessThanOrEqual(before);
      expect(await output(id, 'echo on')).toBe('on\n');
      await end(pod);
    });

    test('a command that exceeds its timeout is killed with all its children', async () => {
      const pod = await runPod(daemon, {}, handler);
      const id = await startContainer(daemon, pod, containerConfig(untilStopped()));
      for (let round = 0; round < 3; round++) {
        await expect(exec(id, 'sleep 4321 & sleep 4321', '1')).rejects.toThrow(/ExecTimeout/);
        expect(await output(id, 'ps | grep "[s]leep 4321" || true')).toBe('');
      }
      await end(pod);
    });

    test('a container that ends by itself reports its exit', async () => {
      const pod = await runPod(daemon, {}, handler);
      const good = await startContainer(daemon, pod, named('good', 'exit 0'));
      const bad = await startContainer(daemon, pod, named('bad', 'exit 42'));
      const killed = await startContainer(daemon, pod, named('killed', untilStopped()));
      process.kill(await pidOf(daemon, killed), 'SIGKILL');
      expect(await waitForExit(daemon, good)).toMatchObject({ exit_code: 0, reason: 'Completed' });
      expect(await waitForExit(daemon, bad)).toMatchObject({ exit_code: 42, reason: 'Error' });
      expect(await waitForExit(daemon, killed)).toMatchObject({ exit_code: 137, reason: 'Error' });
      await end(pod);
    });

    test('a container that ignores its stop signal is killed after its timeout, and can be stopped twice', async () => {
      const { runtime } = daemon.client;
      const pod = await runPod(daemon, {}, handler);
      const id = await startContainer(
        daemon,
        pod,
        containerConfig("trap '' TERM; while :; do sleep 1; done"),
      );
      for (let times = 0; times < 2; times++) await runtime.StopContainer({ container_id: id, timeout: '1' });
      expect((await runtime.ContainerStatus({ container_id: id })).status).toMatchObject({
        state: 'CONTAINER_EXITED',
        exit_code: 137,
      });
      for (let times = 0; times < 2; times++) await runtime.RemoveContainer({ container_id: id });
      await end(pod);
    });

    test('a stop during the start uses the timeout, and a container being stopped is not started', async () => {
      const { runtime } = daemon.client;
      // Not the first process of its pid namespace: a signal that comes before its handler stands ends it, and is not lost.
      const linux = { security_context: { namespace_options: { pid: 'POD' as const } } };
      const pod = await runPod(daemon, { linux }, handler);
      const id = await createContainer(daemon, pod, containerConfig(untilStopped(3), { linux }));
      await Promise.all([
        runtime.StartContainer({ container_id: id }),
        runtime.StopContainer({ container_id: id, timeout: '10' }),
      ]);
      const { status } = await runtime.ContainerStatus({ container_id: id });
      expect(status?.state).toBe('CONTAINER_EXITED');
      expect([3, 128 + 15]).toContain(status?.exit_code);

      const other = await createContainer(daemon, pod, named('other', untilStopped(3)));
      const [stopped, started] = await Promise.allSettled([
        runtime.StopContainer({ container_id: other, timeout: '10' }),
        runtime.StartContainer({ container_id: other }),
      ]);
      expect([stopped, started]).toMatchObject([
        { status: 'fulfilled' },
        { status: 'rejected', reason: { code: 9 } },
      ]);
      expect((await runtime.ContainerStatus({ container_id: other })).status).toMatchObject({
        state: 'CONTAINER_EXITED',
        exit_code: 137,
      });
      await end(pod);
    });

    test('a call in the wrong state is refused, and nothing is changed', async () => {
      const { runtime } = daemon.client;
      const pod = await runPod(daemon, {}, handler);
      const id = await createContainer(daemon, pod, containerConfig(untilStopped()));
      await expect(exec(id, 'true')).rejects.toMatchObject({ code: 9 });
      await runtime.StartContainer({ container_id: id });
      await expect(runtime.StartContainer({ container_id: id })).rejects.toMatchObject({ code: 9 });
      expect((await runtime.ContainerStatus({ container_id: id })).status?.state).toBe('CONTAINER_RUNNING');
      await runtime.StopPodSandbox({ pod_sandbox_id: pod.id });
      await expect(createContainer(daemon, pod, named('late', 'true'))).rejects.toMatchObject({ code: 9 });
      await expect(runtime.ContainerStatus({ container_id: 'none' })).rejects.toMatchObject({ code: 5 });
      await end(pod);
    });

    test('a missing command is named, and the container can be removed', async () => {
      const pod = await runPod(daemon, {}, handler);
      const create = async (): Promise<string> =>
        startContainer(daemon, pod, containerConfig('', { command: ['/bin/none-such'] }));
      await expect(create()).rejects.toThrow(/none-such/);
      await end(pod);
    });

    test('each step emits its event, in order', async () => {
      const events: ContainerEventResponse__Output[] = [];
      const stream = daemon.client.streams.GetContainerEvents({});
      stream
        .on('data', (event: ContainerEventResponse__Output) => events.push(event))
        .on('error', () => undefined);
      const pod = await runPod(daemon, {}, handler);
      const id = await startContainer(daemon, pod, containerConfig('exit 0'));
      await waitForExit(daemon, id);
      await daemon.client.runtime.RemoveContainer({ container_id: id });
      await end(pod);
      stream.cancel();
      expect(
        events
          .filter(({ container_id }) => container_id === id)
          .map(({ container_event_type: type }) => type),
      ).toEqual([
        'CONTAINER_CREATED_EVENT',
        'CONTAINER_STARTED_EVENT',
        'CONTAINER_STOPPED_EVENT',
        'CONTAINER_DELETED_EVENT',
      ]);
    });

    test('the log continues in a new file', async () => {
      const pod = await runPod(daemon, {}, handler);
      const id = await startContainer(
        daemon,
        pod,
        containerConfig(
          "trap 'echo second; exit 0' TERM; echo first; while :; do sleep 1000 & wait $!; done",
        ),
      );
      while (!(await log(pod)).includes('first')) await pause();
      await rename(pathOf(pod, 'main'), pathOf(pod, 'old'));
      await daemon.client.runtime.ReopenContainerLog({ container_id: id });
      await daemon.client.runtime.StopContainer({ container_id: id, timeout: '10' });
      expect(await log(pod, 'old')).toMatch(/^\S+ stdout F first\n$/);
      expect(await log(pod)).toMatch(/^\S+ stdout F second\n$/);
      await end(pod);
    });

    test('volumes, user, folder, environment and limits are as requested, and limits can be changed', async () => {
      const { runtime } = daemon.client;
      const volume = join(daemon.folder, `volume-${handler}`);
      await mkdir(volume);
      await writeFile(join(volume, 'given'), 'by the host\n');
      const pod = await runPod(daemon, {}, handler);
      const id = await startContainer(
        daemon,
        pod,
        containerConfig(untilStopped(), {
          working_dir: '/tmp',
          envs: [{ key: 'WORDS', value: Buffer.from(' a  "b" $HOME ') }],
          mounts: [
            { host_path: volume, container_path: '/volume' },
            { host_path: volume, container_path: '/same', readonly: true },
          ],
          linux: {
            resources: {
              memory_limit_in_bytes: String(64 << 20),
              cpu_period: '100000',
              cpu_quota: '50000',
              cpu_shares: '512',
            },
          },
        }),
      );
      expect(
        await output(
          id,
          'pwd; echo "$WORDS"; id -u; cat /volume/given; touch /volume/made && echo written; touch /same/no 2>&1',
        ),
      ).toBe('/tmp\n a  "b" $HOME \n0\nby the host\nwritten\ntouch: /same/no: Read-only file system\n');
      const limits = async () =>
        (await runtime.ContainerStatus({ container_id: id })).status?.resources?.linux;
      expect(await limits()).toMatchObject({ memory_limit_in_bytes: String(64 << 20), cpu_quota: '50000' });
      await runtime.UpdateContainerResources({
        container_id: id,
        linux: { memory_limit_in_bytes: String(96 << 20), cpu_period: '100000', cpu_quota: '30000' },
      });
      expect(await limits()).toMatchObject({ memory_limit_in_bytes: String(96 << 20), cpu_quota: '30000' });
      const { stats } = await runtime.ContainerStats({ container_id: id });
      expect(Number(stats?.memory?.working_set_bytes?.value)).toBeGreaterThan(0);
      expect(Number(stats?.cpu?.usage_core_nano_seconds?.value)).toBeGreaterThan(0);
      await end(pod);
    });

    test('containers share the network of their pod, and its memory', async () => {
      const pod = await runPod(daemon, {}, handler);
      await startContainer(
        daemon,
        pod,
        named('server', `echo shared > /dev/shm/note; httpd -p 8080 -h /etc; ${untilStopped()}`),
      );
      const client = await startContainer(daemon, pod, named('client', untilStopped()));
      expect(await output(client, 'cat /dev/shm/note; wget -qO- http://127.0.0.1:8080/hostname')).toBe(
        'shared\nbox\n',
      );
      await end(pod);
    });

    test.each([
      [
        'a stop',
        async () => {
          expect(await daemon.stop()).toBe(0);
        },
      ],
      [
        'a kill -9',
        async () => {
          await daemon.kill9();
        },
      ],
    ])('all containers are still there after %s of crisp', async (_, endOfCrisp) => {
      const { runtime } = daemon.client;
      // Files for signals between the test and the containers of one pod.
      const signs = await mkdtemp(join(daemon.folder, 'signs-'));
      const mounts = [{ host_path: signs, container_path: '/signs' }];
      const untilTold = 'until [ -e /signs/go ]; do sleep 0.05; done';
      const pod = await runPod(daemon, {}, handler);
      const stays = await startContainer(
        daemon,
        pod,
        named('stays', `echo 1; ${untilTold}; echo 2; sleep 1000`, { mounts }),
      );
      const ends = await startContainer(
        daemon,
        pod,
        named('ends', `echo before; ${untilTold}; echo meanwhile; exit 7`, { mounts }),
      );
      const pids = await Promise.all([stays, ends].map((id) => pidOf(daemon, id)));
      const before = await runtime.ContainerStatus({ container_id: stays });

      await endOfCrisp();
      const awayAt = BigInt(Date.now()) * 1_000_000n;
      await writeFile(join(signs, 'go'), '');
      while (isAlive(pids[1] ?? 0) || !(await log(pod, 'stays')).includes('F 2\n')) await pause();
      const backAt = BigInt(Date.now()) * 1_000_000n;
      await daemon.start();

      expect((await runtime.ContainerStatus({ container_id: stays })).status).toEqual(before.status);
      const ended = await waitForExit(daemon, ends);
      expect(ended).toMatchObject({ exit_code: 7, reason: 'Error' });
      const second = 1_000_000_000n; // an exit file's time may be whole seconds
      expect(BigInt(ended.finished_at)).toBeGreaterThanOrEqual(awayAt - second);
      expect(BigInt(ended.finished_at)).toBeLessThanOrEqual(backAt + second * BigInt(patience));
      expect(await log(pod, 'ends')).toMatch(/F before\n.*F meanwhile\n$/);
      expect((await runtime.PodSandboxStatus({ pod_sandbox_id: pod.id })).status).toMatchObject({
        state: 'SANDBOX_READY',
        network: { ip: expect.stringMatching(/^10\./) },
      });

      // every call works on them
      expect(await output(stays, 'echo here')).toBe('here\n');
      expect((await runtime.ContainerStats({ container_id: stays })).stats?.attributes?.id).toBe(stays);
      await runtime.ReopenContainerLog({ container_id: stays });
      const later = await startContainer(daemon, pod, named('later', 'exit 0'));
      expect(await waitForExit(daemon, later)).toMatchObject({ exit_code: 0 });
      await runtime.StopContainer({ container_id: stays, timeout: '0' });
      expect((await runtime.ContainerStatus({ container_id: stays })).status).toMatchObject({
        state: 'CONTAINER_EXITED',
        exit_code: 137,
      });
      await runtime.RemoveContainer({ container_id: ends });
      await end(pod);
    });
  });
}

async function pidOf(daemon: Daemon, id: string): Promise<number> {
  const { info } = await daemon.client.runtime.ContainerStatus({ container_id: id, verbose: true });
  const { pid } = JSON.parse(info['info'] ?? '{}') as { pid?: number };
  if (!pid) throw new Error(`no pid in ${JSON.stringify(info)}`);
  return pid;
}

function isAlive(pid: number): boolean {
  try {
    return process.kill(pid, 0);
  } catch {
    return false;
  }
}

/** conmon and the kernel report only to crisp: so the condition is polled every 20 ms. */
async function pause(): Promise<void> {
  await new Promise((resolve) => setTimeout(resolve, 20));
}
