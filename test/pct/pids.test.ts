// The processes that are visible in a CT: its own, those of its pod, those of another
// container.
import { status as Code } from '@grpc/grpc-js';
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { mkdir, rm, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { Daemon } from '../helpers/daemon.js';
import {
  containerConfig,
  createContainer,
  removePod,
  runPod,
  startContainer,
  untilStopped,
  waitForExit,
} from '../helpers/requests.js';
import { Node } from './node.js';

let node: Node;
let daemon: Daemon;
beforeAll(async () => {
  [node, daemon] = await Node.withDaemon();
});
afterAll(() => node?.stop());

const named = (name: string, script = untilStopped(), more = {}) =>
  containerConfig(script, { metadata: { name, attempt: 0 }, log_path: `${name}.log`, ...more });
async function sees(id: string, argument: string): Promise<boolean> {
  const { stdout } = await daemon.client.runtime.ExecSync({
    container_id: id,
    cmd: ['sh', '-c', `cat /proc/[0-9]*/cmdline | tr "\\0" "\\n" | grep -c "^${argument}$" || true`],
  });
  return Number(String(stdout)) > 0;
}

test('pid POD: the containers of a pod see each other, and end independently', async () => {
  const security = { linux: { security_context: { namespace_options: { pid: 'POD' as const } } } };
  const before = await daemon.traces();
  const pod = await runPod(daemon, security, 'lxc');
  const one = await startContainer(daemon, pod, named('one', 'sleep 54321', security));
  const two = await startContainer(daemon, pod, named('two', untilStopped(3), security));
  expect({ sees54321: await sees(two, '54321') }).toEqual({ sees54321: true });
  await daemon.client.runtime.StopContainer({ container_id: two, timeout: '10' });
  expect((await daemon.client.runtime.ContainerStatus({ container_id: two })).status).toMatchObject({
    exit_code: 3,
  });
  expect({ sees54321: await sees(one, '54321') }).toEqual({ sees54321: true });
  await removePod(daemon, pod.id);
  expect([await node.guests(), await daemon.traces()]).toEqual([[], before]);
});

test('pid CONTAINER: they do not; TARGET: one sees those of another, and of no other pod', async () => {
  const pod = await runPod(daemon, {}, 'lxc');
  const target = await startContainer(daemon, pod, named('target', 'sleep 54321'));
  expect(await sees(await startContainer(daemon, pod, named('own')), '54321')).toBe(false);
  const options = (id: string) => ({
    linux: { security_context: { namespace_options: { pid: 'TARGET' as const, target_id: id } } },
  });
  expect(
    await sees(
      await startContainer(daemon, pod, named('debugger', untilStopped(), options(target))),
      '54321',
    ),
  ).toBe(true);
  const other = await runPod(daemon, {}, 'lxc');
  await expect(createContainer(daemon, other, named('thief', 'true', options(target)))).rejects.toThrow(
    /another pod/,
  );
  for (const { id } of [pod, other]) await removePod(daemon, id);
});

test('pid POD: processes that a CT has started are gone when its end is reported', async () => {
  const security = { linux: { security_context: { namespace_options: { pid: 'POD' as const } } } };
  const pod = await runPod(daemon, security, 'lxc');
  const witness = await startContainer(daemon, pod, named('witness', untilStopped(), security));
  const master = await startContainer(
    daemon,
    pod,
    named('master', 'sleep 65432 & until [ -e /go ]; do sleep 0.1; done; exit 3', security),
  );
  expect({ sees65432: await sees(witness, '65432') }).toEqual({ sees65432: true });
  await daemon.client.runtime.ExecSync({ container_id: master, cmd: ['touch', '/go'], timeout: '10' });
  expect(await waitForExit(daemon, master)).toMatchObject({ exit_code: 3 });
  expect({ sees65432: await sees(witness, '65432') }).toEqual({ sees65432: false });
  await removePod(daemon, pod.id);
});

test('the first process of a shared pid namespace and a working folder in /proc give no access to the host', async () => {
  const secret = join(daemon.folder, 'secret');
  await writeFile(secret, 'of the host', { mode: 0o644 });
  const before = await daemon.traces();
  for (const pid of ['POD', 'NODE'] as const) {
    const namespace_options = { pid };
    const capabilities = { add_capabilities: ['SYS_PTRACE'] };
    const linux = { security_context: { namespace_options, capabilities } };
    const pod = await runPod(daemon, { linux: { security_context: { namespace_options } } }, 'lxc');
    const volume = join(node.folder, `links-${pid}`);
    await mkdir(volume);
    await symlink('/proc/1/root', join(volume, 'link'));
    const mounts = [{ host_path: volume, container_path: '/volume' }];
    for (const working_dir of ['/proc/1/root', '/volume/link/etc'])
      await expect(
        createContainer(daemon, pod, named('thief', 'true', { linux, working_dir, mounts })),
      ).rejects.toMatchObject({
        code: Code.INVALID_ARGUMENT,
        details: expect.stringContaining('working_dir'),
      });
    // A change between create and start.
    await mkdir(join(volume, 'work'));
    const late = await createContainer(
      daemon,
      pod,
      named('late', 'true', { linux, working_dir: '/volume/work', mounts }),
    );
    await rm(join(volume, 'work'), { recursive: true });
    await symlink('/proc/1/root', join(volume, 'work'));
    await expect(daemon.client.runtime.StartContainer({ container_id: late })).rejects.toMatchObject({
      code: Code.INVALID_ARGUMENT,
    });
    if (pid === 'POD') {
      const id = await startContainer(daemon, pod, named('one', untilStopped(), { linux }));
      const said = async (script: string): Promise<string> =>
        String(
          (await daemon.client.runtime.ExecSync({ container_id: id, cmd: ['sh', '-c', `${script} 2>&1`] }))
            .stdout,
        );
      expect(await said('cat /proc/1/comm')).toBe('catatonit\n');
      for (const way of ['root', 'cwd'])
        expect(await said(`cat /proc/1/${way}${secret}`)).not.toContain('of the host');
      expect(await said('cat /proc/1/status')).toMatch(/^CapBnd:\t0{16}$/m);
    }
    await removePod(daemon, pod.id);
  }
  expect([await node.guests(), await daemon.traces()]).toEqual([[], before]);
});

test('an exec has the oom_score_adj of its CT', async () => {
  const pod = await runPod(daemon, {}, 'lxc');
  const linux = { resources: { oom_score_adj: '700' } };
  const id = await startContainer(daemon, pod, named('adjusted', untilStopped(), { linux }));
  const { stdout } = await daemon.client.runtime.ExecSync({
    container_id: id,
    cmd: ['cat', '/proc/self/oom_score_adj', '/proc/1/oom_score_adj'],
  });
  expect(String(stdout)).toBe('700\n700\n');
  await removePod(daemon, pod.id);
});
