import { afterAll, afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { execFileSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync, statSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { cgroupFolder, cgroupLayout } from '../../host/cgroup.js';
import { deviceNumbers } from '../../oci/host-devices.js';
import type { Spec } from '../../shapes/spec.js';
import type { ContainerPlan } from '../backend.js';
import { deviceSource, includeText, isFolder } from './bundle.js';

describe('the included file', () => {
  const devices = mkdtempSync(join(tmpdir(), 'crisp-zero-'));
  execFileSync('mknod', [join(devices, 'zero'), 'c', '1', '5']);
  afterAll(() => rmSync(devices, { recursive: true }));
  const spec: Spec = {
    ociVersion: '1.0.2',
    process: { user: { uid: 0, gid: 0 }, args: [], env: ['A=b'], cwd: '/', terminal: true },
    root: { path: '/rootfs' },
    mounts: [{ destination: '/etc', type: 'bind', source: '/etc/passwd', options: ['rbind'] }],
    linux: {
      namespaces: [],
      devices: [{ type: 'c', path: join(devices, 'zero'), major: 1, minor: 5 }],
      maskedPaths: ['/proc/sys'],
    },
  };
  const lines = (change: Partial<ContainerPlan> = {}): string[] =>
    includeText({ folder: '/my bundle', stopSignal: '3', ...change } as ContainerPlan, spec, 900_001, {
      cgroup: 'v2',
      environmentReachesHooks: false,
      passed: [],
    }).split('\n');

  test('names the files of the bundle, and what the host has of each path and device', () => {
    expect(lines()).toEqual(
      expect.arrayContaining([
        'lxc.console.path = /my bundle/console',
        'lxc.log.file = /my bundle/lxc.log',
        'lxc.signal.halt = 3',
        'lxc.environment.runtime = A=b',
        'lxc.mount.entry = /etc/passwd etc none rbind,create=file 0 0',
        `lxc.mount.entry = ${devices}/zero ${devices.slice(1)}/zero none bind,create=file,optional 0 0`,
        'lxc.mount.entry = tmpfs proc/sys tmpfs ro,size=0k,optional 0 0',
      ]),
    );
  });

  test('has a hook at the end of the CT that reads the OOM kills of its group and of the group in it', () => {
    const layout = cgroupLayout();
    const group = cgroupFolder(layout, 'memory', '/lxc/900001');
    const file = layout.version === 'v2' ? 'memory.events' : 'memory.oom_control';
    const [hook = ''] = lines().filter((line) => line.startsWith('lxc.hook.stop'));
    expect(hook).toMatch(/^lxc\.hook\.stop = perl \/\S+\/oom\.pl '\/my bundle'/);
    if (group) expect(hook.endsWith(`oom.pl '/my bundle' ${group}/${file} ${group}/ns/${file}`)).toBe(true);
  });

  test('of a template leaves to Proxmox how it boots', () => {
    expect(lines().some((line) => line.startsWith('lxc.init.uid'))).toBe(true);
    expect(lines({ template: 't' }).some((line) => line.startsWith('lxc.init.uid'))).toBe(false);
  });
});

describe('a device of the host', () => {
  const { rdev } = statSync('/dev/null');
  const { major, minor } = deviceNumbers(rdev);

  test('is found by its path, if that has its numbers and its type', () => {
    expect(deviceSource({ type: 'c', path: '/dev/null', major, minor })).toBe('/dev/null');
    expect(deviceSource({ type: 'c', path: '/dev/null', major, minor: 77 })).toBeUndefined();
    expect(deviceSource({ type: 'c', path: '/dev/null', major: 77, minor })).toBeUndefined();
    expect(deviceSource({ type: 'b', path: '/dev/null', major, minor })).toBeUndefined();
    expect(deviceSource({ type: 'c', path: '/etc/passwd', major: 250, minor: 250 })).toBeUndefined();
  });

  test('is found through links', () => {
    const folder = mkdtempSync(join(tmpdir(), 'crisp-device-'));
    symlinkSync('/dev/null', join(folder, 'link'));
    expect(deviceSource({ type: 'c', path: join(folder, 'link'), major, minor })).toBe('/dev/null');
    rmSync(folder, { recursive: true });
  });
});

describe('whether a path leads to a folder', () => {
  let folder: string;
  beforeEach(() => {
    folder = mkdtempSync(join(tmpdir(), 'crisp-folder-'));
  });
  afterEach(() => rmSync(folder, { recursive: true }));

  test('is the kind of its target', () => {
    mkdirSync(join(folder, 'folder'));
    writeFileSync(join(folder, 'file'), '');
    symlinkSync('folder', join(folder, 'link'));
    symlinkSync('loop', join(folder, 'loop'));
    expect(['folder', 'file', 'link', 'loop', 'none'].map((name) => isFolder(join(folder, name)))).toEqual([
      true,
      false,
      true,
      false,
      false,
    ]);
  });
});
