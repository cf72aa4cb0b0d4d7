import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { configSchema, loadConfig, type Config } from './config.js';
import { diffConfig, reloadable } from './reload.js';
import { CrispError } from '../errors.js';

let folder = '';
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'crisp-config-'));
});
afterEach(() => {
  rmSync(folder, { recursive: true, force: true });
});

function write(name: string, text: string): string {
  const path = join(folder, name);
  mkdirSync(join(path, '..'), { recursive: true });
  writeFileSync(path, text);
  return path;
}
function load(text: string, flags: Partial<Config> = {}): Config {
  return loadConfig(write('config.yaml', text), flags);
}
function complaint(work: () => unknown): string {
  try {
    work();
  } catch (error) {
    expect(error).toBeInstanceOf(CrispError);
    expect((error as CrispError).id).toBe('InvalidConfigFile');
    return (error as CrispError).message.replaceAll(folder, '');
  }
  throw new Error('was accepted');
}

test('an empty file is the default configuration, deeply frozen', () => {
  const config = load('', { lxc: { pve_folder: '/nonexistent' } as Config['lxc'] }); // also on a Proxmox node
  expect(config.default_container_type).toBe('crun');
  expect(Object.keys(config.handlers)).toEqual(['crun', 'runc']);
  expect(config.fallback).toEqual({ crun: 'runc' });
  expect(() => {
    config.network.bin_dirs.push('/x');
  }).toThrow(TypeError);
});

test('links in folder settings are resolved, whether the folders exist or not', () => {
  mkdirSync(join(folder, 'run'));
  symlinkSync('run', join(folder, 'link'));
  const { state, root } = load(`state: ${folder}/link/crisp\nroot: ${folder}/link\n`);
  expect([state, root]).toEqual([join(folder, 'run/crisp'), join(folder, 'run')]);
});

test('the order of precedence is the file, the drop-ins by name, the flags', () => {
  write('config.d/20-b.yaml', 'log_level: warn\nnetwork: {conf_dir: /b}\n');
  write('config.d/10-a.yaml', 'log_level: debug\nimages: {pinned: [a]}\nstate: /a\n');
  write('config.d/README', 'not: yaml: at all');
  const config = load('state: /main\nimages: {pinned: [x, y], auth_file: /auth}\n', {
    root: '/flag',
    listen: undefined,
  });
  expect(config).toMatchObject({
    state: '/a',
    log_level: 'warn',
    root: '/flag',
    network: { conf_dir: '/b' },
    images: { pinned: ['a'], auth_file: '/auth' },
  });
});

test('handlers are added to crun and runc, whose keys can also be set', () => {
  const { handlers } = load('handlers:\n  lxc: {type: pct}\n  crun: {path: /opt/crun}\n');
  expect(handlers).toMatchObject({
    crun: { type: 'oci', path: '/opt/crun' },
    runc: { type: 'oci', path: '' },
    lxc: { type: 'pct' },
  });
});

test('a Proxmox VE node has the handler lxc with its configuration; other hosts have no such handler', () => {
  const pve = join(folder, 'pve');
  const on = (more: string): Config => load(`lxc: {pve_folder: ${pve}}\n${more}`);
  expect(Object.keys(on('').handlers)).not.toContain('lxc');
  writeFileSync(pve, '');
  expect(() => on('default_container_type: lxc\n')).toThrow('"lxc" is not a handler');
  rmSync(pve);
  mkdirSync(pve);
  expect(
    on('default_container_type: lxc\nhandlers:\n  lxc: {allowed_annotations: [a]}\n').handlers,
  ).toMatchObject({ crun: {}, runc: {}, lxc: { type: 'pct', allowed_annotations: ['a'] } });
  expect(on('handlers:\n  lxc: {type: oci, path: /opt/lxc}\n').handlers['lxc']).toMatchObject({
    type: 'oci',
    path: '/opt/lxc',
  });
});

describe('an invalid setting is refused with its location', () => {
  test.each<[string, string, string]>([
    ['an unknown key', 'root: /r\nlisten_on: x\n', '/config.yaml:2: listen_on: unknown key'],
    [
      'an unknown key in a section',
      'network:\n  conf_dir: /c\n  confdir: /c\n',
      '/config.yaml:3: network.confdir: unknown key',
    ],
    [
      'a wrong type',
      '\nimages:\n  pinned: yes please\n',
      '/config.yaml:3: images.pinned: expected array, received string',
    ],
    [
      'one state folder for both',
      'state: /s\ncli_state: /s\n',
      '/config.yaml:2: cli_state: must not be in the state folder of the daemon, which would remove everything without a record',
    ],
    [
      'one folder inside the other',
      'state: /s\ncli_state: /s/cli\n',
      '/config.yaml:2: cli_state: must not be in the state folder of the daemon, which would remove everything without a record',
    ],
    [
      'a wrong value',
      'log_level: loud\n',
      '/config.yaml:1: log_level: expected one of "trace"|"debug"|"info"|"warn"|"error"',
    ],
    ['a relative path', 'state: run/crisp\n', '/config.yaml:1: state: must be an absolute path'],
    ['a negative time', 'runtime:\n  unclaimed_seconds: -1\n', '/config.yaml:2: runtime.unclaimed_seconds: '],
    [
      'a rule without a handler',
      'routing:\n  rules:\n    - namespace: a\n',
      '/config.yaml:3: routing.rules.0.handler: is missing',
    ],
    [
      'a rule without a condition',
      'routing:\n  rules:\n    - namespace: a\n      handler: crun\n    - handler: runc\n',
      '/config.yaml:5: routing.rules.1: has no condition',
    ],
    [
      'a rule for an unknown handler',
      'routing:\n  rules:\n    - pod: a\n      handler: kata\n',
      '/config.yaml:4: routing.rules.0.handler: "kata" is not a handler; there are: crun, runc',
    ],
    [
      'a rule with a bad expression',
      'routing:\n  rules:\n    - handler: crun\n      labels:\n        app: /(/\n',
      '/config.yaml:5: routing.rules.0.labels.app: Invalid regular expression',
    ],
    [
      'an expression that escapes its anchors',
      'routing:\n  rules:\n    - handler: crun\n      pod: /a)|(b/\n',
      '/config.yaml:4: routing.rules.0.pod: Invalid regular expression',
    ],
    [
      'a bad name pattern',
      'routing:\n  crun_name_patterns:\n    - a*\n    - /[/\n',
      '/config.yaml:4: routing.crun_name_patterns.1: Invalid regular expression',
    ],
    [
      'an unknown default',
      'default_container_type: lxc\n',
      '/config.yaml:1: default_container_type: "lxc" is not a handler',
    ],
    [
      'a fallback to an unknown handler',
      'fallback:\n  crun: kata\n',
      '/config.yaml:2: fallback.crun: "kata" is not a handler',
    ],
    [
      'a circle of fallbacks',
      'fallback:\n  crun: runc\n  runc: crun\n',
      '/config.yaml:2: fallback.crun: is a cycle: crun -> runc -> crun',
    ],
    ['a syntax error', 'root: /r\nstate: [\n', '/config.yaml:3: '],
    ['a duplicate key', 'root: /r\nroot: /s\n', '/config.yaml:2: Map keys must be unique'],
    ['no mapping', '- a\n', '/config.yaml:1: must be a mapping of keys'],
    ['a key of the prototype', '__proto__: {root: /x}\n', '/config.yaml:1: __proto__: unknown key'],
  ])('%s', (_what, text, expected) => {
    expect(complaint(() => load(text))).toContain(expected);
  });

  test('in a drop-in, which is named', () => {
    write('config.d/10-a.yaml', '\n\nlog_level: 3\n');
    expect(complaint(() => load('log_level: info\n'))).toContain('/config.d/10-a.yaml:3: log_level: ');
  });

  test('in a flag, which is named', () => {
    expect(complaint(() => load('log_level: info\n', { log_level: 'loud' as 'info' }))).toContain(
      'flag --log-level: log_level: ',
    );
  });

  test('with all other errors of the configuration', () => {
    const message = complaint(() => load('a: 1\nb: 2\nstate: x\n'));
    for (const part of [
      '/config.yaml:1: a: unknown key',
      '/config.yaml:2: b: unknown key',
      '/config.yaml:3: state:',
    ])
      expect(message).toContain(part);
  });

  test('an explicitly named file that does not exist', () => {
    expect(complaint(() => loadConfig(join(folder, 'none.yaml')))).toContain('/none.yaml: ENOENT');
  });
});

describe('reload', () => {
  test('every reloadable key exists', () => {
    for (const key of reloadable) expect(Object.keys(configSchema.shape)).toContain(key);
  });

  test('applies the reloadable keys and reports the others', () => {
    const present = load('log_level: info\nnetwork: {conf_dir: /a}\n');
    const wanted = load(
      'log_level: debug\nnetwork: {conf_dir: /b}\nrouting: {crun_name_patterns: [x]}\nstate: /s\n',
    );
    const change = diffConfig(present, wanted);
    expect(change.applied.slice().sort()).toEqual(['log_level', 'routing.crun_name_patterns']);
    expect(change.needRestart.slice().sort()).toEqual(['network.conf_dir', 'state']);
    expect(change.config).toMatchObject({
      log_level: 'debug',
      state: '/run/crisp',
      network: { conf_dir: '/a' },
      routing: { crun_name_patterns: ['x'] },
    });
  });

  test('an unchanged file is no change', () => {
    expect(diffConfig(load(''), load(''))).toMatchObject({ applied: [], needRestart: [] });
  });

  test('a rule for a handler that exists only in the new file is refused', () => {
    const wanted = load('handlers: {lxc: {type: pct}}\ndefault_container_type: lxc\n');
    expect(complaint(() => diffConfig(load(''), wanted))).toContain(
      'default_container_type: "lxc" is not a handler',
    );
  });
});
