// The command line on CTs, beside a daemon with CTs: on the same node with the same
// range of VMIDs and tag, each handles only its own.
import { afterAll, afterEach, beforeAll, describe, expect, test } from '@jest/globals';
import { execFile, spawn } from 'node:child_process';
import { randomInt } from 'node:crypto';
import { once } from 'node:events';
import {
  access,
  copyFile,
  mkdir,
  mkdtemp,
  readdir,
  readFile,
  rm,
  symlink,
  writeFile,
} from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { parse, stringify } from 'yaml';
import { crisp as bin, type Daemon } from '../helpers/daemon.js';
import { makeImageArchive } from '../helpers/image.js';
import { diesWithUs, type Result } from '../helpers/machine.js';
import { patience } from '../helpers/patience.js';
import {
  containerConfig,
  createContainer,
  removePod,
  runPod,
  startContainer,
  untilStopped,
} from '../helpers/requests.js';
import { addBridge, isReal, Node } from './node.js';
import { until } from '../helpers/wait.js';

// A real node does not fail on request.
const testFake = isReal ? test.skip : test;
const runFile = promisify(execFile);
const image = 'busybox:1';
let node: Node;
let bridge: Awaited<ReturnType<typeof addBridge>>;
let daemon: Daemon;
/** The state folder of the command line. */
let state: string;
let root: string;
beforeAll(async () => {
  bridge = await addBridge('198.18.78.1/24');
  [node, daemon] = await Node.withDaemon(
    { bridge: { name: bridge.name } },
    { allowed_annotations: ['io.crisp.lxc.*'] },
  );
  state = join(daemon.folder, 'cli');
  root = join(daemon.root, 'cli');
  expect(await crisp('run', '--rm', '--handler', 'lxc', image, 'true')).toEqual({
    stdout: '',
    stderr: '',
    exitCode: 0,
  }); // with the probe
});
afterEach(async () => {
  const left = (await crisp('list', '--quiet')).stdout.split('\n').filter(Boolean);
  if (left.length) await crisp('delete', '--force', ...left);
});
afterAll(async () => {
  await node?.stop();
  await bridge?.remove();
});

function argv(command: string, ...words: string[]): string[] {
  return [process.execPath, bin, command, '--config', daemon.configFile, '--state', state, ...words];
}
async function crisp(command: string, ...words: string[]): Promise<Result> {
  return daemon.machine.run(argv(command, ...words), 60_000 * patience);
}
async function run(...words: string[]): Promise<string> {
  const { stdout, stderr, exitCode } = await crisp('run', '--detach', '--handler', 'lxc', ...words);
  expect({ stderr, exitCode }).toEqual({ stderr: '', exitCode: 0 });
  return stdout.trim();
}
interface Shown {
  id: string;
  status: string;
  handler: string;
  rule: string;
  exitCode?: number;
  notHonoured: string[];
  addresses?: string[];
}
async function shown(name: string): Promise<Shown> {
  return JSON.parse((await crisp('state', '--json', name)).stdout) as Shown;
}
/** What standalone containers have on the machine. */
async function traces(): Promise<string[]> {
  const inside = async (path: string): Promise<string[]> =>
    (await readdir(daemon.machine.path(path)).catch(() => [])).map((name) => join(path, name));
  return [
    ...(
      await Promise.all(
        ['containers', 'names', 'bundles', 'pods', 'roots', 'shifted', 'views', 'exits/lxc'].map((name) =>
          inside(join(state, name)),
        ),
      )
    ).flat(),
    ...(await Promise.all(['containers', 'logs'].map((name) => inside(join(root, name))))).flat(),
    ...(await inside(join(daemon.root, 'archives'))).filter((path) => path.includes('making')),
    ...(await inside(join(state, 'probe'))).filter((path) => !path.endsWith('/crun')),
    ...(await node.guests()),
    ...(await node.remains()),
    ...(await daemon.traces()).filter((line) => /^(mount|process|cgroup|veth) /.test(line)),
  ].sort();
}

test('the VOLUMEs of an image are folders of the container, and are removed with it', async () => {
  const volumes = await makeImageArchive(daemon.folder, 'volumes', {
    config: { Volumes: { '/data': {} } },
    files: { 'data/file': 'of the image\n' },
  });
  for (const time of ['first', 'second'])
    expect(
      await crisp(
        'run',
        '--rm',
        '--handler',
        'lxc',
        '--name',
        time,
        volumes,
        'sh',
        '-c',
        'cat /data/file; echo mine >/data/file && mount | grep -c " on /data "',
      ),
    ).toMatchObject({ exitCode: 0, stdout: 'of the image\n1\n' });
  expect(await traces()).toEqual([]);
});

test('run shows both outputs, exits with the exit code, and leaves nothing behind', async () => {
  expect(await traces()).toEqual([]);
  expect(
    await crisp(
      'run',
      '--rm',
      '--handler',
      'lxc',
      '--name',
      'box',
      '--env',
      'A=b c',
      image,
      'sh',
      '-c',
      'echo $A; hostname; ls /sys/class/net; id -u; cat /proc/self/uid_map; echo err >&2; printf part; exit 7',
    ),
  ).toEqual({
    stdout: expect.stringMatching(/^b c\nbox\nlo\n0\n +0 +100000 +65536\npart$/),
    stderr: 'err\n',
    exitCode: 7,
  });
  expect(await traces()).toEqual([]);
});

test('create, start, exec, kill, logs, stop, list, state, delete', async () => {
  const { stdout } = await crisp(
    'create',
    '--handler',
    'lxc',
    '--name',
    'life',
    image,
    'sh',
    '-c',
    `trap "echo hup" HUP; echo up; ${untilStopped(5)}`,
  );
  const id = stdout.trim();
  expect(await shown('life')).toMatchObject({
    id,
    status: 'created',
    handler: 'lxc',
    rule: 'RuntimeClass handler lxc',
    notHonoured: expect.arrayContaining(['spec.linux.seccomp']),
  });
  expect(await node.guestOf(id)).toMatch(/^#Container life, of no pod {2}$/m);
  expect(await crisp('start', 'life')).toMatchObject({ stdout, exitCode: 0 });
  expect(await shown('life')).toMatchObject({ status: 'running', pid: expect.any(Number) });
  expect(await crisp('exec', '--env', 'B=2', 'life', 'sh', '-c', 'echo $B; exit 9')).toEqual({
    stdout: '2\n',
    stderr: '',
    exitCode: 9,
  });
  await until(async () => (await crisp('logs', 'life')).stdout.includes('up'));
  expect(await crisp('kill', '--signal', 'HUP', 'life')).toMatchObject({ exitCode: 0 });
  await until(async () => (await crisp('logs', 'life')).stdout.includes('hup'));
  expect((await crisp('list')).stdout).toMatch(/life +running +lxc /);
  expect((await crisp('delete', 'life')).stderr).toMatch(/^crisp delete: WrongContainerState: /);
  expect(await crisp('stop', 'life')).toMatchObject({ exitCode: 0 });
  expect(await shown('life')).toMatchObject({ status: 'stopped', exitCode: 5 });
  expect(await crisp('delete', 'life')).toMatchObject({ exitCode: 0 });
  expect(await traces()).toEqual([]);
});

test('a container that ignores its stop signal is killed after the timeout, one that was never started at once', async () => {
  const deaf = await run(image, 'sh', '-c', 'trap "" TERM; echo up; while :; do sleep 1; done');
  await until(async () => (await crisp('logs', deaf)).stdout.includes('up'));
  expect(await crisp('stop', '--time', '0.5', deaf)).toMatchObject({ exitCode: 0 });
  expect(await shown(deaf)).toMatchObject({ status: 'stopped', exitCode: 137 });
  const { stdout: idle } = await crisp('create', '--handler', 'lxc', image, 'true');
  expect(await crisp('stop', idle.trim())).toMatchObject({ exitCode: 0 });
  expect(await shown(idle.trim())).toMatchObject({ status: 'stopped', exitCode: 137 });
});

test('a signal to all processes is sent as it is, and is not a kill', async () => {
  const id = await run(
    image,
    'sh',
    '-c',
    `trap "echo first" USR1; sh -c 'trap "echo second" USR1; echo up; while :; do sleep 0.1; done' & while :; do sleep 0.1; done`,
  );
  await until(async () => (await crisp('logs', id)).stdout.includes('up'));
  expect(await crisp('kill', '--all', '--signal', 'WINCH', id)).toMatchObject({ exitCode: 0 });
  expect(await crisp('kill', '--all', '--signal', 'USR1', id)).toMatchObject({ exitCode: 0 });
  await until(
    async () =>
      /first/.test((await crisp('logs', id)).stdout) && /second/.test((await crisp('logs', id)).stdout),
  );
  expect(await shown(id)).toMatchObject({ status: 'running' });
  expect(await crisp('kill', '--all', id)).toMatchObject({ exitCode: 0 });
  await until(async () => (await shown(id)).status === 'stopped');
  expect(await shown(id)).toMatchObject({ exitCode: 137 });
});

test('its exit is known even if no process waited for it', async () => {
  const id = await run(image, 'sh', '-c', 'sleep 1; echo late; exit 3');
  await until(async () => (await shown(id)).status === 'stopped');
  expect(await shown(id)).toMatchObject({ exitCode: 3 });
  expect((await crisp('logs', id)).stdout).toBe('late\n');
});

test('input, signals and a terminal reach it', async () => {
  const { stdout } = await daemon.machine.run([
    'sh',
    '-c',
    `head -c 300000 /dev/urandom > '${daemon.folder}/in'; "$@" < '${daemon.folder}/in' | cmp - '${daemon.folder}/in' && echo same`,
    'sh',
    ...argv('run', '--rm', '--interactive', '--handler', 'lxc', image, 'cat'),
  ]);
  expect(stdout).toBe('same\n');
  const child = background(
    'run',
    '--rm',
    '--handler',
    'lxc',
    image,
    'sh',
    '-c',
    'trap "exit 9" HUP; echo ready; while :; do sleep 0.05; done',
  );
  await once(child.stdout, 'data');
  child.kill('SIGHUP');
  expect(await once(child, 'close')).toEqual([9, null]);
  const inner = argv(
    'run',
    '--rm',
    '-it',
    '--handler',
    'lxc',
    image,
    'sh',
    '-c',
    'read a; stty size; echo "got $a"; exit 4',
  )
    .map((word) => `'${word}'`)
    .join(' ');
  const typed = await daemon.machine.run([
    'sh',
    '-c',
    `(sleep ${4 * patience}; echo keys; sleep 1) | script -qec "stty rows 33 cols 77; ${inner.replace(/["$]/g, '\\$&')}" /dev/null`,
  ]);
  expect(typed).toMatchObject({ stdout: expect.stringMatching(/33 77[^]*got keys/), exitCode: 4 });
  expect(await traces()).toEqual([]);
});
function background(command: string, ...words: string[]) {
  const [tool = '', ...args] = daemon.machine.enter(diesWithUs(argv(command, ...words)));
  return spawn(tool, args, { stdio: ['ignore', 'pipe', 'pipe'] });
}

test('a rule and the default choose CTs, and a broken one is replaced if a fallback is configured', async () => {
  const config = parse(await readFile(daemon.configFile, 'utf8')) as { lxc: { tools?: object } };
  const choice = async (name: string, more: object, ...words: string[]) => {
    const file = join(await mkdtemp(join(daemon.folder, 'choice-')), 'config.yaml');
    await writeFile(file, stringify({ ...config, ...more }));
    const result = await daemon.machine.run([
      process.execPath,
      bin,
      'run',
      '--config',
      file,
      '--state',
      state,
      '--name',
      name,
      ...words,
      image,
      'true',
    ]);
    expect(result).toEqual({ stdout: '', stderr: '', exitCode: 0 });
    return shown(name);
  };
  expect(
    await choice(
      'by-rule',
      { routing: { rules: [{ labels: { kind: 'guest' }, handler: 'lxc' }] } },
      '--label',
      'kind=guest',
    ),
  ).toMatchObject({ handler: 'lxc', rule: 'routing.rules[0] (label kind "guest")', exitCode: 0 });
  expect(await choice('by-default', { default_container_type: 'lxc' })).toMatchObject({
    handler: 'lxc',
    rule: 'default_container_type',
  });
  const broken = { ...config.lxc, tools: { ...config.lxc.tools, pct: '/bin/false' } };
  expect(
    await choice('fallen', { lxc: broken, default_container_type: 'lxc', fallback: { lxc: 'crun' } }),
  ).toMatchObject({ handler: 'crun', rule: 'default_container_type, with crun as the fallback of lxc' });
});

test("its network: none, the host's, or a bridge of the node", async () => {
  expect(
    (
      await crisp('run', '--rm', '--handler', 'lxc', '--network', 'host', image, 'ls', '/sys/class/net')
    ).stdout.split('\n'),
  ).toContain(bridge.name);
  const on = ['network=bridge', 'address=198.18.78.5/24', 'gateway=198.18.78.1'].flatMap((choice) => [
    '--annotation',
    `io.crisp.lxc.${choice}`,
  ]);
  const id = await run(...on, image, 'sh', '-c', `httpd -p 8080 -h /etc; ${untilStopped()}`);
  expect(await shown(id)).toMatchObject({ status: 'running', addresses: ['198.18.78.5'] });
  await until(
    async () =>
      await runFile('curl', ['--silent', '--max-time', '5', 'http://198.18.78.5:8080/hostname']).then(
        ({ stdout }) => stdout === `${id.slice(0, 12)}\n`,
        () => false,
      ),
  );
  for (const network of ['none', 'host']) {
    const { stdout } = await crisp('create', '--handler', 'lxc', ...on, '--network', network, image, 'true');
    expect(await node.guestOf(stdout.trim())).not.toMatch(/^net0/m);
  }
});

test('root owns a volume of the host in it, and limits apply', async () => {
  const given = join(daemon.folder, 'given');
  await mkdir(given);
  await writeFile(join(given, 'file'), 'hello\n');
  expect(
    await crisp(
      'run',
      '--rm',
      '--handler',
      'lxc',
      '--memory',
      '64m',
      '--volume',
      `${given}:/mnt`,
      '--workdir',
      '/mnt',
      image,
      'sh',
      '-c',
      'cat file; stat -c %u file; echo new > made',
    ),
  ).toEqual({ stdout: 'hello\n0\n', stderr: '', exitCode: 0 });
  expect(await readFile(join(given, 'made'), 'utf8')).toBe('new\n');
  const { stdout } = await crisp('create', '--handler', 'lxc', '--memory', '64m', image, 'true');
  expect(await node.guestOf(stdout.trim())).toMatch(/^memory: 64$/m);
});

test('a volume of its own, with a copy of the image', async () => {
  const volume = [
    '--annotation',
    `io.crisp.lxc.storage=${await node.storage()}`,
    '--annotation',
    'io.crisp.lxc.size-gib=1',
  ];
  expect(
    await crisp(
      'run',
      '--rm',
      '--handler',
      'lxc',
      ...volume,
      image,
      'sh',
      '-c',
      'echo new >/file; cat /file',
    ),
  ).toEqual({ stdout: 'new\n', stderr: '', exitCode: 0 });
  expect(await node.volumes()).toEqual([]);
  expect(await traces()).toEqual([]);
});

test('a template of Proxmox that was not pulled', async () => {
  const name = 'crisp-cli-1_amd64.tar';
  const guest = join(node.folder, 'guest');
  for (const folder of ['bin', 'sbin', 'etc', 'proc', 'sys', 'dev', 'run', 'tmp'])
    await mkdir(join(guest, folder), { recursive: true });
  await copyFile('/bin/busybox', join(guest, 'bin/busybox'));
  for (const tool of ['sh', 'cat', 'sleep']) await symlink('busybox', join(guest, 'bin', tool));
  await writeFile(join(guest, 'etc/os-release'), 'ID=alpine\n');
  await writeFile(
    join(guest, 'sbin/init'),
    "#!/bin/sh\necho booted\ntrap 'exit 5' 37\nwhile :; do sleep 1000 & wait $!; done\n",
    { mode: 0o755 },
  );
  const path = await node.templatePath(name);
  await runFile('tar', ['--create', '--file', path, '--owner=0', '--group=0', '--directory', guest, '.']);
  try {
    expect(await crisp('run', '--handler', 'lxc', 'pve/local:vztmpl/other.tar')).toMatchObject({
      exitCode: 125,
      stderr: expect.stringMatching(/^crisp run: NotFoundInRegistry: .*other\.tar/),
    });
    expect((await crisp('run', '--handler', 'lxc', `pve/local:vztmpl/${name}`)).stderr).toMatch(
      /^crisp run: InvalidArgument: .*needs a volume/,
    );
    const id = await run(
      '--annotation',
      `io.crisp.lxc.storage=${await node.storage()}`,
      '--annotation',
      'io.crisp.lxc.size-gib=1',
      `pve/local:vztmpl/${name}`,
    );
    await until(async () => (await crisp('logs', id)).stdout.includes('booted'));
    expect(await crisp('exec', id, 'cat', '/etc/os-release')).toMatchObject({ stdout: 'ID=alpine\n' });
    expect(await crisp('stop', id)).toMatchObject({ exitCode: 0 });
    expect(await shown(id)).toMatchObject({ exitCode: 5 });
    await crisp('delete', id);
    await access(path);
    expect(await traces()).toEqual([]);
  } finally {
    await rm(path);
  }
});

describe('an ordinary guest of Proxmox', () => {
  // Its id is the next that is free, and not one of the tests'.
  testFake('stays independent: Proxmox stops, starts and removes it, and crisp forgets it', async () => {
    const config = parse(await readFile(daemon.configFile, 'utf8')) as { lxc: object };
    const file = join(await mkdtemp(join(daemon.folder, 'guest-')), 'config.yaml');
    await writeFile(file, stringify({ ...config, lxc: { ...config.lxc, unprivileged: false } })); // the other kind starts with ids of the machine
    await writeFile(join(node.folder, 'next-id'), String(randomInt(1_000, 800_000))); // the control group of a CT is called after its id, and is no other test's
    const pct = (...args: string[]): Promise<Result> =>
      daemon.machine.run([join(node.folder, 'bin/pct'), ...args]);
    const words = [
      ...['--handler', 'lxc', '--name', 'web', '--env', 'A=b c', '--memory', '64m'],
      ...[`storage=${await node.storage()}`, 'size-gib=1', 'address=198.18.78.6/24'].flatMap((choice) => [
        '--annotation',
        `io.crisp.lxc.${choice}`,
      ]),
    ];
    const { stdout, stderr, exitCode } = await daemon.machine.run(
      [
        ...[process.execPath, bin, 'run', '--config', file, '--state', state, '--guest'],
        ...[...words, image, '/bin/sleep', '1000'],
      ],
      60_000 * patience,
    );
    expect({ stderr, exitCode }).toEqual({ stderr: '', exitCode: 0 });
    const vmid = stdout.trim();
    try {
      const text = await readFile(join(node.folder, `pve/lxc/${vmid}.conf`), 'utf8');
      expect(text).toMatch(/^entrypoint: \/bin\/sleep 1000$/m);
      expect(text).toMatch(/^lxc\.environment(\.runtime)?: A=b c$/m);
      expect(text).toMatch(/^memory: 64$/m);
      expect(text).toMatch(new RegExp(`^net0: name=eth0,bridge=${bridge.name},.*ip=198.18.78.6/24`, 'm'));
      expect(text).not.toMatch(/crisp-(owner|container)|lxc\.include|^tags|^onboot: 0/m);
      expect(await crisp('list', '--quiet')).toMatchObject({ stdout: '' });
      expect((await daemon.machine.run(argv('gc', '--json'))).stdout).toContain('"orphans":[]');
      expect((await traces()).filter((line) => !line.endsWith(`/${vmid}`))).toEqual([]);
      for (const verb of ['stop', 'start']) expect(await pct(verb, vmid)).toMatchObject({ exitCode: 0 });
      expect(await pct('exec', vmid, '--keep-env', '0', '--', '/bin/hostname')).toMatchObject({
        stdout: 'web\n',
      });
    } finally {
      await pct('destroy', vmid, '--force', '1');
    }
  });

  test.each<[string, string[], RegExp]>([
    ['with a folder of the host', ['--volume', '/srv:/srv', image], /no --volume/],
    ['that is deleted when it ends', ['--rm', image], /without --rm/],
    ['of another handler', ['--handler', 'crun', image], /crun makes no guests of Proxmox/],
    ['without a storage', [image, 'true'], /no storage is named/],
    ['on a folder', ['--annotation', 'io.crisp.lxc.storage=/srv', image], /name of a storage/],
  ])('%s is refused, and leaves nothing behind', async (_, words, complaint) => {
    const { stdout, stderr, exitCode } = await crisp('run', '--guest', '--handler', 'lxc', ...words);
    expect([stdout, exitCode === 0]).toEqual(['', false]);
    expect(stderr).toMatch(complaint);
    expect(await traces()).toEqual([]);
  });
});

describe('a failed creation leaves nothing behind', () => {
  testFake.each<[string, string, RegExp]>([
    [
      'create',
      "unable to create CT 1 - command 'tar' failed: write error: No space left on device",
      /^crisp run: DiskFull: /,
    ],
    ['start', "startup for container '1' failed", /^crisp run: StartFailed: /],
  ])('pct %s that fails', async (verb, stderr, complaint) => {
    const wish = join(node.folder, 'fail', verb);
    await writeFile(wish, JSON.stringify({ stderr: `${stderr}\n` }));
    try {
      const result = await crisp('run', '--handler', 'lxc', image, 'true');
      expect(result).toMatchObject({ stdout: '', exitCode: 125, stderr: expect.stringMatching(complaint) });
      expect(result.stderr.trim().split('\n')).toHaveLength(1);
    } finally {
      await rm(wish);
    }
    expect(await traces()).toEqual([]);
  });

  test.each<[string, string[], RegExp]>([
    [
      'a folder as rootfs',
      ['--rootfs', '/', 'true'],
      /^crisp run: Unsupported: handler lxc cannot run a folder/,
    ],
    [
      'an invalid annotation',
      ['--annotation', 'io.crisp.lxc.vlan=x', image],
      /^crisp run: InvalidArgument: annotation io\.crisp\.lxc\.vlan/,
    ],
    ['an unknown user', ['--user', 'nosuch', image, 'true'], /^crisp run: UserNotFound: /],
  ])('%s', async (_what, words, complaint) => {
    expect(await crisp('run', '--handler', 'lxc', ...words)).toMatchObject({
      stdout: '',
      exitCode: 125,
      stderr: expect.stringMatching(complaint),
    });
    expect(await traces()).toEqual([]);
  });

  test.each(['SIGINT', 'SIGTERM'] as const)('%s during the creation', async (signal) => {
    const child = background('run', '--handler', 'lxc', image, 'sleep', '1000');
    const words: string[] = [];
    child.stderr.on('data', (chunk: Buffer) => words.push(String(chunk)));
    await until(async () => (await node.guests()).length > 0);
    child.kill(signal);
    expect(await once(child, 'close')).toEqual([125, null]);
    expect(words.join('')).toMatch(new RegExp(`^crisp run: Cancelled: interrupted by ${signal}`));
    expect(await traces()).toEqual([]);
  });

  test('a signal during the first probe', async () => {
    await rm(join(state, 'probed'), { recursive: true });
    const child = background('run', '--handler', 'lxc', image, 'sleep', '1000');
    await until(async () => (await node.guests()).length > 0);
    child.kill('SIGTERM');
    expect(await once(child, 'close')).toEqual([125, null]);
    expect(await traces()).toEqual([]);
  });
});

describe('beside the daemon', () => {
  test('each lists and changes only its own, also through a restart of the daemon and a crisp gc', async () => {
    const before = await daemon.traces();
    const pod = await runPod(daemon, {}, 'lxc');
    const theirs = await startContainer(daemon, pod, containerConfig(untilStopped()));
    const idle = await createContainer(
      daemon,
      pod,
      containerConfig('true', { metadata: { name: 'idle', attempt: 0 } }),
    );
    const ours = await run('--name', 'ours', image, 'sh', '-c', `echo up; ${untilStopped(5)}`);
    const { stdout } = await crisp('create', '--handler', 'lxc', '--name', 'waiting', image, 'true');
    const waiting = stdout.trim();
    const all = (await node.guests()).sort();
    expect(all).toHaveLength(4);
    const texts = await Promise.all(all.map((name) => node.guest(name)));

    expect((await daemon.client.runtime.ListContainers({})).containers.map(({ id }) => id).sort()).toEqual(
      [theirs, idle].sort(),
    );
    expect((await crisp('list', '--quiet')).stdout.split('\n').filter(Boolean).sort()).toEqual(
      [ours, waiting].sort(),
    );
    expect((await crisp('delete', '--force', theirs)).stderr).toMatch(/^crisp delete: ContainerNotFound: /);

    for (const restart of [
      () => daemon.restart(),
      async () => {
        await daemon.kill9();
        await daemon.start();
      },
    ]) {
      await restart();
      expect(await gc()).toEqual([]);
      expect((await node.guests()).sort()).toEqual(all);
      expect(await Promise.all(all.map((name) => node.guest(name)))).toEqual(texts);
    }
    expect(await shown('ours')).toMatchObject({ status: 'running' });
    expect((await daemon.client.runtime.ContainerStatus({ container_id: theirs })).status).toMatchObject({
      state: 'CONTAINER_RUNNING',
    });

    // The removal by one must not affect the other.
    await removePod(daemon, pod.id);
    expect(await shown('ours')).toMatchObject({ status: 'running' });
    expect(await node.guests()).toHaveLength(2);
    expect(await crisp('start', 'waiting')).toMatchObject({ exitCode: 0 });
    expect(await crisp('stop', 'ours')).toMatchObject({ exitCode: 0 });
    expect(await shown('ours')).toMatchObject({ exitCode: 5 });
    await crisp('delete', '--force', 'ours', 'waiting');
    expect(await traces()).toEqual([]);
    expect((await daemon.traces()).filter((line) => !line.includes(state))).toEqual(
      before.filter((line) => !line.includes(state)),
    );
  });

  test('the daemon that has lost its state reclaims its pod, and no standalone CT', async () => {
    const pod = await runPod(daemon, {}, 'lxc');
    const theirs = await startContainer(daemon, pod, containerConfig(untilStopped()));
    const ours = await run(image, 'sh', '-c', untilStopped());
    await daemon.kill9();
    await daemon.loseState();
    expect(await gc()).toEqual([]); // the pod that the daemon will take back is no orphan yet
    await daemon.start();
    expect(
      (await daemon.client.runtime.ListContainers({})).containers.map(({ id, state: now }) => [id, now]),
    ).toEqual([[theirs, 'CONTAINER_RUNNING']]);
    expect(await shown(ours)).toMatchObject({ status: 'running' });
    await removePod(daemon, pod.id);
    expect(await shown(ours)).toMatchObject({ status: 'running' });
  });

  test('gc removes only CTs of ours without a record, and those of probes whose process is gone', async () => {
    const pod = await runPod(daemon, {}, 'lxc');
    const theirs = await startContainer(daemon, pod, containerConfig(untilStopped()));
    const kept = await run('--name', 'kept', image, 'sh', '-c', untilStopped());
    const lost = await run('--name', 'lost', image, 'sh', '-c', untilStopped());
    await rm(join(state, 'containers', `${lost}.json`));
    expect((await gc('--dry-run')).filter(({ kind }) => kind === 'container')).toEqual([
      { kind: 'container', name: `${lost} (lxc)` },
    ]);
    expect((await gc()).map(({ kind }) => kind).sort()).toEqual([
      'bundle',
      'container',
      'log',
      'name',
      'pod folder',
      'rootfs',
    ]);
    expect(await gc()).toEqual([]);
    expect(await node.guests()).toHaveLength(2);
    expect(await shown(kept)).toMatchObject({ status: 'running' });
    expect((await daemon.client.runtime.ContainerStatus({ container_id: theirs })).status).toMatchObject({
      state: 'CONTAINER_RUNNING',
    });

    // A probe that was killed.
    await rm(join(state, 'probed'), { recursive: true });
    const child = background('run', '--handler', 'lxc', image, 'true');
    await until(async () =>
      (await Promise.all((await node.guests()).map((name) => node.guest(name)))).some(
        (text) => text.includes('crisp-probe-lxc-') && text.includes('lxc.include'),
      ),
    );
    child.kill('SIGKILL');
    await once(child, 'close');
    await until(async () => (await gc()).some(({ name }) => name.startsWith('crisp-probe-lxc-')));
    expect(await node.guests()).toHaveLength(2);
    await until(async () => (await gc()).length === 0); // its bundle is an orphan once its CT is gone
    await daemon.machine.run([
      'sh',
      '-c',
      `findmnt -rno TARGET | grep '^${state}/probe/' | tac | xargs -r umount -l; rm -r '${state}/probe'`,
    ]);
    await removePod(daemon, pod.id);
  });

  async function gc(...words: string[]): Promise<{ kind: string; name: string }[]> {
    const { stdout, stderr, exitCode } = await daemon.machine.run(argv('gc', '--json', ...words));
    expect({ stderr, exitCode }).toEqual({ stderr: '', exitCode: 0 });
    return (JSON.parse(stdout) as { orphans: { kind: string; name: string }[] }).orphans;
  }
});
