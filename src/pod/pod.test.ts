// The parts of a pod on this host: real namespaces, mounts and cgroups, a stand-in for the network and the backend.
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { chmodSync, existsSync, mkdtempSync, readFileSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import { podConfigOf } from '../../test/helpers/services.js';
import { cgroupProcesses, cgroupsIn, removePodCgroup } from '../host/cgroup.js';
import { mountPoints, unmountBelow } from '../host/mounts.js';
import { isAlive } from '../host/proc.js';
import { withUndo } from '../host/undo.js';
import { newId } from '../records/records.js';
import { planOf } from './plan.js';
import {
  makePod,
  releasePod,
  remakePod,
  removePod,
  takeApart,
  type MadePod,
  type PodRequest,
} from './pod.js';

let folder: string;
let told: string[];
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'crisp-pod-'));
  chmodSync(folder, 0o711); // the root of a user namespace is another uid outside
  told = [];
});
afterEach(async () => {
  await unmountBelow(folder);
  rmSync(folder, { recursive: true });
});

interface Choices {
  readonly config?: object;
  readonly backend?: object;
  readonly network?: object | undefined;
  readonly request?: object;
}
const own = { cgroup_parent: '' };
const onNetwork = { network: 'POD', ipc: 'POD', pid: 'CONTAINER' };
const attachment = { ips: ['10.1.2.3'], interfaceName: 'eth0' };

function requestOf({ config = {}, backend, network, request }: Choices = {}): PodRequest {
  const id = newId();
  const whole = podConfigOf(id, config);
  return {
    config: whole,
    plan: planOf(folder, id, whole, false),
    backend: {
      startSandbox: async () => (told.push('startSandbox'), 'of the backend'),
      stopSandbox: async (_: unknown, state: unknown) => void told.push(`stopSandbox ${String(state)}`),
      ...backend,
    } as never,
    host: { systemdCgroup: false, lowestOomScoreAdj: 0 },
    network: {
      attach: async () => (told.push('attach'), attachment),
      detach: async ({ id: its }: { id: string }, was: unknown) =>
        void told.push(`detach ${its === id} ${was === attachment}`),
      ...network,
    } as never,
    holderRuntimes: [{ path: 'runc', args: [] }],
    ...request,
  };
}
const made = (request: PodRequest): Promise<MadePod> => withUndo('test', (undo) => makePod(undo, request));
const mounts = async (): Promise<string[]> =>
  (await mountPoints()).map(({ target }) => target).filter((target) => target.startsWith(folder));
const within = (namespaces: readonly string[], ...command: string[]): string =>
  execFileSync('nsenter', [...namespaces, ...command], { encoding: 'utf8' }).trim();
const ownCgroups = async (): Promise<string[]> => [...(await cgroupsIn('/crisp').catch(() => []))];

test('a pod has its folder, namespaces, settings, memory and cgroup, and its removal leaves none of them', async () => {
  const request = requestOf({
    config: {
      hostname: 'of-the-pod',
      linux: {
        ...own,
        security_context: { namespace_options: onNetwork },
        sysctls: { 'kernel.shm_rmid_forced': '1' },
      },
    },
  });
  const { plan, attachment: given, holder, backendState } = await made(request);
  expect([given, holder, backendState]).toEqual([attachment, undefined, 'of the backend']);
  expect(told).toEqual(['attach', 'startSandbox']);
  expect(statSync(plan.folder).mode & 0o777).toBe(0o700);
  const { network = '', ipc = '', uts = '' } = plan.namespaces;
  expect(within([`--uts=${uts}`], 'hostname')).toBe('of-the-pod');
  const sysctl = (name: string) => within([`--net=${network}`, `--ipc=${ipc}`], 'cat', `/proc/sys/${name}`);
  expect(sysctl('kernel/shm_rmid_forced')).toBe('1');
  expect(sysctl('net/ipv4/ip_unprivileged_port_start')).toBe('0');
  expect(sysctl('net/ipv4/ping_group_range')).toBe('0\t2147483647');
  expect(within([`--net=${network}`], 'ip', '-o', 'link', 'show', 'lo')).toContain('LOOPBACK,UP');
  expect(readFileSync(join(plan.folder, 'memory', 'hostname'), 'utf8')).toBe('of-the-pod\n');
  expect(await mounts()).toContain(join(plan.folder, 'memory'));
  expect(
    (await cgroupsIn(join(plan.cgroupParent, '..'))).has(plan.cgroupParent.split('/').at(-1) ?? ''),
  ).toBe(true);
  told.splice(0);
  await releasePod({ plan, backendState }, request.backend, {
    of: request.network as never,
    config: request.config,
    attachment: given,
  });
  expect(told).toEqual(['stopSandbox of the backend', 'detach true true']);
  expect(await mounts()).toEqual([]);
  expect([existsSync(plan.folder), existsSync(join(plan.folder, 'ns'))]).toEqual([true, false]);
  await removePod(plan.folder, plan.cgroupParent);
  expect(existsSync(plan.folder)).toBe(false);
  expect((await ownCgroups()).filter((name) => plan.cgroupParent.endsWith(name))).toEqual([]);
});

test('a pod on the network, the ipc and the name of the host has no namespaces, and no cgroup of its own', async () => {
  const request = requestOf({ config: { hostname: 'of-the-pod' }, backend: { ownNetwork: () => true } });
  const { plan } = await made(request);
  expect(plan.namespaces).toEqual({});
  expect(plan).not.toHaveProperty('ownNetwork');
  expect(told).toEqual(['startSandbox']);
  expect((await cgroupsIn('/')).has('crisp-test-none')).toBe(false);
  told.splice(0);
  await releasePod({ plan }, request.backend, {
    of: request.network as never,
    config: request.config,
    attachment: undefined,
  });
  expect(told).toEqual(['stopSandbox undefined']);
});

test.each<[string, Choices, string[]]>([
  ['the network', { network: { attach: () => Promise.reject(new Error('broken')) } }, []],
  [
    'the backend',
    { backend: { startSandbox: () => Promise.reject(new Error('broken')) } },
    ['attach', 'detach true true'],
  ],
])('a pod that %s refuses leaves nothing', async (_, choices, calls) => {
  const request = requestOf({
    ...choices,
    config: { linux: { ...own, security_context: { namespace_options: onNetwork } } },
  });
  await expect(made(request)).rejects.toThrow('broken');
  expect(told).toEqual(calls);
  expect([await mounts(), existsSync(request.plan.folder)]).toEqual([[], false]);
  expect((await ownCgroups()).filter((name) => request.plan.cgroupParent.endsWith(name))).toEqual([]);
});

test('a complete pod is undone by the backend first', async () => {
  const request = requestOf({
    config: { linux: { ...own, security_context: { namespace_options: onNetwork } } },
  });
  await expect(
    withUndo('test', async (undo) => {
      await makePod(undo, request);
      throw new Error('later');
    }),
  ).rejects.toThrow('later');
  expect(told).toEqual(['attach', 'startSandbox', 'stopSandbox of the backend', 'detach true true']);
  expect([await mounts(), existsSync(request.plan.folder)]).toEqual([[], false]);
});

test('a step that is still running is awaited before the undo', async () => {
  let hasAttached = false;
  const request = requestOf({
    config: { hostname: 'x', linux: { security_context: { namespace_options: onNetwork } } },
    network: {
      attach: async () => {
        rmSync(join(request.plan.folder, 'memory'), { recursive: true, force: true });
        await pause(50);
        hasAttached = true;
        return attachment;
      },
      detach: async () => void told.push(`detach ${hasAttached}`),
    },
    backend: { startSandbox: () => Promise.reject(new Error('broken')) },
  });
  await expect(made(request)).rejects.toThrow('broken');
  expect(told).toEqual(['detach true']);
});

describe('a pod whose containers have a network of their own', () => {
  const config = { linux: { security_context: { namespace_options: onNetwork } } };
  const backend = { ownNetwork: () => true };

  test('has no network namespace and no address, and gives none back', async () => {
    const request = requestOf({ config, backend });
    const { plan, attachment: given } = await made(request);
    expect(Object.keys(plan.namespaces).sort()).toEqual(['ipc', 'uts']);
    expect([plan.ownNetwork, given]).toEqual([true, undefined]);
    told.splice(0);
    await releasePod({ plan }, request.backend, {
      of: request.network as never,
      config: request.config,
      attachment: undefined,
    });
    expect(told).toEqual(['stopSandbox undefined']);
  });

  test('cannot map ports of the node, and nothing is made', async () => {
    const request = requestOf({
      config: { ...config, port_mappings: [{ host_port: 80, container_port: 80 }] },
      backend,
    });
    await expect(made(request)).rejects.toMatchObject({ id: 'UnsupportedField' });
    expect([told, existsSync(request.plan.folder)]).toEqual([[], false]);
  });

  test('is on the pod network if the caller chose the network', async () => {
    const { plan } = await made(requestOf({ config, backend, request: { mayHaveOwnNetwork: false } }));
    expect(Object.keys(plan.namespaces).sort()).toEqual(['ipc', 'network', 'uts']);
    expect(plan).not.toHaveProperty('ownNetwork');
    expect(told).toEqual(['attach', 'startSandbox']);
  });
});

describe('the ids of a pod', () => {
  const map = (hostID: number) => [{ containerID: 0, hostID, size: 65_536 }];
  const ofBackend = { uids: map(300_000), gids: map(400_000) };
  const backend = { userNamespace: () => ofBackend };

  test('are those of its backend, whose root can enter the folder', async () => {
    const { plan } = await made(
      requestOf({ backend, config: { linux: { security_context: { namespace_options: onNetwork } } } }),
    );
    expect(plan.idMaps).toEqual(ofBackend);
    const port = '/proc/sys/net/ipv4/ip_unprivileged_port_start';
    expect(within([`--net=${plan.namespaces.network}`], 'cat', port)).toBe('1024'); // its root may use all ports
    expect(within([`--user=${plan.namespaces.user}`], 'cat', '/proc/self/gid_map')).toMatch(
      /^0\s+400000\s+65536$/,
    );
    const { gid, mode } = statSync(plan.folder);
    expect([gid, mode & 0o777]).toEqual([400_000, 0o710]);
  });

  test('need a folder that the root of the pod can enter; others do not', async () => {
    chmodSync(folder, 0o700);
    const config = { linux: { security_context: { namespace_options: onNetwork } } };
    const request = requestOf({ backend, config });
    await expect(made(request)).rejects.toMatchObject({
      id: 'Unsupported',
      message: expect.stringContaining(folder),
    });
    expect([told, existsSync(request.plan.folder)]).toEqual([[], false]);
    await made(requestOf({ config }));
  });

  test('are those of the node if it shares a namespace with it', async () => {
    const { plan } = await made(requestOf({ backend }));
    expect(plan).not.toHaveProperty('idMaps');
    expect(plan.namespaces).toEqual({});
  });

  test('are those of the request, if there are some', async () => {
    const mappings = [{ host_id: 500_000, container_id: 0, length: 65_536 }];
    const { plan } = await made(
      requestOf({
        backend,
        config: {
          linux: {
            security_context: {
              namespace_options: {
                ...onNetwork,
                userns_options: { mode: 'POD', uids: mappings, gids: mappings },
              },
            },
          },
        },
      }),
    );
    expect(plan.idMaps?.uids).toEqual(map(500_000));
  });
});

test('the holder of a shared pid namespace is in a cgroup beside the containers, and killed last', async () => {
  const request = requestOf({
    config: { linux: { ...own, security_context: { namespace_options: { ...onNetwork, pid: 'POD' } } } },
    request: { host: { systemdCgroup: false, lowestOomScoreAdj: 7 } },
  });
  const { plan, holder } = await made(request);
  expect(plan.namespaces.pid).toBe(`/proc/${holder?.pid}/ns/pid`);
  expect(readFileSync(`/proc/${holder?.pid}/oom_score_adj`, 'utf8')).toBe('7\n');
  expect(await cgroupProcesses(`${plan.cgroupParent}/holder-${plan.id}`)).toEqual([holder?.pid]);
  await releasePod({ plan, holder }, request.backend);
  expect(holder && (await isAlive(holder))).toBe(false);
  expect(await mounts()).toEqual([]);
  await removePod(plan.folder, plan.cgroupParent);
  expect(existsSync(plan.folder)).toBe(false);
});

test('a holder is stopped if a later step fails', async () => {
  const request = requestOf({
    config: { linux: { ...own, security_context: { namespace_options: { ...onNetwork, pid: 'POD' } } } },
    backend: {
      startSandbox: async ({ namespaces }: { namespaces: { pid: string } }) => {
        told.push(namespaces.pid);
        throw new Error('broken');
      },
    },
  });
  await expect(made(request)).rejects.toThrow('broken');
  const [, holderNamespace = ''] = told;
  expect(holderNamespace).toMatch(/^\/proc\/\d+\/ns\/pid$/);
  expect(await cgroupProcesses(`${request.plan.cgroupParent}/holder-${request.plan.id}`)).toEqual([]);
  expect([await mounts(), existsSync(request.plan.folder)]).toEqual([[], false]);
});

test('a release waits for each of its steps, and stops a holder that its record does not name', async () => {
  const slow = (name: string) => async () => {
    told.push(`${name} begins`);
    await pause(300);
    told.push(`${name} ends, with the holder ${pod.holder && (await isAlive(pod.holder))}`);
  };
  const request = requestOf({
    config: { linux: { ...own, security_context: { namespace_options: { ...onNetwork, pid: 'POD' } } } },
    backend: { stopSandbox: slow('backend') },
    network: { detach: slow('network') },
  });
  const pod: MadePod = await made(request);
  const { plan, holder } = pod;
  told.splice(0);
  await releasePod({ plan }, request.backend, {
    of: request.network as never,
    config: request.config,
    attachment: attachment as never,
  });
  expect(told).toEqual(
    ['backend', 'network'].flatMap((name) => [`${name} begins`, `${name} ends, with the holder true`]),
  );
  expect(holder && (await isAlive(holder))).toBe(false);
  await removePod(plan.folder, plan.cgroupParent);
});

test('a holder without a record is stopped at the removal of the folder', async () => {
  const request = requestOf({
    config: { linux: { ...own, security_context: { namespace_options: { ...onNetwork, pid: 'POD' } } } },
  });
  const { plan, holder } = await made(request);
  await removePod(plan.folder, plan.cgroupParent);
  expect(holder && (await isAlive(holder))).toBe(false);
  expect([await mounts(), existsSync(plan.folder)]).toEqual([[], false]);
});

test('a pod whose folder was lost is made again from the namespaces of its process', async () => {
  const process = spawn(
    'unshare',
    ['--net', '--ipc', '--uts', 'sh', '-c', 'hostname found; echo up; exec sleep 600'],
    {
      stdio: ['ignore', 'pipe', 'inherit'],
    },
  );
  try {
    await once(process.stdout, 'data');
    const { plan, config } = requestOf({ config: { hostname: 'found' } });
    const pinned = ['network', 'ipc', 'uts'].map((kind) => [
      kind,
      join(plan.folder, 'ns', kind === 'network' ? 'net' : kind),
    ]);
    const wanted = { ...plan, namespaces: Object.fromEntries(pinned) as typeof plan.namespaces };
    await remakePod(wanted, config, process.pid ?? 0);
    expect(within([`--uts=${join(plan.folder, 'ns', 'uts')}`], 'hostname')).toBe('found');
    expect(readFileSync(join(plan.folder, 'memory', 'hostname'), 'utf8')).toBe('found\n');
    expect(await mounts()).toContain(join(plan.folder, 'memory'));
    expect(statSync(plan.folder).mode & 0o777).toBe(0o700);
  } finally {
    process.kill('SIGKILL');
  }
});

test('a pod is not made again from a process that has ended', async () => {
  const { plan, config } = requestOf();
  const namespaces = { uts: join(plan.folder, 'ns', 'uts') };
  await expect(remakePod({ ...plan, namespaces }, config, 2 ** 22 - 1)).rejects.toThrow();
});

test('the folder of a pod that is made again can be entered by the root of the pod', async () => {
  const map = [{ containerID: 0, hostID: 300_000, size: 65_536 }];
  const { plan, config } = requestOf();
  await remakePod({ ...plan, idMaps: { uids: map, gids: map } }, config, process.pid);
  const { gid, mode } = statSync(plan.folder);
  expect([gid, mode & 0o777]).toEqual([300_000, 0o710]);
});

test('a folder is taken apart with its mounts, and with a cgroup only if it has one', async () => {
  const { plan } = await made(
    requestOf({ config: { linux: { ...own, security_context: { namespace_options: onNetwork } } } }),
  );
  const name = plan.cgroupParent.split('/').at(-1) ?? '';
  const isThere = async () => (await cgroupsIn(join(plan.cgroupParent, '..'))).has(name);
  await takeApart(plan.folder, undefined);
  expect([existsSync(plan.folder), await isThere()]).toEqual([false, true]);
  await takeApart(plan.folder, plan.cgroupParent);
  expect(await isThere().catch(() => false)).toBe(false);
  await removePodCgroup(plan.cgroupParent);
});
