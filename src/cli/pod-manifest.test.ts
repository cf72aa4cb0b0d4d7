import { describe, expect, test } from '@jest/globals';
import { CriJson } from './cri-json.js';
import { quantity } from '../pod/quantity.js';
import { criPod, keyText, podsOf, type Pod } from './pod-manifest.js';

const pod: Pod = {
  metadata: { name: 'web', namespace: 'shop', labels: { app: 'web' } },
  spec: {
    runtimeClassName: 'runc',
    hostIPC: true,
    shareProcessNamespace: true,
    securityContext: { runAsUser: 5, fsGroup: 7, sysctls: [{ name: 'net.a', value: '1' }] },
    volumes: [
      { name: 'etc', hostPath: { path: '/etc' } },
      { name: 'data', emptyDir: {} },
      { name: 'img', image: { reference: 'tools:1' } },
    ],
    initContainers: [{ name: 'init', image: 'busybox' }],
    containers: [
      {
        name: 'app',
        image: 'nginx',
        command: ['a'],
        env: [
          { name: 'A', value: 'b' },
          { name: 'S', valueFrom: {} },
        ],
        resources: { limits: { cpu: '500m', memory: '64Mi' }, requests: { cpu: 0.25 } },
        volumeMounts: [
          { name: 'etc', mountPath: '/mnt', readOnly: true, subPath: 'x' },
          { name: 'data', mountPath: '/data' },
          { name: 'img', mountPath: '/img', subPath: 'bin' },
        ],
        securityContext: {
          runAsUser: 6,
          allowPrivilegeEscalation: false,
          capabilities: { drop: ['ALL'] },
          seccompProfile: { type: 'Localhost', localhostProfile: 'p.json' },
        },
      },
    ],
  },
};

describe('a Pod as CRI messages', () => {
  const made = criPod(pod);
  const json = new CriJson();
  const sandbox = json.sandbox(made.sandbox, 'pod');
  const app = json.container(made.containers[1]?.config ?? {}, 'app');

  test('uses no field that the CRI does not have', () => {
    expect(json.unknown).toEqual([]);
  });

  test('the pod', () => {
    expect(made.handler).toBe('runc');
    expect(sandbox).toMatchObject({
      metadata: { name: 'web', namespace: 'shop' },
      hostname: 'web',
      labels: { app: 'web' },
      linux: {
        sysctls: { 'net.a': '1' },
        security_context: { namespace_options: { network: 'POD', ipc: 'NODE', pid: 'POD' } },
      },
    });
  });

  test('init containers come first', () => {
    expect(made.containers.map(({ name }) => name)).toEqual(['init', 'app']);
  });

  test('resources as the kubelet counts them', () => {
    expect(app.linux?.resources).toMatchObject({
      cpu_shares: '256',
      cpu_period: '100000',
      cpu_quota: '50000',
      memory_limit_in_bytes: String(64 << 20),
    });
  });

  test('security: the container before the pod', () => {
    expect(app.linux?.security_context).toMatchObject({
      run_as_user: { value: '6' },
      no_new_privs: true,
      supplemental_groups: ['7'],
      capabilities: { drop_capabilities: ['ALL'] },
      seccomp: { profile_type: 'Localhost', localhost_ref: '/var/lib/kubelet/seccomp/p.json' },
      apparmor: null,
    });
    expect(app.linux?.security_context?.masked_paths).toContain('/proc/kcore');
  });

  test('volumes', () => {
    expect(app.mounts).toMatchObject([
      { container_path: '/mnt', host_path: '/etc/x', readonly: true },
      { container_path: '/data', readonly: false },
      { container_path: '/img', readonly: true, image: { image: 'tools:1' }, image_sub_path: 'bin' },
    ]);
  });

  test('what is not known here is said', () => {
    expect(made.notes.join('\n')).toMatch(
      /RuntimeClass runc[^]*fsGroup[^]*app: variables from ConfigMaps[^]*volume data/,
    );
  });
});

describe('the pods of a document', () => {
  const template = {
    metadata: { labels: { app: 'web' } },
    spec: { runtimeClassName: 'runc', containers: [{ name: 'app', image: 'nginx' }] },
  };
  const workload = (kind: string, spec: unknown) =>
    podsOf({ kind, metadata: { name: 'web', namespace: 'shop' }, spec });

  test.each([
    ['Deployment', 'web-hash-id'],
    ['StatefulSet', 'web-0'],
    ['DaemonSet', 'web-id'],
    ['Job', 'web-id'],
  ])('%s: one of its template', (kind, name) => {
    const [one, ...more] = workload(kind, { template });
    expect(more).toEqual([]);
    expect(one).toMatchObject({
      handler: 'runc',
      sandbox: { metadata: { name, namespace: 'shop' }, labels: { app: 'web' } },
      containers: [{ name: 'app' }],
    });
    expect(one?.notes[0]).toBe(`a pod of the ${kind} web, with a name that the cluster completes`);
  });

  test('CronJob: of the template of its jobs', () => {
    expect(workload('CronJob', { jobTemplate: { spec: { template } } })).toMatchObject([
      { sandbox: { metadata: { name: 'web-time-id' } } },
    ]);
  });

  test('List: those of its items, and none of what makes no pods', () => {
    const items = [
      { kind: 'Pod', ...pod },
      { kind: 'Service' },
      { kind: 'Job', metadata: { name: 'once' }, spec: { template } },
    ];
    expect(
      podsOf({ kind: 'List', items }).map(
        ({ sandbox }) => (sandbox as { metadata: { name: string } }).metadata.name,
      ),
    ).toEqual(['web', 'once-id']);
    expect(workload('ConfigMap', undefined)).toEqual([]);
  });
});

test('hostUsers: false is a user namespace, in the pod and in its containers', () => {
  const made = criPod({ spec: { hostUsers: false, containers: [{ name: 'app', image: 'nginx' }] } });
  const userns = {
    linux: {
      security_context: {
        namespace_options: { userns_options: { mode: 'POD', uids: [{ container_id: 0, length: 65_536 }] } },
      },
    },
  };
  expect(made.sandbox).toMatchObject(userns);
  expect(made.containers[0]?.config).toMatchObject(userns);
  expect(made.notes.join()).toContain('hostUsers');
});

describe('a manifest with a mistake names its place', () => {
  test.each([
    ['no containers', { containers: null }, 'spec.containers: is missing'],
    ['a word for a list', { containers: 'app' }, 'spec.containers: expected array'],
    [
      'a map for env',
      { containers: [{ name: 'app', image: 'a', env: { A: 'b' } }] },
      'spec.containers[0].env: expected array',
    ],
    ['no name', { containers: [{ image: 'nginx' }] }, 'spec.containers[0].name: is missing'],
  ])('%s', (_what, spec, words) => {
    const [{ mistakes: [mistake] = [] } = {}] = podsOf({ kind: 'Pod', spec });
    expect(`${keyText(mistake?.path ?? [])}: ${mistake?.message}`).toContain(words);
  });

  test('a misspelt field is named, and so is the one that is missing for it', () => {
    const spec = { containers: [{ name: 'app', imagee: 'nginx' }], volumes: [{ name: 'a', nfs: {} }] };
    const template = { spec };
    for (const [document, before] of [
      [{ kind: 'Pod', spec }, ''],
      [{ kind: 'List', items: [{ kind: 'Pod', spec }] }, 'items[0].'],
      [{ kind: 'Job', spec: { template } }, 'spec.template.'],
      [{ kind: 'CronJob', spec: { jobTemplate: { spec: { template } } } }, 'spec.jobTemplate.spec.template.'],
    ] as const) {
      const [pod] = podsOf(document);
      expect(pod?.unknownFields.map(keyText)).toEqual([`${before}spec.containers[0].imagee`]);
      expect(pod?.mistakes.map(({ path }) => keyText(path))).toEqual([`${before}spec.containers[0].image`]);
    }
  });

  test('a field that is unknown and stands for nothing leaves the pod as it is', () => {
    const [pod] = podsOf({ kind: 'Pod', spec: { containers: [{ name: 'a', image: 'b', colour: 'red' }] } });
    expect(pod?.unknownFields.map(keyText)).toEqual(['spec.containers[0].colour']);
    expect(pod?.containers).toMatchObject([{ name: 'a', config: { image: { image: 'b' } } }]);
  });

  test('but a key with nothing behind it is none', () => {
    expect(
      podsOf({ kind: 'Pod', spec: { hostname: null, containers: [{ name: 'app', image: 'a', env: null }] } }),
    ).toMatchObject([{ mistakes: [], unknownFields: [] }]);
  });
});

test('a limit that is no quantity is refused, not left out', () => {
  const limited = (limits: Record<string, string>) =>
    criPod({ spec: { containers: [{ name: 'app', image: 'nginx', resources: { limits } }] } });
  expect(() => limited({ memory: '64mb' })).toThrow(
    'container app: resources: memory "64mb" is not a quantity',
  );
  expect(limited({ 'hugepages-2Mi': '4Mi' }).containers[0]?.config).toMatchObject({
    linux: { resources: { hugepage_limits: [{ page_size: '2MB', limit: String(4 << 20) }] } },
  });
  expect(limited({ 'example.com/gpu': '1' }).notes.join()).toContain('example.com/gpu');
});

test('fields that the CRI does not have are found, in depth', () => {
  const json = new CriJson();
  json.container(
    {
      metadata: { name: 'x', nick: 'y' },
      labels: { free: 'text' },
      mounts: [{ container_path: '/a', hostpath: '/b' }],
      linux: { resources: { cpu: 1 } },
    },
    'c',
  );
  expect(json.unknown).toEqual(['c: metadata.nick', 'c: mounts[0].hostpath', 'c: linux.resources.cpu']);
});

test.each([
  ['500m', 0.5],
  ['64Mi', 67_108_864],
  ['1G', 1e9],
  [2, 2],
  ['1e3', 1000],
  ['2E', 2e18],
  ['1Pi', 2 ** 50],
  ['250u', 250e-6],
  ['x', NaN],
  ['64mb', NaN],
  ['64MI', NaN],
  ['', NaN],
])('the quantity %s', (text, value) => {
  expect(quantity(text)).toBe(value);
});
