// The command line on single containers, with the real crun and runc and no
// daemon: bin/crisp as a person runs it, in a mount namespace of its own.
import { afterAll, afterEach, beforeAll, describe, expect, test } from '@jest/globals';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readdirSync, watch } from 'node:fs';
import { chmod, mkdir, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { stringify } from 'yaml';
import { identify } from '../../src/host/proc.js';
import { crispAs } from '../helpers/daemon.js';
import { makeImageArchive } from '../helpers/image.js';
import { diesWithUs, Machine, type Result } from '../helpers/machine.js';

const bin = fileURLToPath(new URL('../../bin/crisp', import.meta.url));
const image = 'localhost/box';

let folder: string;
let machine: Machine;
let archive: string;
let configFile: string;

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'crisp-cli-'));
  machine = await Machine.start([join(folder, 'state')]);
  archive = await makeImageArchive(folder, 'box');
  configFile = await configure('config.yaml', {});
  expect(await crisp('run', '--rm', archive, 'true')).toMatchObject({ exitCode: 0, stderr: '' }); // which imports it
});
afterEach(async () => {
  const left = await recorded();
  if (left.length) await crisp('delete', '--force', ...left);
});
afterAll(async () => {
  await machine?.stop();
  if (folder) await rm(folder, { recursive: true, force: true });
});

/** A configuration with folders of our own. */
async function configure(name: string, more: object): Promise<string> {
  const policy = join(folder, 'policy.json');
  await writeFile(policy, JSON.stringify({ default: [{ type: 'insecureAcceptAnything' }] }));
  const file = join(folder, name);
  await writeFile(
    file,
    stringify({
      root: join(folder, 'root'),
      state: join(folder, 'state', 'daemon'),
      cli_state: join(folder, 'state', 'cli'),
      images: { signature_policy: policy },
      ...more,
    }),
  );
  return file;
}

/** Runs `crisp COMMAND --config … WORDS`. */
function crisp(command: string, ...words: string[]): Promise<Result> {
  return machine.run(argv(configFile, command, ...words));
}
function argv(config: string, command: string, ...words: string[]): string[] {
  return [process.execPath, bin, command, '--config', config, ...words];
}

/** What standalone containers have on the machine: mounts, records, folders, cgroups. */
async function traces(): Promise<string[]> {
  const state = machine.path(join(folder, 'state', 'cli'));
  const inside = async (path: string): Promise<string[]> =>
    (await readdir(path).catch(() => [])).map((name) => join(path, name));
  const groups = (
    await machine.run([
      'sh',
      '-c',
      'ls -d /sys/fs/cgroup/*/crisp-cli/* /sys/fs/cgroup/crisp-cli/* 2>/dev/null',
    ])
  ).stdout
    .split('\n')
    .filter(Boolean);
  const ours = new Set([...(await recorded()), ...made]);
  return [
    ...(await machine.mounts()).filter((path) => path.startsWith(join(folder, 'state', 'cli'))),
    ...(
      await Promise.all(
        ['containers', 'names', 'bundles', 'pods', 'roots', 'views'].map((name) => inside(join(state, name))),
      )
    ).flat(),
    ...(await inside(join(folder, 'root', 'cli', 'containers'))),
    ...(await inside(join(folder, 'root', 'cli', 'logs'))),
    ...groups.filter((path) => ours.has(path.split('/').at(-1) ?? '')),
  ].sort();
}
/** The ids of the containers that have a record. */
async function recorded(): Promise<string[]> {
  const files = await readdir(machine.path(join(folder, 'state', 'cli', 'containers'))).catch(() => []);
  return files.filter((name) => /^[0-9a-f]{64}\.json$/.test(name)).map((name) => name.slice(0, 64));
}
/** The ids that commands of these tests printed. */
const made = new Set<string>();

interface Shown {
  id: string;
  name: string;
  status: string;
  pid?: number;
  handler: string;
  rule: string;
  exitCode?: number;
  logPath: string;
  notHonoured: string[];
}
async function known(): Promise<Shown[]> {
  return JSON.parse((await crisp('list', '--json')).stdout) as Shown[];
}
async function state(name: string): Promise<Shown> {
  return JSON.parse((await crisp('state', '--json', name)).stdout) as Shown;
}
async function start(...words: string[]): Promise<string> {
  const { stdout, stderr, exitCode } = await crisp('run', '--detach', ...words);
  expect({ stderr, exitCode }).toEqual({ stderr: '', exitCode: 0 });
  made.add(stdout.trim());
  return stdout.trim();
}

describe.each(['crun', 'runc'])('on %s', (handler) => {
  test('run shows both outputs, ends with the exit code, and leaves nothing', async () => {
    expect(
      await crisp(
        'run',
        '--rm',
        '--handler',
        handler,
        '--name',
        'box',
        image,
        'sh',
        '-c',
        'echo out; hostname; echo err >&2; printf part; exit 7',
      ),
    ).toEqual({ stdout: 'out\nbox\npart', stderr: 'err\n', exitCode: 7 });
    expect(await traces()).toEqual([]);
  });

  test('has a pod as those of Kubernetes: ports and ping for users, the names of the host on its network', async () => {
    const setting = '/proc/sys/net/ipv4/ip_unprivileged_port_start';
    expect(await crisp('run', '--rm', image, 'cat', setting)).toMatchObject({ exitCode: 0, stdout: '0\n' });
    expect(await crisp('run', '--rm', '--network', 'host', image, 'cat', '/etc/hosts')).toMatchObject({
      exitCode: 0,
      stdout: await readFile('/etc/hosts', 'utf8'),
    });
  });

  test('one of an older version, which has its pod in the bundle, leaves nothing either', async () => {
    const { stdout } = await crisp('create', image, 'true');
    const memory = join(folder, 'state', 'cli', 'bundles', stdout.trim(), 'pod', 'memory');
    await machine.must(['mkdir', '-p', memory]);
    await machine.must(['mount', '-t', 'tmpfs', 'tmpfs', memory]);
    expect(await crisp('delete', stdout.trim())).toMatchObject({ exitCode: 0 });
    expect(await traces()).toEqual([]);
  });

  test('one that ends before anybody could attach is no failure', async () => {
    for (let time = 0; time < 3; time++)
      expect(await crisp('run', '--rm', '--tty', '--handler', handler, image, 'true')).toEqual({
        stdout: '',
        stderr: '',
        exitCode: 0,
      });
    expect(await traces()).toEqual([]);
  });

  test('open files are limited as they are for who runs it, though Node raises that for itself; --memory has no swap', async () => {
    const swap =
      'cd /sys/fs/cgroup; cat memory/memory.memsw.limit_in_bytes 2>/dev/null || cat memory.swap.max 2>/dev/null || echo none';
    const { stdout, stderr } = await machine.run([
      'sh',
      '-c',
      'ulimit -S -n 1234; exec "$0" "$@"',
      bin,
      ...argv(configFile, 'run', '--rm', '--handler', handler, '--memory', '64m', image).slice(2),
      'sh',
      '-c',
      `ulimit -S -n; ${swap}`,
    ]);
    expect([stderr, stdout]).toEqual(['', expect.stringMatching(/^1234\n(67108864|0|none)\n$/)]);
    expect(await traces()).toEqual([]);
  });

  test('create, start, exec, logs, stop, delete', async () => {
    const { stdout } = await crisp(
      'create',
      '--handler',
      handler,
      '--name',
      'life',
      '--env',
      'A=b c',
      '--user',
      'web:staff',
      image,
      'sh',
      '-c',
      'trap "echo bye; exit 5" TERM; echo $A; id -un; while :; do sleep 0.05; done',
    );
    made.add(stdout.trim());
    expect(await state('life')).toMatchObject({
      id: stdout.trim(),
      status: 'created',
      handler,
      rule: `RuntimeClass handler ${handler}`,
    });
    expect((await crisp('exec', 'life', 'true')).stderr).toMatch(/^crisp exec: WrongContainerState: /);
    expect(await crisp('start', stdout.slice(0, 10))).toMatchObject({ stdout, exitCode: 0 });
    expect(await state('life')).toMatchObject({ status: 'running', pid: expect.any(Number) });
    expect(await crisp('exec', '--env', 'B=2', 'life', 'sh', '-c', 'echo $A $B; id -un; exit 9')).toEqual({
      stdout: 'b c 2\nweb\n',
      stderr: '',
      exitCode: 9,
    });
    expect(await crisp('exec', 'life', 'nosuch')).toMatchObject({
      stdout: '',
      exitCode: 127,
      stderr: expect.stringMatching(/^[^\n]*not found[^\n]*\n$/),
    });
    expect(
      await machine.run([
        'script',
        '-qec',
        argv(configFile, 'exec', '-t', 'life', 'nosuch').join(' '),
        '/dev/null',
      ]),
    ).toMatchObject({
      exitCode: 127,
      stdout: expect.stringMatching(/^crisp exec: StartFailed: [^\n]*nosuch[^\n]*\n$/),
    });
    expect((await crisp('delete', 'life')).stderr).toMatch(/^crisp delete: WrongContainerState: .*--force/);
    expect(await crisp('stop', 'life')).toMatchObject({ exitCode: 0 });
    expect(await state('life')).toMatchObject({ status: 'stopped', exitCode: 5 });
    expect(await crisp('logs', 'life')).toEqual({ stdout: 'b c\nweb\nbye\n', stderr: '', exitCode: 0 });
    expect((await crisp('start', 'life')).stderr).toMatch(/^crisp start: WrongContainerState: /);
    expect(await crisp('delete', 'life')).toMatchObject({ exitCode: 0 });
    expect(await traces()).toEqual([]);
  });

  test('the VOLUMEs of an image are folders of the container, and go with it', async () => {
    const volumes = await makeImageArchive(folder, 'volumes', {
      config: { Volumes: { '/data': {} } },
      files: { 'data/file': 'of the image\n' },
    });
    const id = await start('--handler', handler, volumes, 'sleep', '1000');
    const script = 'cat /data/file; echo mine >/data/file; mount | grep -c " on /data "';
    expect(await crisp('exec', id, 'sh', '-c', script)).toMatchObject({ stdout: 'of the image\n1\n' });
    const own = join(folder, 'root', 'cli', 'containers', id, 'volumes', '0', 'file');
    expect(await readFile(own, 'utf8')).toBe('mine\n');
    expect(await crisp('delete', '--force', id)).toMatchObject({ exitCode: 0 });
    expect(await traces()).toEqual([]);
    expect(await crisp('run', '--rm', '--handler', handler, volumes, 'cat', '/data/file')).toMatchObject({
      stdout: 'of the image\n',
    });
  });

  test('limits and mounts reach the container', async () => {
    await mkdir(join(folder, 'given'), { recursive: true });
    await writeFile(join(folder, 'given', 'file'), 'hello\n');
    const id = await start(
      '--handler',
      handler,
      '--memory',
      '64m',
      '--volume',
      `${join(folder, 'given')}:/mnt:ro`,
      '--workdir',
      '/tmp',
      image,
      'sh',
      '-c',
      'pwd; cat /mnt/file; touch /mnt/x; sleep 1000',
    );
    const [group = ''] = (
      await machine.must([
        'sh',
        '-c',
        `cat /sys/fs/cgroup/memory/crisp-cli/${id}/${id}/memory.limit_in_bytes /sys/fs/cgroup/crisp-cli/${id}/${id}/memory.max 2>/dev/null || true`,
      ])
    ).split('\n');
    expect(Number(group)).toBe(64 << 20);
    await logged(id, 'Read-only');
    expect(await crisp('logs', id)).toMatchObject({
      stdout: '/tmp\nhello\n',
      stderr: expect.stringContaining('Read-only file system'),
    });
    await crisp('delete', '--force', id);
    expect(await traces()).toEqual([]);
  });

  test('is deleted once by several commands at a time', async () => {
    await crisp('run', '--detach', '--name', 'contested', archive, 'sleep', '1000');
    const ended = await Promise.all([1, 2, 3, 4].map(() => crisp('delete', '--force', 'contested')));
    expect(ended.map(({ exitCode }) => exitCode)).toContain(0);
    for (const { stderr } of ended) expect(stderr).not.toMatch(/Internal|StorageFailed/);
    expect(await traces()).toEqual([]);
  });
});

/** Waits until the log has a word. */
async function logged(id: string, word: string): Promise<void> {
  const child = spawn(...split(machine.enter(diesWithUs(argv(configFile, 'logs', '--follow', id)))), {
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  try {
    await new Promise<void>((resolve, reject) => {
      for (const stream of [child.stdout, child.stderr])
        createInterface({ input: stream }).on('line', (line) => {
          if (line.includes(word)) resolve();
        });
      child.once('close', () => reject(new Error(`the log ended without ${word}`)));
    });
  } finally {
    child.kill('SIGKILL');
  }
}
function split([tool = '', ...args]: string[]): [string, string[]] {
  return [tool, args];
}

test('standard input goes through, byte for byte', async () => {
  const { stdout } = await machine.run([
    'sh',
    '-c',
    `head -c 1000000 /dev/urandom > '${folder}/in'; "$@" < '${folder}/in' | cmp - '${folder}/in' && echo same`,
    'sh',
    ...argv(configFile, 'run', '--rm', '--interactive', image, 'cat'),
  ]);
  expect(stdout).toBe('same\n');
});

test('signals go to the container, and its answer is the exit code', async () => {
  const child = spawn(
    ...split(
      machine.enter(
        diesWithUs(
          argv(
            configFile,
            'run',
            '--rm',
            image,
            'sh',
            '-c',
            'trap "echo hup; exit 9" HUP; echo ready; while :; do sleep 0.05; done',
          ),
        ),
      ),
    ),
    { stdio: ['ignore', 'pipe', 'inherit'] },
  );
  const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
  expect((await lines.next()).value).toBe('ready');
  child.kill('SIGHUP');
  expect((await lines.next()).value).toBe('hup');
  const [code] = (await once(child, 'close')) as [number];
  expect(code).toBe(9);
});

test('a signal while a container is being made removes what was made', async () => {
  const child = spawn(
    ...split(machine.enter(diesWithUs(argv(configFile, 'run', '--rm', image, 'sleep', '1000')))),
    { stdio: ['ignore', 'ignore', 'pipe'] },
  );
  const ended = once(child, 'close');
  let words = '';
  child.stderr.on('data', (chunk: Buffer) => {
    words += String(chunk);
  });
  while ((await recorded()).length === 0)
    await new Promise((resolve) => {
      setTimeout(resolve, 2);
    });
  child.kill('SIGTERM');
  expect(await ended).toEqual([125, null]);
  expect(words).toMatch(/^crisp run: Cancelled: interrupted by SIGTERM/);
  expect(await traces()).toEqual([]);
});

test('a terminal: its size, its keys, its exit code', async () => {
  const inner = argv(
    configFile,
    'run',
    '--rm',
    '-it',
    image,
    'sh',
    '-c',
    'read a; stty size; echo "got $a"; exit 4',
  )
    .map((word) => `'${word}'`)
    .join(' ');
  const { stdout, exitCode } = await machine.run([
    'sh',
    '-c',
    `(sleep 2; echo keys; sleep 1) | script -qec "stty rows 33 cols 77; ${inner.replace(/["$]/g, '\\$&')}" /dev/null`,
  ]);
  expect(stdout).toContain('33 77');
  expect(stdout).toContain('got keys');
  expect(exitCode).toBe(4);
});

test('a pipe is no terminal', async () => {
  const id = (await crisp('run', '--detach', image, 'sleep', '1000')).stdout.trim();
  for (const words of [
    ['run', '--rm', '-it', image, 'cat'],
    ['exec', '-it', id, 'cat'],
  ] as const) {
    const [command, ...more] = words;
    const { exitCode, stderr } = await machine.run([
      'sh',
      '-c',
      'echo x | "$@"',
      'sh',
      ...argv(configFile, command, ...more),
    ]);
    expect([exitCode, stderr]).toEqual([2, expect.stringContaining('stdin is not a terminal')]);
  }
});

test('a command that reads no more ends quietly', async () => {
  expect(
    (
      await machine.run([
        'sh',
        '-c',
        '"$@" | head -1',
        'sh',
        ...argv(configFile, 'run', '--rm', image, 'sh', '-c', 'seq 1 20000'),
      ])
    ).stdout,
  ).toBe('1\n');
  const both = await machine.run([
    'bash',
    '-c',
    '"$@" 2>&1 | head -1; exit ${PIPESTATUS[0]}',
    'bash',
    ...argv(configFile, 'run', '--rm', image, 'sh', '-c', 'seq 1 20000 >&2'),
  ]);
  expect(both).toMatchObject({ stdout: '1\n', exitCode: 141 });
});

test('what goes on without end ends with its reader', async () => {
  const id = await start(image, 'sh', '-c', 'while :; do echo tick; sleep 0.05; done');
  const head = (...words: string[]) => machine.run(['sh', '-c', '"$@" | head -1', 'sh', ...words], 20_000);
  expect(await head(...argv(configFile, 'logs', '--follow', id))).toMatchObject({
    stdout: 'tick\n',
    exitCode: 0,
  });
  expect(await head(...argv(configFile, 'exec', id, 'yes'))).toMatchObject({ stdout: 'y\n', exitCode: 0 });
  expect(await head(...argv(configFile, 'run', '--name', 'endless', image, 'yes'))).toMatchObject({
    stdout: 'y\n',
    exitCode: 0,
  });
  expect(await state('endless')).toMatchObject({ status: 'stopped' });
});

describe('kill', () => {
  test('a signal by name, and an unknown one', async () => {
    const id = await start(image, 'sh', '-c', 'trap "exit 6" USR1; echo ready; while :; do sleep 0.05; done');
    await logged(id, 'ready');
    expect(await crisp('kill', '--signal', 'NOPE', id)).toMatchObject({ exitCode: 2 });
    expect(await crisp('kill', '--signal', 'usr1', id)).toMatchObject({ exitCode: 0 });
    expect(await crisp('stop', id)).toMatchObject({ exitCode: 0 });
    expect(await state(id)).toMatchObject({ status: 'stopped', exitCode: 6 });
  });

  test('a process that ignores the stop signal is killed after the grace', async () => {
    const id = await start(image, 'sh', '-c', 'trap "" TERM; echo ready; while :; do sleep 0.05; done');
    await logged(id, 'ready');
    expect(await crisp('stop', '--time', '0.2', id)).toMatchObject({ exitCode: 0 });
    expect(await state(id)).toMatchObject({ status: 'stopped', exitCode: 137 });
  });
});

describe('what cannot be run is refused, with 125 and nothing left', () => {
  test.each<[string, string[], string]>([
    ['an unknown image', ['--pull', 'never', 'nosuch'], 'ImageNotFound: image nosuch is not on this node'],
    ['an archive that is not there', ['./nosuch.tar'], 'ImageNotFound: '],
    ['an unknown handler', ['--handler', 'kata', image], 'UnknownHandler: '],
    ['an unknown user', ['--user', 'nobody', image], 'UserNotFound: '],
    ['a mount source that is not there', ['--volume', '/nosuch:/mnt', image], 'MountSourceMissing: '],
    ['a bad limit', ['--memory', 'much', image], 'InvalidArgument: --memory'],
    ['a bad name', ['--name', '../x', image], 'InvalidArgument: --name'],
    ['a rootfs that is not there', ['--rootfs', '/nosuch', 'true'], 'RootfsMissing: '],
  ])('%s', async (_what, words, complaint) => {
    const { stdout, stderr, exitCode } = await crisp('run', ...words);
    expect({ stdout, exitCode }).toEqual({ stdout: '', exitCode: 125 });
    expect(stderr).toMatch(/^crisp run: /);
    expect(stderr).toContain(complaint);
    expect(stderr.trim().split('\n')).toHaveLength(1);
    expect(await traces()).toEqual([]);
  });

  test.each<[string[]]>([
    [['run']],
    [['run', '--network', 'bridge', image]],
    [['run', '--guest', '--rm', image]],
    [['run', '--nope', image]],
    [['state']],
    [['frobnicate']],
  ])('%j is a wrong command line', async (words) => {
    const { stdout, stderr, exitCode } = await machine.run([process.execPath, bin, ...words]);
    expect({ stdout, exitCode }).toEqual({ stdout: '', exitCode: 2 });
    expect(stderr.trim().split('\n')).toHaveLength(1);
  });

  test('without root, one line says so', async () => {
    expect(await machine.run([...(await crispAs(65534, machine)), 'list'])).toEqual({
      stdout: '',
      exitCode: 1,
      stderr: expect.stringMatching(/^crisp list: PermissionDenied: this requires root[^\n]*\n$/),
    });
  });

  test('a mistake in the configuration is shown with its line', async () => {
    const broken = await configure('broken.yaml', { routing: { rules: [{ pod: '/(/', handler: 'crun' }] } });
    const { stderr, exitCode } = await machine.run(argv(broken, 'list'));
    expect(exitCode).toBe(2);
    expect(stderr).toMatch(/broken\.yaml:\d+: routing\.rules\.0\.pod: Invalid regular expression/);
  });
});

test('the state folder of a later daemon can be traversed by the ids of user namespaces', async () => {
  const { stdout } = await machine.run(['stat', '-c', '%a', join(folder, 'state', 'daemon')]);
  expect(stdout).toBe('711\n');
});

test('a name is taken once, also by two at the same time', async () => {
  const results = await Promise.all(
    [1, 2, 3].map(() => crisp('run', '--detach', '--name', 'only', image, 'sleep', '1000')),
  );
  expect(results.map(({ exitCode }) => exitCode).sort()).toEqual([0, 125, 125]);
  expect(results.filter(({ stderr }) => stderr.includes('NameInUse'))).toHaveLength(2);
  expect(await known()).toMatchObject([{ name: 'only', status: 'running' }]);
});

test('a name is taken by a container that has a record, or gc would free it', async () => {
  const of = (kind: string): string => machine.path(join(folder, 'state', 'cli', kind));
  const withRecord: boolean[] = [];
  const watcher = watch(of('names'), (_event, name) => {
    if (name === 'watched')
      withRecord.push(readdirSync(of('containers')).some((file) => /^[0-9a-f]{64}\.json$/.test(file)));
  });
  try {
    await crisp('create', '--name', 'watched', image, 'true');
  } finally {
    watcher.close();
  }
  expect(withRecord[0]).toBe(true);
});

describe('routing', () => {
  test('by image, by label and by name, and the choice is shown', async () => {
    const routed = await configure('routed.yaml', {
      routing: {
        rules: [
          { labels: { tier: '/back|front/' }, handler: 'runc' },
          { image: 'localhost/*', namespace: 'images', handler: 'runc' },
        ],
        crun_name_patterns: ['named-*'],
      },
      default_container_type: 'runc',
      fallback: {},
    });
    const choice = async (...words: string[]) => {
      const { stdout } = await machine.run(argv(routed, 'run', '--detach', ...words, image, 'true'));
      const { handler, rule } = await state(stdout.trim());
      return { handler, rule };
    };
    expect(await choice('--label', 'tier=back')).toEqual({
      handler: 'runc',
      rule: 'routing.rules[0] (label tier "/back|front/")',
    });
    expect(await choice('--namespace', 'images')).toEqual({
      handler: 'runc',
      rule: 'routing.rules[1] (namespace "images", image "localhost/*")',
    });
    expect(await choice('--name', 'named-1')).toEqual({
      handler: 'crun',
      rule: 'routing.crun_name_patterns named-*',
    });
    expect(await choice()).toEqual({ handler: 'runc', rule: 'default_container_type' });
  });

  test('a crun that is broken gives way to runc, and takes over again when it is mended', async () => {
    const wrapper = join(folder, 'crun-wrapper');
    const breakIt = (broken: boolean) =>
      writeFile(wrapper, `#!/bin/sh\n${broken ? 'echo broken on purpose >&2; exit 1' : 'exec crun "$@"'}\n`);
    await breakIt(true);
    await chmod(wrapper, 0o755);
    const falling = await configure('falling.yaml', { handlers: { crun: { path: wrapper } } });
    const run = (...words: string[]): Promise<Result> =>
      machine.run(argv(falling, 'run', ...words, image, 'true'));
    expect(await run('--name', 'fallen')).toMatchObject({ exitCode: 0, stderr: '' });
    expect(await state('fallen')).toMatchObject({
      handler: 'runc',
      rule: 'default_container_type, with runc as the fallback of crun',
    });
    expect(await run('--handler', 'crun')).toMatchObject({
      exitCode: 125,
      stderr: expect.stringMatching(/HandlerNotReady.*broken on purpose/),
    });
    await breakIt(false);
    expect(await run('--name', 'risen')).toMatchObject({ exitCode: 0 });
    expect(await state('risen')).toMatchObject({ handler: 'crun', rule: 'default_container_type' });
  });
});

describe('bundle', () => {
  test.each(['full', 'minimal'])('%s runs as it is on crun and runc', async (profile) => {
    const bundle = join(folder, `bundle-${profile}`);
    expect(await crisp('bundle', '--profile', profile, image, bundle)).toEqual({
      stdout: '',
      stderr: '',
      exitCode: 0,
    });
    expect(await crisp('bundle', '--validate', bundle)).toMatchObject({ stdout: 'valid\n', exitCode: 0 });
    const config = join(bundle, 'config.json');
    const spec = JSON.parse(await readFile(config, 'utf8')) as { process: { args: string[] } };
    spec.process.args = ['sh', '-c', 'hostname; ls -d /bin; exit 3'];
    await writeFile(config, JSON.stringify(spec));
    for (const runtime of ['crun', 'runc']) {
      const name = `crisp-test-${process.pid}-${profile}`;
      expect(
        await machine.run([
          runtime,
          '--root',
          join(folder, 'state', runtime),
          'run',
          '--bundle',
          bundle,
          name,
        ]),
      ).toMatchObject({ stdout: 'crisp\n/bin\n', exitCode: 3 });
    }
    expect(await crisp('bundle', image, bundle)).toMatchObject({
      exitCode: 1,
      stderr: expect.stringContaining('is not empty'),
    });
    expect(await traces()).toEqual([]);
  });

  test('what is wrong with one is said', async () => {
    const bundle = join(folder, 'bundle-wrong');
    await mkdir(join(bundle, 'rootfs', 'bin'), { recursive: true });
    await writeFile(
      join(bundle, 'config.json'),
      JSON.stringify({
        ociVersion: '1.0.2',
        root: { path: 'rootfs' },
        process: { cwd: '/', args: ['nosuch'], env: ['PATH=/bin'], user: { uid: 0, gid: 0 } },
        mounts: [],
        linux: { namespaces: [{ type: 'pid' }] },
      }),
    );
    const { stdout, exitCode } = await crisp('bundle', '--validate', '--json', bundle);
    expect(exitCode).toBe(1);
    expect(JSON.parse(stdout)).toEqual([
      { path: 'process.args.0', message: expect.stringContaining('nosuch') },
    ]);
  });
});

test('gc removes what has no record, and nothing else', async () => {
  const lost = await start('--name', 'lost', image, 'sleep', '1000');
  const kept = await start('--name', 'kept', image, 'sleep', '1000');
  await machine.must(['rm', join(folder, 'state', 'cli', 'containers', `${lost}.json`)]);
  const looked = JSON.parse((await crisp('gc', '--dry-run', '--json')).stdout) as {
    orphans: { kind: string; name: string }[];
  };
  expect(looked.orphans.map(({ kind }) => kind).sort()).toEqual([
    'bundle',
    'container',
    'log',
    'name',
    'pod folder',
    'rootfs',
  ]);
  expect((await crisp('gc', '--dry-run', '--json')).stdout).toBe(JSON.stringify(looked) + '\n');
  expect(await crisp('gc')).toMatchObject({ exitCode: 0 });
  expect(await crisp('gc')).toMatchObject({ stdout: 'nothing to remove\n' });
  expect((await traces()).filter((path) => path.includes(lost))).toEqual([]);
  expect(await state('kept')).toMatchObject({ id: kept, status: 'running' });
  expect(await crisp('run', '--rm', '--name', 'lost', image, 'true')).toMatchObject({ exitCode: 0 });
});

test('gc ends a container without a record whose handler has a root of its own', async () => {
  const own = await configure('own.yaml', {
    handlers: { own: { type: 'oci', path: '/usr/bin/crun', root: join(folder, 'own-root') } },
  });
  const id = (
    await machine.must(argv(own, 'run', '--detach', '--handler', 'own', image, 'sleep', '1000'))
  ).trim();
  made.add(id);
  const { pid } = JSON.parse(await machine.must(argv(own, 'state', '--json', id))) as Shown;
  await machine.must(['rm', join(folder, 'state', 'cli', 'containers', `${id}.json`)]);
  expect(await machine.run(argv(own, 'gc'))).toMatchObject({
    exitCode: 0,
    stdout: expect.stringContaining(`removed container ${id} (own)\n`),
  });
  expect(await identify(pid ?? 0)).toBeUndefined();
  expect(await traces()).toEqual([]);
});

test('gc lets the view of a bundle that is being written alone', async () => {
  const views = machine.path(join(folder, 'state', 'cli', 'views'));
  for (const pid of [process.pid, 4_194_305]) await mkdir(join(views, `bundle-${pid}`), { recursive: true }); // above the most that pid_max can be
  expect(JSON.parse((await crisp('gc', '--json')).stdout)).toMatchObject({
    orphans: [{ kind: 'image volume', name: 'bundle-4194305' }],
  });
  await rm(join(views, `bundle-${process.pid}`), { recursive: true });
});

describe('the commands that only look', () => {
  test('explain shows the choice, the commands and the spec, and runs nothing', async () => {
    const manifest = join(folder, 'pod.yaml');
    await writeFile(
      manifest,
      stringify({
        apiVersion: 'v1',
        kind: 'Pod',
        metadata: { name: 'web', namespace: 'shop' },
        spec: {
          containers: [
            { name: 'app', image, args: ['ls'], securityContext: { runAsUser: 1000 } },
            { name: 'bad', image, securityContext: { capabilities: { add: ['NOPE'] } } },
          ],
        },
      }),
    );
    const before = await traces();
    const { stdout, exitCode } = await crisp('explain', '--json', manifest);
    expect(exitCode).toBe(1); // one of them would be refused
    const [app, bad] = (JSON.parse(stdout) as { containers: Record<string, unknown>[] }).containers;
    expect(JSON.parse(stdout)).toMatchObject({
      pod: 'shop/web',
      handler: 'crun',
      rule: 'default_container_type',
      fallbacks: ['runc'],
    });
    expect(app).toMatchObject({
      name: 'app',
      spec: { process: { args: ['ls'], user: { uid: 1000 } } },
      commands: [{ what: 'create' }, { what: 'start' }, { what: 'delete' }],
    });
    expect(bad).toMatchObject({
      refused: expect.stringContaining('"NOPE" is not a capability'),
      commands: [],
    });
    expect(await traces()).toEqual(before);
    expect((await crisp('explain', manifest)).stdout).toMatch(/^pod shop\/web\n {2}handler: crun\n/);
  });

  test('explain takes workloads, from stdin too, and says what it leaves out and what would be refused', async () => {
    const manifest = join(folder, 'workload.yaml');
    const template = {
      spec: {
        securityContext: { sysctls: [{ name: 'kernel.panic', value: '1' }] },
        containers: [{ name: 'app', image }],
      },
    };
    await writeFile(
      manifest,
      `${stringify({ kind: 'Service', metadata: { name: 'web' } })}---\n${stringify({ kind: 'Deployment', metadata: { name: 'web', namespace: 'shop' }, spec: { template } })}`,
    );
    const { stdout, exitCode } = await machine.run([
      'sh',
      '-c',
      'file=$1; shift; exec "$@" <"$file"',
      'sh',
      manifest,
      ...argv(configFile, 'explain', '--json', '-'),
    ]);
    expect(JSON.parse(stdout)).toMatchObject({
      pod: 'shop/web-hash-id',
      refused: expect.stringContaining('kernel.panic'),
      notes: ['ignored, since it makes no pod: Service', expect.stringContaining('Deployment web')],
    });
    expect(exitCode).toBe(1);
    await writeFile(manifest, stringify({ kind: 'Service' }));
    expect(await crisp('explain', manifest)).toMatchObject({
      exitCode: 1,
      stderr: expect.stringMatching(/^crisp explain: InvalidArgument: there is no pod in /),
    });
  });

  test('explain shows what a container would be as a Proxmox CT, with no Proxmox here', async () => {
    const manifest = join(folder, 'ct.yaml');
    const config = await configure('ct-config.yaml', {
      handlers: { lxc: { type: 'pct' } },
      lxc: { pool: 'kubernetes' },
    });
    await writeFile(
      manifest,
      stringify({
        apiVersion: 'v1',
        kind: 'Pod',
        metadata: { name: 'web', namespace: 'shop' },
        spec: {
          runtimeClassName: 'lxc',
          containers: [
            {
              name: 'app',
              image,
              command: ['sh', '-c', 'echo "$A"'],
              env: [{ name: 'A', value: 'b' }],
              resources: { limits: { memory: '64Mi' } },
            },
          ],
        },
      }),
    );
    const { stdout } = await machine.run(argv(config, 'explain', '--json', manifest));
    const {
      handler,
      containers: [app],
    } = JSON.parse(stdout) as {
      handler: string;
      containers: { commands: { argv: string[] }[]; files: { path: string; text: string }[] }[];
    };
    expect(handler).toBe('lxc');
    expect(app?.commands[0]?.argv.join(' ')).toMatch(
      /^pct create VMID \S+ --rootfs .*--unprivileged 1 --hostname web-app --memory 64 .*--tags crisp;shop .*--pool kubernetes$/s,
    );
    expect(app?.files.map(({ path }) => path.replace(/.*\//, ''))).toEqual(['lxc.conf', 'crisp.conf']);
    expect(app?.files.map(({ text }) => text).join()).toMatch(
      /lxc\.environment\.runtime = A=b\n[^]*"--" "sh" "-c" "echo \\"\$A\\""/,
    );
  });

  test('check finds the handlers and says so to machines', async () => {
    const { stdout } = await crisp('check', '--json');
    const { checks } = JSON.parse(stdout) as {
      checks: { id: string; findings: { level: string; message: string }[] }[];
    };
    expect(checks.find(({ id }) => id === 'handlers')?.findings).toMatchObject([
      { level: 'ok', message: expect.stringMatching(/^crun: /) },
      { level: 'ok', message: expect.stringMatching(/^runc: /) },
    ]);
    expect(checks.find(({ id }) => id === 'storage.overlay')?.findings).toMatchObject([{ level: 'ok' }]);
  });

  test('version answers at once, in one line', async () => {
    expect((await machine.run([process.execPath, bin, 'version'])).stdout).toMatch(
      /^crisp \d+\.\d+\.\d+( \(commit [0-9a-f]{12}\))?, Node v\d+/,
    );
    expect(
      JSON.parse((await machine.run([process.execPath, bin, 'version', '--json'])).stdout),
    ).toMatchObject({ crisp: expect.any(String), node: process.version });
  });

  test('status without a daemon says so', async () => {
    expect(
      await machine.run([process.execPath, bin, 'status', '--listen', `unix://${folder}/none.sock`]),
    ).toMatchObject({
      exitCode: 1,
      stdout: '',
      stderr: expect.stringMatching(/^crisp status: DaemonUnreachable: .*socket does not exist/),
    });
  });
});
