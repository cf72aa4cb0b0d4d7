// Protection by the kernel of a server: AppArmor profiles and user namespaces.
import { afterAll, afterEach, beforeAll, expect, test } from '@jest/globals';
import { containerStatus, removePods, runPod, startContainer, waitForExit } from './pods.js';
import { Vm } from './vm.js';
import { idMap, userNamespaceFrom } from '../helpers/user-namespaces.js';

let vm: Vm;
beforeAll(async () => {
  vm = await Vm.start();
});
afterAll(() => vm?.stop());
afterEach(() => removePods(vm));

// crictl reads the numbers of enums, not their names.
const RuntimeDefault = 0,
  Unconfined = 1,
  Localhost = 2;
const POD = 0;

/** The AppArmor profile of a container's first process. */
async function confinement(id: string): Promise<string> {
  const { pid } = await containerStatus(vm, id);
  return vm.must(`cat /proc/${pid}/attr/apparmor/current`);
}

test.each(['crun', 'runc'])(
  '%s: a container runs under crisp-default, unless it asks for another',
  async (handler) => {
    const pod = await runPod(vm, {}, handler);
    const ask = (profile_type: 0 | 1 | 2, localhost_ref = '') =>
      startContainer(vm, pod, 'sleep 1000', {
        linux: { security_context: { apparmor: { profile_type, localhost_ref } } },
      });
    expect(await confinement(await ask(RuntimeDefault))).toBe('crisp-default (enforce)');
    expect(await confinement(await ask(Unconfined))).toBe('unconfined');
    await vm.must(
      'apparmor_parser --replace',
      'profile crisp-test-own flags=(attach_disconnected) { file, signal, network, }',
    );
    expect(await confinement(await ask(Localhost, 'crisp-test-own'))).toBe('crisp-test-own (enforce)');
    await expect(ask(Localhost, 'not-there')).rejects.toThrow(
      /profile .*not-there.* is not loaded on this host/,
    );
  },
);

test('crun runs from a copy in memory that not even root can change', async () => {
  const id = await startContainer(vm, await runPod(vm, {}, 'crun'), 'sleep 1000');
  const { pid } = await containerStatus(vm, id);
  const monitor = await vm.must(`awk '/^PPid:/ { print $2 }' /proc/${pid}/status`);
  const copy = `/proc/${monitor}/fd/4`; // inheritedProgram of backends/oci/conmon.ts
  expect(await vm.must(`readlink ${copy}`)).toBe('/memfd:crun (deleted)');
  expect(await vm.run(`chmod 0 ${copy}`)).toMatchObject({
    exitCode: 1,
    stderr: expect.stringContaining('Operation not permitted') as unknown,
  });
  expect(await vm.run(`echo >>${copy}`)).toMatchObject({ exitCode: 1 });
});

test('crisp-default lets containers work, and protects the host even from one with all capabilities', async () => {
  const pod = await runPod(vm);
  // As root, with other masked and read-only paths than those that the profile guards.
  const id = await startContainer(vm, pod, 'trap "exit 5" TERM; sleep 1000 & wait', {
    linux: {
      security_context: {
        capabilities: { add_capabilities: ['ALL'] },
        masked_paths: ['/proc/acpi'],
        readonly_paths: ['/proc/bus'],
      },
    },
  });
  expect(await confinement(id)).toBe('crisp-default (enforce)');
  const inside = (script: string) => vm.run(`crictl exec ${id} sh -c '${script}'`);
  for (const allowed of [
    'echo text >/tmp/file && cat /tmp/file',
    'kill -0 1',
    'cat /proc/1/environ',
    'ls /sys/fs/cgroup',
    'hostname',
    'sleep 100 & kill $!',
    'nc -z -w 1 127.0.0.1 1; [ $? = 1 ]',
    'echo 1 >/proc/sys/net/ipv4/ip_forward',
  ]) {
    expect([allowed, (await inside(allowed)).exitCode]).toEqual([allowed, 0]);
  }
  for (const denied of [
    'mount -t tmpfs none /tmp',
    'echo x >/proc/sys/kernel/core_pattern',
    'echo 1 >/proc/sys/vm/drop_caches',
    'echo h >/proc/sysrq-trigger',
    'cat /proc/kcore',
  ]) {
    const { exitCode, stderr } = await inside(denied);
    expect([denied, exitCode === 0, /denied|not permitted|Permission/i.test(stderr)]).toEqual([
      denied,
      false,
      true,
    ]);
  }
  await vm.must(`crictl stop --timeout 30 ${id}`);
  expect(await waitForExit(vm, id)).toMatchObject({ exitCode: 5 }); // the signal from outside came through
});

test('without the profile explicit requests for RuntimeDefault are refused, and other containers run unconfined', async () => {
  await vm.must('apparmor_parser --remove /etc/apparmor.d/crisp-default');
  const pod = await runPod(vm);
  await expect(
    startContainer(vm, pod, 'sleep 1000', {
      linux: { security_context: { apparmor: { profile_type: RuntimeDefault } } },
    }),
  ).rejects.toThrow(/profile .*crisp-default.* is not loaded on this host/);
  expect(await confinement(await startContainer(vm, pod, 'sleep 1000'))).toBe('unconfined');
  expect(await vm.must('crisp check')).toMatch(/^warning +AppArmor: profile crisp-default is not loaded/m);
  await vm.must('apparmor_parser --add /etc/apparmor.d/crisp-default');
});

test('user namespaces are offered if the probe has verified them, and work as requested', async () => {
  const { runtimeHandlers } = JSON.parse(await vm.must('crictl info')) as {
    runtimeHandlers: { name?: string; features: { user_namespaces?: boolean } }[];
  };
  // The kubelet's volumes need mounts whose ids are mapped: the kernel of Debian 12 has none of tmpfs (Linux 6.3), on which its secrets are, and runc 1.1 none at all.
  expect(
    runtimeHandlers.map(({ name, features }) => [name ?? '', features.user_namespaces ?? false]),
  ).toEqual([
    ['', false],
    ['crun', false],
    ['runc', false],
  ]);
  expect(await vm.must('crisp status')).toMatch(
    /^handler crun: ready .*; no user namespaces: crun create failed: mount_setattr/m,
  );
  const security = {
    namespace_options: { userns_options: { ...userNamespaceFrom(200_000), mode: POD } },
  } as const;
  const pod = await runPod(vm, { linux: { security_context: security } });
  // Without such mounts it can be had all the same.
  const id = await startContainer(vm, pod, 'id -u; stat -c %u /bin/busybox; echo text >/file; sleep 1000', {
    linux: { security_context: security },
  });
  const { pid } = await containerStatus(vm, id);
  expect(await vm.must(`stat -c %u /proc/${pid}`)).toBe('200000');
  await vm.until(`crictl logs ${id} | grep -q .`);
  expect(await vm.must(`crictl logs ${id}`)).toBe('0\n0');
  const mounted = startContainer(vm, pod, 'sleep 1000', {
    linux: { security_context: security },
    mounts: [
      { container_path: '/mnt', host_path: '/opt', uidMappings: idMap(200_000), gidMappings: idMap(200_000) },
    ],
  });
  await expect(mounted).rejects.toThrow(/the runtime of this pod cannot map the ids of a mount/);
});
