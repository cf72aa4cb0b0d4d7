// The advice of the command line, followed: each mistake is made, what its hint says
// is done as it stands, and then the same command works. And no mistake of a person is
// "Internal", which asks for a report.
import { afterAll, afterEach, beforeAll, describe, expect, test } from '@jest/globals';
import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { crisp as bin, crispAs, startDaemon, type Daemon } from '../helpers/daemon.js';
import { hintPattern } from '../helpers/hints.js';
import { makeImageArchive } from '../helpers/image.js';
import type { Result } from '../helpers/machine.js';

const image = 'localhost/box';
let daemon: Daemon;
let archive: string;

beforeAll(async () => {
  daemon = await startDaemon();
  await daemon.stop();
  await configure({});
  archive = await makeImageArchive(daemon.folder, 'box');
  expect(await crisp(['load', archive])).toMatchObject({ exitCode: 0 });
});
afterAll(() => daemon?.destroy());

function configure(more: Readonly<Record<string, unknown>>): Promise<void> {
  return daemon.writeConfig({ cli_state: join(daemon.folder, 'cli'), ...more });
}

function crisp([command = '', ...words]: readonly string[]): Promise<Result> {
  // As a person runs it: Node itself would take --env-file out of the arguments.
  return daemon.machine.run([bin, command, '--config', daemon.configFile, ...words]);
}

interface Mistake {
  readonly before?: readonly (readonly string[])[];
  readonly command: readonly string[];
  /** As in the source, with NAME for a value. */
  readonly hint: string;
  /** Does what the hint says; absent: its first command in backticks is run as it stands. */
  readonly follow?: (hint: string) => Promise<unknown>;
  /** What works then; absent: the command itself. */
  readonly then?: readonly string[];
}

const named = ['run', '-d', '--name', 'web', image, 'sleep', '1000'];
const mistakes: Readonly<Record<string, Mistake>> = {
  'exec on a container that is not started': {
    before: [['create', '--name', 'web', image, 'sleep', '1000']],
    command: ['exec', 'web', 'true'],
    hint: 'start it with `crisp start NAME`',
  },
  'a name that is in use': {
    before: [['create', '--name', 'web', image, 'true']],
    command: ['create', '--name', 'web', image, 'true'],
    hint: 'remove it with `crisp delete NAME`, or choose another name',
  },
  'a container that runs is deleted': {
    before: [named],
    command: ['delete', 'web'],
    hint: 'stop it first (`crisp stop NAME`), or delete it with --force',
  },
  'a container that has ended is started': {
    before: [named, ['stop', '-t', '0', 'web']],
    command: ['start', 'web'],
    hint: 'a container runs once; make another with `crisp create`',
    follow: () => crisp(['create', '--name', 'other', image, 'sleep', '1000']),
    then: ['start', 'other'],
  },
  'no such container': {
    before: [named],
    command: ['stop', '-t', '0', 'wbe'],
    hint: 'list them with `crisp list`; containers of pods are listed by `crictl ps -a`',
    then: ['stop', '-t', '0', 'web'],
  },
  'an image that is not here': {
    command: ['rmi', 'box'],
    hint: '`crisp images` lists the images of this node',
    then: ['run', '--rm', image, 'true'],
  },
  'an image that is not to be pulled': {
    command: ['run', '--rm', '--pull', 'never', 'nosuch', 'true'],
    hint: 'pull it with `crisp pull NAME`, or name an archive: ./FILE.tar',
    follow: async () => undefined,
    then: ['run', '--rm', '--pull', 'never', 'ARCHIVE', 'true'],
  },
  'a mount source that is not there': {
    command: ['run', '--rm', '-v', 'FOLDER/none:/mnt', image, 'true'],
    hint: 'create the path on the host, or correct the mount',
    follow: () => mkdir(join(daemon.folder, 'none')),
  },
  'a user that the image does not have': {
    command: ['run', '--rm', '-u', 'nobody', image, 'true'],
    hint: 'use a numeric id, or a name that the image has',
    then: ['run', '--rm', '-u', '65534', image, 'true'],
  },
  'a handler that is not configured': {
    command: ['run', '--rm', '--handler', 'fast', image, 'true'],
    hint: 'use a handler that is there, or add one of this name to handlers in the configuration',
    follow: () => configure({ handlers: { fast: { type: 'oci', path: '/usr/bin/crun' } } }),
  },
  'no pod network': {
    before: [],
    command: ['run', '--rm', '--network', 'cni', image, 'true'],
    hint: 'put a conflist into network.conf_dir; `crisp check` gives a command for it',
    follow: async () => {
      expect((await crisp(['check'])).stdout).toMatch(/hint: .*\.conflist/);
      await daemon.writeConflist(daemon.conflist());
    },
  },
  'a pod network that is broken': {
    command: ['run', '--rm', '--network', 'cni', image, 'true'],
    hint: 'correct the file that the message names',
    follow: () => daemon.writeConflist(daemon.conflist()),
  },
  'a port without a plugin that maps it': {
    command: ['run', '--rm', '-p', '127.0.0.1:18099:80', image, 'true'],
    hint: 'add {"type": "portmap", "capabilities": {"portMappings": true}} to the plugins of the conflist in NAME',
    follow: async (hint) => {
      const { plugins, ...rest } = daemon.conflist() as { plugins: object[] };
      const plugin = JSON.parse(/\{.*\}/.exec(hint)?.[0] ?? '') as object;
      await daemon.writeConflist({ ...rest, plugins: [...plugins.slice(0, 1), plugin] });
    },
  },
  'a key that does not exist': {
    command: ['list'],
    hint: 'see docs/configuration.md, or `crisp config --default`',
    follow: async () => {
      expect(await crisp(['config', '--default'])).toMatchObject({ exitCode: 0 });
      await configure({});
    },
  },
  'a bundle in a folder that is used': {
    command: ['bundle', image, 'FOLDER'],
    hint: 'give a new folder',
    follow: async () => undefined,
    then: ['bundle', image, 'FOLDER/bundle'],
  },
  'a rootfs that is not there': {
    command: ['run', '--rm', '--rootfs', 'FOLDER/missing', 'true'],
    hint: 'give a folder with a root filesystem',
    follow: () => crisp(['bundle', image, join(daemon.folder, 'missing')]),
    then: ['run', '--rm', '--rootfs', 'FOLDER/missing/rootfs', 'true'],
  },
  'an archive that is not there': {
    command: ['run', '--rm', './none.tar', 'true'],
    hint: 'name an archive (.tar), an OCI layout folder, or an image of `crisp images`',
    then: ['run', '--rm', 'ARCHIVE', 'true'],
  },
  'an id that is not here': {
    command: ['run', '--rm', '0123456789ab', 'true'],
    hint: 'see `crisp images` for what is here',
    then: ['run', '--rm', image, 'true'],
  },
  'a container that runs is started': {
    before: [['run', '-d', '--name', 'web', image, 'sleep', '5']],
    command: ['start', 'web'],
    hint: 'see its output with `crisp attach NAME`',
    then: ['delete', '-f', 'web'],
  },
  'attach to a container that is not started': {
    before: [['create', '--name', 'web', image, 'true']],
    command: ['attach', 'web'],
    hint: 'start it with `crisp start --attach NAME`',
    then: ['delete', 'web'],
  },
  'attach to a container that has ended': {
    before: [named, ['stop', '-t', '0', 'web']],
    command: ['attach', 'web'],
    hint: 'see its output with `crisp logs NAME`',
    then: ['delete', 'web'],
  },
  'exec on a container that has ended': {
    before: [named, ['stop', '-t', '0', 'web']],
    command: ['exec', 'web', 'true'],
    hint: 'a container runs once; run another with `crisp run`',
    follow: () => crisp(['run', '-d', '--name', 'other', image, 'sleep', '1000']),
    then: ['exec', 'other', 'true'],
  },
  'a signal to a container that has ended': {
    before: [named, ['stop', '-t', '0', 'web']],
    command: ['kill', 'web'],
    hint: 'signals can only be sent to running containers',
    follow: () => crisp(['run', '-d', '--name', 'other', image, 'sleep', '1000']),
    then: ['kill', 'other'],
  },
  'the processes of a container that has ended': {
    before: [named, ['run', '-d', '--name', 'other', image, 'sleep', '1000'], ['stop', '-t', '0', 'web']],
    command: ['top', 'web'],
    hint: '`crisp list` shows which ones run',
    then: ['top', 'other'],
  },
  'a manifest with no pod': {
    command: ['explain', 'FOLDER/service.yaml'],
    hint: 'give a manifest of a Pod or of a workload (Deployment, Job, …), or the JSON files of crictl',
    follow: () => writeFile(join(daemon.folder, 'service.yaml'), pod),
  },
  'a daemon that does not run': {
    command: ['status', '--listen', 'SOCKET'],
    hint: 'start it (`systemctl start crisp`), or name its socket with --listen',
    follow: () => daemon.start(),
  },
};
const pod = JSON.stringify({
  kind: 'Pod',
  metadata: { name: 'web', namespace: 'shop' },
  spec: { containers: [{ name: 'app', image }] },
});

/** What must be so before the mistake can be made. */
const given: Readonly<Record<string, () => Promise<unknown>>> = {
  'no pod network': () => daemon.machine.must(['sh', '-c', `rm -f '${daemon.confDir}'/*`]),
  'a pod network that is broken': () => daemon.writeConflist('{'),
  'a port without a plugin that maps it': () => {
    const { plugins, ...rest } = daemon.conflist() as { plugins: object[] };
    return daemon.writeConflist({ ...rest, plugins: plugins.slice(0, 1) });
  },
  'a key that does not exist': () => configure({ colour: 'red' }),
  'a manifest with no pod': () => writeFile(join(daemon.folder, 'service.yaml'), 'kind: Service'),
};

describe('the hint mends it', () => {
  afterEach(async () => {
    await configure({});
    await daemon.writeConflist(daemon.conflist());
    const ids = (await crisp(['ps', '-q'])).stdout.split('\n').filter(Boolean);
    if (ids.length) await crisp(['rm', '-f', ...ids]);
  });
  test.each(Object.entries(mistakes))('%s', async (name, { before = [], command, hint, follow, then }) => {
    const words = (line: readonly string[]): string[] =>
      line.map((word) =>
        word
          .replace('ARCHIVE', archive)
          .replace('FOLDER', daemon.folder)
          .replace('SOCKET', `unix://${daemon.socket}`),
      );
    for (const line of before) expect(await crisp(line)).toMatchObject({ exitCode: 0 });
    await given[name]?.();
    const { stderr, exitCode } = await crisp(words(command));
    expect(exitCode).not.toBe(0);
    expect(stderr).toMatch(hintPattern(hint));
    expect(stderr).not.toMatch(/Internal|\n {4}at /);
    const advice = stderr.slice(stderr.indexOf('hint: '));
    if (follow) await follow(advice);
    else {
      const line = /`crisp ([^`]+)`/.exec(advice)?.[1];
      if (line) expect(await crisp(line.split(' '))).toMatchObject({ exitCode: 0 });
    }
    expect(await crisp(words(then ?? command))).toMatchObject({ exitCode: 0 });
    await daemon.stop();
  });
});

test('a person who is not root uses sudo', async () => {
  const { stderr } = await daemon.machine.run([...(await crispAs(65534, daemon.machine)), 'images']);
  expect(stderr).toMatch(hintPattern('run it with sudo'));
  expect(await crisp(['images'])).toMatchObject({ exitCode: 0 });
});

describe('a mistake of a person is none of ours', () => {
  test.each<[string, string[], number]>([
    ['a folder for an archive', ['load', '/etc'], 1],
    ['no archive', ['load', '/etc/passwd'], 1],
    ['an archive that cannot be', ['load', `/${'x'.repeat(300)}`], 1],
    ['a path below a file', ['run', '-v', '/etc/passwd/x:/mnt', image, 'true'], 125],
    ['a rootfs that is a file', ['run', '--rootfs', '/etc/passwd', 'true'], 125],
    ['a rootfs that is empty', ['run', '--rootfs', 'FOLDER/empty', 'true'], 127],
    ['an environment file that is a folder', ['run', '--env-file', '/etc', image, 'true'], 125],
    ['an environment without a name', ['run', '-e', '=x', image, 'true'], 125],
    ['a working folder that is relative', ['run', '-w', 'tmp', image, 'true'], 125],
    ['a volume on nothing', ['run', '-v', '/etc', image, 'true'], 125],
    ['a memory limit that is too small', ['run', '-m', '1k', image, 'true'], 125],
    ['a capability that is none', ['run', '--cap-add', 'FLY', image, 'true'], 125],
    ['a hostname that is none', ['run', '--hostname', 'a b', image, 'true'], 125],
    ['memory with an option that is none', ['run', '--tmpfs', '/tmp:colour=red', image, 'true'], 125],
    ['a name that is a path', ['run', '--name', '../x', image, 'true'], 125],
    ['an image name that is none', ['pull', 'UPPER'], 1],
    ['a manifest that is none', ['explain', '/etc/passwd'], 1],
    ['a bundle on a file', ['bundle', image, '/etc/passwd'], 1],
    ['no bundle', ['bundle', '--validate', '/etc'], 1],
    ['a state folder that is a file', ['create', '--state', '/etc/passwd', image, 'true'], 1],
    ['a root folder that is a file', ['images', '--root', '/etc/passwd'], 1],
    ['a socket that is a file', ['status', '--listen', 'unix:///etc/passwd'], 1],
    ['a socket with a long path', ['status', '--listen', `unix:///${'x'.repeat(200)}`], 1],
    ['a configuration that is a folder', ['list', '--config', '/etc'], 2],
    ['a configuration that is not there', ['list', '--config', '/nonexistent'], 2],
    ['a configuration without end', ['list', '--config', '/dev/zero'], 2],
    ['a manifest without end', ['explain', '/dev/zero'], 1],
    ['an environment file that cannot be read', ['run', '--env-file', '/proc/self/mem', image, 'true'], 125],
    ['a folder that cannot be made', ['run', '--root', '/proc/x', image, 'true'], 125],
    ['a grace period that is no number', ['stop', '-t', '', 'none'], 2],
    ['an empty time', ['logs', '--since', '', 'none'], 2],
    ['a command that is empty', ['run', '--rm', image, ''], 125],
    ['words after -- alone', ['run', '--'], 2],
    ...[
      'list',
      'images',
      'gc',
      'top',
      'state none',
      'logs none',
      'rmi none',
      'attach none',
      'exec none true',
    ].flatMap((line): [string, string[], number][] => {
      const [command = '', ...words] = line.split(' ');
      const exitCode = ['attach', 'exec'].includes(command) ? 125 : 1;
      return [
        [`${line} on a state folder that is a file`, [command, '--state', '/etc/passwd', ...words], exitCode],
        [`${line} on a state folder that is none`, [command, '--state', '/etc', ...words], exitCode],
        [
          `${line} on a state folder that is not there`,
          [command, '--state', '/nonexistent', ...words],
          command === 'gc' ? 0 : exitCode, // a lost state folder is a reason to run it
        ],
      ];
    }),
  ])('%s', async (_, words, exitCode) => {
    await mkdir(join(daemon.folder, 'empty'), { recursive: true });
    const result = await crisp(words.map((word) => word.replace('FOLDER', daemon.folder)));
    expect(result.stderr + result.stdout).not.toMatch(/Internal|please report|\n {4}at /);
    expect(result).toMatchObject({ exitCode });
  });

  test.each([
    ['list', '--state', '/etc/passwd', '--state: /etc/passwd is not a folder'],
    ['list', '--state', '/etc', '--state: /etc holds nothing of crisp'],
    ['images', '--root', '/nonexistent', '--root: /nonexistent does not exist'],
    ['run', '--memory', '99999999999999999999', '--memory: '],
    ['run', '--cap-add', '', '--cap-add: '],
    ['run', '--state', 'relative', 'flag --state: '],
  ])('and is told in the words of the command line: %s %s %s', async (command, flag, value, words) => {
    const { stderr, exitCode } = await crisp([
      command,
      flag,
      value,
      ...(command === 'run' ? [image, 'true'] : []),
    ]);
    expect(exitCode).not.toBe(0);
    expect(stderr).toContain(words);
  });

  test.each([
    ['a full disk', 'exec "$@" >/dev/full', 1, /^crisp: the output cannot be written: ENOSPC[^\n]*\n$/],
    ['a reader that has left', '"$@" | true; exit ${PIPESTATUS[0]}', 0, /^$/],
    ['no stdout', 'exec "$@" >&-', 0, /^$/],
    ['no environment', 'exec env -i PATH="$PATH" LC_ALL=xx TERM= "$@" >/dev/null', 0, /^$/],
    [
      'a current folder that is gone',
      'mkdir -p "$0" && cd "$0" && rmdir "$0" && exec "$@" >/dev/null',
      0,
      /^[^\n]*getcwd[^\n]*\n$/,
    ],
  ])('nor is %s', async (_, script, exitCode, words) => {
    const gone = join(daemon.folder, 'gone');
    const result = await daemon.machine.run([
      ...['bash', '-c', script, gone, bin, 'images', '--config', daemon.configFile],
    ]);
    expect(result).toMatchObject({ exitCode, stderr: expect.stringMatching(words) });
  });

  test('and leaves nothing', async () => {
    expect((await crisp(['ps', '-q'])).stdout).toBe('');
    expect((await crisp(['gc'])).stdout).toBe('nothing to remove\n');
  });
});

describe('a node that cannot run pods', () => {
  const broken = { handlers: { crun: { path: '/nonexistent/crun' }, runc: { path: '/nonexistent/runc' } } };

  test('is told so by check, and by the daemon, which does not say that it is ready', async () => {
    await configure(broken);
    const check = await crisp(['check']);
    expect(check.exitCode).toBe(1);
    expect(check.stdout).toMatch(/FAILURE .*\d+ failures?, \d+ warnings?\n$/s);
    const told = daemon.logged((line) => /cannot run pods|crisp is ready/.test(line));
    await daemon.start({ untilProbed: false });
    expect(await told).toContain('cannot run pods: no runtime handler is ready');
    await daemon.stop();
  });

  test('serve is refused to a user who is not root, before anything is made', async () => {
    const state = join(daemon.folder, 'of-nobody');
    await writeFile(join(daemon.folder, 'plain.yaml'), '{}', { mode: 0o644 });
    expect(
      await daemon.machine.run([
        ...(await crispAs(1000, daemon.machine)),
        ...['serve', '--state', state, '--root', state],
      ]),
    ).toEqual({
      exitCode: 1,
      stdout: '',
      stderr: expect.stringMatching(
        hintPattern('run it with sudo, or as the service: `sudo systemctl start crisp`'),
      ),
    });
    await expect(mkdir(state)).resolves.toBeUndefined();
  });
});
