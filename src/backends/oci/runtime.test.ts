// The runtime's verbs and messages, with a shell script as a stand-in.
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import {
  appendFileSync,
  chmodSync,
  copyFileSync,
  mkdtempSync,
  readFileSync,
  readdirSync,
  readlinkSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { exitCodeOf, Runtime } from './runtime.js';

let folder: string;
let binary: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'crisp-runtime-'));
  binary = join(folder, 'binary');
});
afterEach(() => rmSync(folder, { recursive: true }));

/** A runtime that runs this script with the arguments after the global ones. */
function runtime(script: string, systemdCgroup = false): Runtime {
  writeFileSync(binary, `#!/bin/sh\n${script}\n`, { mode: 0o755 });
  return new Runtime({ name: 'fake', path: binary, args: ['--own'], root: '/state', systemdCgroup });
}

test('its arguments are the global options, the root, the verb and the rest, in this order', async () => {
  const plain = runtime('');
  expect(await plain.argv('start', 'a', 'b')).toEqual([binary, '--own', '--root=/state', 'start', 'a', 'b']);
  expect(await plain.argvLogging('/log', 'exec', 'a')).toEqual([
    binary,
    '--own',
    '--root=/state',
    '--log=/log',
    'exec',
    'a',
  ]);
  expect(plain.stateFolder('id')).toBe('/state/id');
  const systemd = runtime('', true);
  expect(await systemd.argv('kill')).toEqual([binary, '--own', '--root=/state', '--systemd-cgroup', 'kill']);
});

test('a verb returns its output, or its messages as an error', async () => {
  expect((await runtime('echo "$@"').call('state', ['id'])).stdout).toBe('--own --root=/state state id\n');
  const failing = runtime('echo "Error: no space left on device" >&2; exit 1');
  await expect(failing.call('create', [])).rejects.toMatchObject({
    id: 'DiskFull',
    message: 'fake create failed: Error: no space left on device',
    stage: 'container create',
    tool: 'fake',
  });
  expect((await failing.call('create', [], { okExitCodes: 'any' })).exitCode).toBe(1);
  await expect(runtime('sleep 60').call('kill', [], { timeoutMs: 50 })).rejects.toMatchObject({
    id: 'ToolTimeout',
    stage: 'fake kill',
  });
});

test('a binary that has disappeared is looked up again', async () => {
  const its = runtime('');
  expect(await its.path()).toBe(binary);
  rmSync(binary);
  await expect(its.path()).rejects.toMatchObject({ id: 'ToolMissing' });
});

test('crun is recognized by the first word of its version, read once for each binary', async () => {
  const asked = join(folder, 'asked');
  const its = runtime(`echo x >>${asked}; printf 'crun version 1\\ncommit: 2\\n'`);
  expect([await its.isCrun(), await its.isCrun()]).toEqual([true, true]);
  expect(await its.version()).toBe('crun version 1');
  runtime(`printf 'runc version 1 crun\\n'`);
  expect(await its.isCrun()).toBe(false);
  const { stdout } = await runtime(`wc -l <${asked}`).call('x', []);
  expect(stdout.trim()).toBe('2'); // isCrun() once, version() once
});

describe('the copy of crun in memory', () => {
  const crun = (): Runtime =>
    new Runtime({ name: 'crun', path: binary, args: [], root: join(folder, 'root'), systemdCgroup: false });

  test('is made once for each version of the file, and its verbs are run from it', async () => {
    copyFileSync('/usr/bin/crun', binary);
    const its = crun();
    const [first, second] = await Promise.all([its.program(), its.program()]);
    expect(first).toBeGreaterThan(2);
    expect(second).toBe(first);
    expect(readlinkSync(`/proc/self/fd/${first}`)).toBe('/memfd:binary (deleted)');
    expect(await its.list()).toEqual([]);
    copyFileSync('/usr/bin/crun', `${binary}.new`);
    renameSync(`${binary}.new`, binary);
    expect(await its.program()).toBe(first);
    expect(await its.list()).toEqual([]);
  });

  test('is that of the last version, on one descriptor, however often the file is replaced', async () => {
    const its = crun();
    const replace = (version: string): void => {
      copyFileSync('/usr/bin/crun', `${binary}.new`);
      appendFileSync(`${binary}.new`, version);
      renameSync(`${binary}.new`, binary);
    };
    replace('first');
    await its.program();
    const before = readdirSync('/proc/self/fd').length;
    const copies = Array.from({ length: 10 }, (_, version) => {
      replace(String(version));
      return its.program();
    });
    writeFileSync(`${binary}.new`, '#!/bin/sh\n', { mode: 0o755 });
    renameSync(`${binary}.new`, binary);
    expect(await its.program()).toBeUndefined();
    replace('last');
    const program = await its.program();
    expect(readFileSync(`/proc/self/fd/${program}`).subarray(-4).toString()).toBe('last');
    await Promise.all(copies);
    expect(readdirSync('/proc/self/fd')).toHaveLength(before);
  });

  test('is not run any more if the file cannot be run', async () => {
    copyFileSync('/usr/bin/crun', binary);
    const its = crun();
    expect(await its.program()).toBeGreaterThan(2);
    chmodSync(binary, 0o644);
    expect(await its.program()).toBeUndefined();
    await expect(its.list()).rejects.toMatchObject({ id: 'ToolMissing' });
    chmodSync(binary, 0o755);
    expect(await its.program()).toBeGreaterThan(2);
    expect(await its.list()).toEqual([]);
  });

  test('is not used for a script, or if it does not run', async () => {
    expect(await runtime('').program()).toBeUndefined();
    copyFileSync('/bin/false', `${binary}.new`);
    appendFileSync(`${binary}.new`, '_LIBCONTAINER_CLONED_BINARY');
    renameSync(`${binary}.new`, binary);
    const before = readdirSync('/proc/self/fd').length;
    expect(await crun().program()).toBeUndefined();
    expect(readdirSync('/proc/self/fd')).toHaveLength(before);
  });
});

test('the containers and their state are read from JSON; null is an empty list', async () => {
  const listing = runtime(`echo '[{"id":"a","bundle":"/b"}]'`);
  expect(await listing.list()).toEqual([{ id: 'a', bundle: '/b' }]);
  for (const nothing of ['null', '', '[]']) expect(await runtime(`echo '${nothing}'`).list()).toEqual([]);
  expect(await runtime('echo "$@" >&2; exit 1').state('a')).toBeUndefined();
  expect(await runtime(`echo '{"status":"running","pid":7}'`).state('a')).toEqual({
    status: 'running',
    pid: 7,
  });
});

test.each([
  ['unknown command "checkpoint" for "fake"', 'Unsupported'],
  ['exec: "x": executable file not found in $PATH', 'StartFailed'],
  ['exec /x: exec format error', 'StartFailed'],
  ['open executable: Permission denied', 'StartFailed'],
  ['the path `/x` exists but it is not executable: Operation not permitted', 'StartFailed'],
  ['chdir to cwd ("/none") failed: no such file or directory', 'StartFailed'],
  ['container "a" does not exist', 'ContainerNotFound'],
  ['error opening file `/state/a/status`: No such file or directory', 'ContainerNotFound'],
  ['write: no space left on device', 'DiskFull'],
  ['fork: cannot allocate memory', 'OutOfMemory'],
  ['write memory.limit_in_bytes: device or resource busy', 'OutOfMemory'],
  ['cgroups in hybrid mode not supported', 'RuntimeFailed'],
  ['sd-bus call: connection refused', 'RuntimeFailed'],
  ['mount: operation not permitted', 'PermissionDenied'],
  ['something else', 'RuntimeFailed'],
])('its words "%s" are %s', (words, id) => {
  const error = runtime('').explain('create', words);
  expect(error).toMatchObject({ id, message: `fake create failed: ${words}` });
  if (id === 'OutOfMemory' || id === 'Unsupported') expect(error.hint).toBeTruthy();
  if (words === 'something else') expect(error.hint).toBe('');
});

test('the message of a log line is extracted, and the whole text is kept', () => {
  const its = runtime('');
  const line = 'time="x" level=error msg="it said \\"no\\""';
  expect(its.explain('start', line)).toMatchObject({
    message: 'fake start failed: it said "no"',
    stderr: 'it said "no"',
  });
  const both = `first\n${line}\n`;
  expect(its.explain('start', both)).toMatchObject({
    message: 'fake start failed: it said "no"',
    stderr: both,
  });
  expect(its.explain('start', 'fake start failed: twice').message).toBe('fake start failed: twice');
});

test.each([
  ['executable file `x` not found in $PATH', 127],
  ['exec /x: no such file or directory', 127],
  ['exec format error', 126],
  ['exec /x: permission denied', 126],
  ['exec /x: is a directory', 126],
  ['the path `/x` exists but it is not executable: Operation not permitted', 126], // crun 1.21
  ['the path `/x` is not a regular file: Operation not permitted', 126],
  ['container does not exist', undefined],
])('a process that says "%s" has the exit code %p', (words, code) => {
  expect(exitCodeOf(words)).toBe(code);
});

test('its version and its list are asked for as runc(8) has them', async () => {
  expect(await runtime('echo "$@"').version()).toBe('--version');
  const listing = runtime(`[ "$3 $4 $5" = 'list --format json' ] && echo '[{"id":"a","bundle":"/b"}]'`);
  expect(await listing.list()).toHaveLength(1);
});

test('a known problem has a hint, an unknown one has none', () => {
  const its = runtime('');
  expect(its.explain('start', 'exec format error').hint).toContain('architecture');
});

test('a binary that is found by its name is kept until it is forgotten', async () => {
  const its = new Runtime({ name: 'sh', path: '', args: [], root: '/state', systemdCgroup: false });
  expect(await its.path()).toMatch(/^\/\S*\/sh$/);
  its.forget();
  expect(await its.path()).toMatch(/^\/\S*\/sh$/);
});
