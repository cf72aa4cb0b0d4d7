// The advice of the command line, followed: each mistake is made, what its hint says
// is done as it stands, and then the same command works. And no mistake of a person is
// "Internal", which asks for a report.
import { afterAll, afterEach, beforeAll, describe, expect, test } from '@jest/globals';
import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { crisp as bin, startDaemon, type Daemon } from '../helpers/daemon.js';
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
  readonly hint: RegExp;
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
    hint: /start it with `crisp start web`/,
  },
  'a name that is in use': {
    before: [['create', '--name', 'web', image, 'true']],
    command: ['create', '--name', 'web', image, 'true'],
    hint: /remove it with `crisp delete web`/,
  },
  'a container that runs is deleted': {
    before: [named],
    command: ['delete', 'web'],
    hint: /`crisp stop web`/,
  },
  'a container that has ended is started': {
    before: [named, ['stop', '-t', '0', 'web']],
    command: ['start', 'web'],
    hint: /make another with `crisp create`/,
    follow: () => crisp(['create', '--name', 'other', image, 'sleep', '1000']),
    then: ['start', 'other'],
  },
  'no such container': {
    before: [named],
    command: ['stop', '-t', '0', 'wbe'],
    hint: /list them with `crisp list`/,
    then: ['stop', '-t', '0', 'web'],
  },
  'an image that is not here': {
    command: ['rmi', 'box'],
    hint: /`crisp images` lists/,
    then: ['run', '--rm', image, 'true'],
  },
  'an image that is not to be pulled': {
    command: ['run', '--rm', '--pull', 'never', 'nosuch', 'true'],
    hint: /name an archive: \.\/FILE\.tar/,
    follow: async () => undefined,
    then: ['run', '--rm', '--pull', 'never', 'ARCHIVE', 'true'],
  },
  'a mount source that is not there': {
    command: ['run', '--rm', '-v', 'FOLDER/none:/mnt', image, 'true'],
    hint: /create the path on the host/,
    follow: () => mkdir(join(daemon.folder, 'none')),
  },
  'a user that the image does not have': {
    command: ['run', '--rm', '-u', 'nobody', image, 'true'],
    hint: /use a numeric id/,
    then: ['run', '--rm', '-u', '65534', image, 'true'],
  },
  'a handler that is not configured': {
    command: ['run', '--rm', '--handler', 'fast', image, 'true'],
    hint: /add one of this name to handlers/,
    follow: () => configure({ handlers: { fast: { type: 'oci', path: '/usr/bin/crun' } } }),
  },
  'no pod network': {
    before: [],
    command: ['run', '--rm', '--network', 'cni', image, 'true'],
    hint: /put a conflist into network\.conf_dir; `crisp check`/,
    follow: async () => {
      expect((await crisp(['check'])).stdout).toMatch(/mend: .*\.conflist/);
      await daemon.writeConflist(daemon.conflist());
    },
  },
  'a pod network that is broken': {
    command: ['run', '--rm', '--network', 'cni', image, 'true'],
    hint: /correct the file that the message names/,
    follow: () => daemon.writeConflist(daemon.conflist()),
  },
  'a port without a plugin that maps it': {
    command: ['run', '--rm', '-p', '127.0.0.1:18099:80', image, 'true'],
    hint: /to the plugins of the conflist/,
    follow: async (hint) => {
      const { plugins, ...rest } = daemon.conflist() as { plugins: object[] };
      const plugin = JSON.parse(/\{.*\}/.exec(hint)?.[0] ?? '') as object;
      await daemon.writeConflist({ ...rest, plugins: [...plugins.slice(0, 1), plugin] });
    },
  },
  'a key that does not exist': {
    command: ['list'],
    hint: /`crisp config --default`/,
    follow: async () => {
      expect(await crisp(['config', '--default'])).toMatchObject({ exitCode: 0 });
      await configure({});
    },
  },
  'a daemon that does not run': {
    command: ['status', '--listen', 'SOCKET'],
    hint: /start it/,
    follow: () => daemon.start(),
  },
};
/** What must be so before the mistake can be made. */
const given: Readonly<Record<string, () => Promise<unknown>>> = {
  'no pod network': () => daemon.machine.must(['sh', '-c', `rm -f '${daemon.confDir}'/*`]),
  'a pod network that is broken': () => daemon.writeConflist('{'),
  'a port without a plugin that maps it': () => {
    const { plugins, ...rest } = daemon.conflist() as { plugins: object[] };
    return daemon.writeConflist({ ...rest, plugins: plugins.slice(0, 1) });
  },
  'a key that does not exist': () => configure({ colour: 'red' }),
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
    expect(stderr).toMatch(new RegExp(`hint: .*${hint.source}`));
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
  ])('%s', async (_, words, exitCode) => {
    await mkdir(join(daemon.folder, 'empty'), { recursive: true });
    const result = await crisp(words.map((word) => word.replace('FOLDER', daemon.folder)));
    expect(result.stderr + result.stdout).not.toMatch(/Internal|please report|\n {4}at /);
    expect(result).toMatchObject({ exitCode });
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
        ...['setpriv', '--reuid', '1000', '--regid', '1000', '--clear-groups', bin],
        ...['serve', '--state', state, '--root', state],
      ]),
    ).toEqual({
      exitCode: 1,
      stdout: '',
      stderr: expect.stringMatching(/^crisp serve: PermissionDenied: [^\n]*hint: run it with sudo[^\n]*\n$/),
    });
    await expect(mkdir(state)).resolves.toBeUndefined();
  });
});
