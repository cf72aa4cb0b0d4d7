import { describe, expect, test } from '@jest/globals';
import { CriJson } from './cri-json.js';
import { criPod, quantity, type Pod } from './pod-manifest.js';

const pod: Pod = {
  metadata: { name: 'web', namespace: 'shop', labels: { app: 'web' } },
  spec: {
    runtimeClassName: 'runc', hostIPC: true, shareProcessNamespace: true, securityContext: { runAsUser: 5, fsGroup: 7, sysctls: [{ name: 'net.a', value: '1' }] },
    volumes: [{ name: 'etc', hostPath: { path: '/etc' } }, { name: 'data', emptyDir: {} }, { name: 'img', image: { reference: 'tools:1' } }],
    initContainers: [{ name: 'init', image: 'busybox' }],
    containers: [{
      name: 'app', image: 'nginx', command: ['a'], env: [{ name: 'A', value: 'b' }, { name: 'S', valueFrom: {} }],
      resources: { limits: { cpu: '500m', memory: '64Mi' }, requests: { cpu: 0.25 } },
      volumeMounts: [{ name: 'etc', mountPath: '/mnt', readOnly: true, subPath: 'x' }, { name: 'data', mountPath: '/data' }, { name: 'img', mountPath: '/img', subPath: 'bin' }],
      securityContext: { runAsUser: 6, allowPrivilegeEscalation: false, capabilities: { drop: ['ALL'] }, seccompProfile: { type: 'Localhost', localhostProfile: 'p.json' } },
    }],
  },
};

describe('a Pod as CRI messages', () => {
  const made = criPod(pod);
  const json = new CriJson();
  const sandbox = json.sandbox(made.sandbox, 'pod');
  const app = json.container(made.containers[1]?.config ?? {}, 'app');

  test('uses no field that the CRI does not have', () => { expect(json.unknown).toEqual([]); });

  test('the pod', () => {
    expect(made.handler).toBe('runc');
    expect(sandbox).toMatchObject({ metadata: { name: 'web', namespace: 'shop' }, hostname: 'web', labels: { app: 'web' }, linux: { sysctls: { 'net.a': '1' }, security_context: { namespace_options: { network: 'POD', ipc: 'NODE', pid: 'POD' } } } });
  });

  test('init containers come first', () => { expect(made.containers.map(({ name }) => name)).toEqual(['init', 'app']); });

  test('resources as the kubelet counts them', () => {
    expect(app.linux?.resources).toMatchObject({ cpu_shares: '256', cpu_period: '100000', cpu_quota: '50000', memory_limit_in_bytes: String(64 << 20) });
  });

  test('security: the container before the pod', () => {
    expect(app.linux?.security_context).toMatchObject({
      run_as_user: { value: '6' }, no_new_privs: true, supplemental_groups: ['7'], capabilities: { drop_capabilities: ['ALL'] },
      seccomp: { profile_type: 'Localhost', localhost_ref: '/var/lib/kubelet/seccomp/p.json' }, apparmor: null,
    });
    expect(app.linux?.security_context?.masked_paths).toContain('/proc/kcore');
  });

  test('volumes', () => {
    expect(app.mounts).toMatchObject([
      { container_path: '/mnt', host_path: '/etc/x', readonly: true }, { container_path: '/data', readonly: false },
      { container_path: '/img', readonly: true, image: { image: 'tools:1' }, image_sub_path: 'bin' },
    ]);
  });

  test('what is not known here is said', () => {
    expect(made.notes.join('\n')).toMatch(/RuntimeClass runc[^]*fsGroup[^]*app: variables from ConfigMaps[^]*volume data/);
  });
});

test('fields that the CRI does not have are found, in depth', () => {
  const json = new CriJson();
  json.container({ metadata: { name: 'x', nick: 'y' }, labels: { free: 'text' }, mounts: [{ container_path: '/a', hostpath: '/b' }], linux: { resources: { cpu: 1 } } }, 'c');
  expect(json.unknown).toEqual(['c: metadata.nick', 'c: mounts[0].hostpath', 'c: linux.resources.cpu']);
});

test.each([['500m', 0.5], ['64Mi', 67_108_864], ['1G', 1e9], [2, 2], ['1e3', 1000], ['x', NaN]])('the quantity %s', (text, value) => { expect(quantity(text)).toBe(value); });
