import { afterEach, expect, test } from '@jest/globals';
import type { Probe } from '../backends/backend.js';
import { Bench, type StandIns } from '../../test/helpers/services.js';
import { setAside } from '../set-aside.js';
import { runtimeConfig, status, updateRuntimeConfig, version } from './runtime.js';

let bench: Bench;
afterEach(async () => {
  setAside.replace('CT', []);
  await bench?.end();
});

const probe = (more: Partial<Probe> = {}): Probe => ({
  ready: true,
  reason: '',
  version: '1',
  features: { recursiveReadOnlyMounts: false, userNamespaces: true },
  lacks: {},
  ...more,
});
function open(probes: Record<string, Probe>, standIns: StandIns = {}): void {
  bench = new Bench({
    ...standIns,
    network: { status: () => ({ ready: true, reason: '', message: '' }), ...standIns.network },
  });
  const handlers = new Map(
    Object.entries(probes).map(([name, its]) => [
      name,
      {
        backend: bench.backend,
        probe: its,
        refresh: async () => void bench.told.push(`refresh ${name}`),
      },
    ]),
  );
  Object.assign(bench.services, { handlers, version: '9.9' });
}
const ask = (verbose = false) => status(bench.services, { verbose });
const conditions = async (): Promise<Record<string, object>> => {
  const told: Record<string, object> = {};
  for (const { type = '', ...rest } of (await ask()).status?.conditions ?? []) told[type] = rest;
  return told;
};

test('the version is that of the API and of crisp', async () => {
  open({});
  expect(await version(bench.services, { version: '' })).toEqual({
    version: '0.1.0',
    runtime_name: 'crisp',
    runtime_version: '9.9',
    runtime_api_version: 'v1',
  });
});

test('a node is ready if one handler is, and lists ready handlers only', async () => {
  const broken = probe({ ready: false, reason: 'no crun' });
  const other = probe({ features: { recursiveReadOnlyMounts: true, userNamespaces: false } });
  open({ fake: probe(), broken, other });
  expect((await conditions())['RuntimeReady']).toEqual({ status: true, reason: '', message: '' });
  expect((await ask()).runtime_handlers).toEqual([
    { name: '', features: { recursive_read_only_mounts: false, user_namespaces: true } },
    { name: 'fake', features: { recursive_read_only_mounts: false, user_namespaces: true } },
    { name: 'other', features: { recursive_read_only_mounts: true, user_namespaces: false } },
  ]);
  expect((await ask()).features).toEqual({
    supplemental_groups_policy: true,
    user_namespaces_host_network: false,
    mount_options: true,
  });
  expect(new Set(bench.toldOf('refresh'))).toEqual(
    new Set(['refresh fake', 'refresh broken', 'refresh other']),
  );
});

test('a node without a ready handler is not ready, and gives the reason', async () => {
  open({ a: probe({ ready: false, reason: 'no crun' }), b: probe({ ready: false, reason: 'no pct' }) });
  expect((await conditions())['RuntimeReady']).toEqual({
    status: false,
    reason: 'NoHandlerReady',
    message: 'a: no crun; b: no pct',
  });
  expect((await ask()).runtime_handlers).toEqual([]);
});

test('the network reports whether it is ready', async () => {
  open({}, { network: { status: () => ({ ready: false, reason: 'NoNetwork', message: 'no conflist' }) } });
  expect((await conditions())['NetworkReady']).toEqual({
    status: false,
    reason: 'NoNetwork',
    message: 'no conflist',
  });
});

test('the verbose status has configuration, handlers, network, and records that were set aside', async () => {
  open({ fake: probe() });
  expect((await ask()).info).toEqual({});
  expect(bench.toldOf('images.list')).toEqual([]);
  setAside.add('CT', 'test', 'it is broken');
  const { info = {} } = await ask(true);
  const told = Object.fromEntries(
    Object.entries(info).map(([key, text]) => [key, JSON.parse(String(text)) as unknown]),
  );
  expect(told).toMatchObject({
    config: { state: bench.folder, default_container_type: 'fake' },
    handlers: { fake: { ready: true, version: '1' } },
    network: { ready: true },
    setAside: { records: expect.arrayContaining([expect.objectContaining({ name: 'test' })]) },
  });
  expect(bench.toldOf('images.list')).toHaveLength(1);
});

test.each([
  ['systemd', 'SYSTEMD'],
  ['cgroupfs', 'CGROUPFS'],
] as const)('the cgroup driver is reported: %s', async (driver, told) => {
  open({});
  Object.assign(bench.services.host, { systemdCgroup: driver === 'systemd' });
  expect(await runtimeConfig(bench.services, {})).toEqual({ linux: { cgroup_driver: told } });
});

test('a pod CIDR is passed to the network, an empty one is not', async () => {
  open({});
  const set = (pod_cidr: string) =>
    updateRuntimeConfig(bench.services, { runtime_config: { network_config: { pod_cidr } } });
  expect(await set('10.1.0.0/24')).toEqual({});
  expect(await set('')).toEqual({});
  expect(await updateRuntimeConfig(bench.services, { runtime_config: null })).toEqual({});
  expect(bench.toldOf('network.setPodCidr')).toEqual(['network.setPodCidr 10.1.0.0/24']);
});
