// The words of podman and nerdctl on the command line, with the real crun, the
// plugins of CNI and no daemon: bin/crisp as a newcomer types it.
import { afterAll, afterEach, beforeAll, describe, expect, test } from '@jest/globals';
import { mkdir, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { connect } from 'node:net';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { crisp as bin, startDaemon, type Daemon } from '../helpers/daemon.js';
import { makeImageArchive } from '../helpers/image.js';
import type { Result } from '../helpers/machine.js';
import { freePort } from '../helpers/port.js';
import { until } from '../helpers/wait.js';

const image = 'localhost/box';
let daemon: Daemon;

beforeAll(async () => {
  daemon = await startDaemon();
  await daemon.writeConfig({ cli_state: join(daemon.folder, 'cli') });
  await daemon.stop(); // it is not needed; its folders and its network are
  expect(await crisp('load', await makeImageArchive(daemon.folder, 'box'))).toMatchObject({ exitCode: 0 });
});
afterEach(async () => {
  const ids = (await crisp('ps', '-q')).stdout.split('\n').filter(Boolean);
  if (ids.length) expect(await crisp('rm', '-f', ...ids)).toMatchObject({ exitCode: 0 });
});
afterAll(() => daemon?.destroy());

function crisp(command: string, ...words: string[]): Promise<Result> {
  // As a person runs it: Node itself would take --env-file out of the arguments.
  return daemon.machine.run([bin, command, '--config', daemon.configFile, ...words]);
}
async function started(...words: string[]): Promise<string> {
  const { stdout, stderr, exitCode } = await crisp('run', '-d', ...words);
  expect({ stderr, exitCode }).toEqual({ stderr: '', exitCode: 0 });
  return stdout.trim();
}
interface Shown {
  addresses?: string[];
  ports?: string[];
  status: string;
}
async function state(name: string): Promise<Shown> {
  return JSON.parse((await crisp('inspect', '--json', name)).stdout) as Shown;
}

/** All that a server at this address says. */
function said(host: string, port: number): Promise<string> {
  return new Promise((resolve, reject) => {
    let text = '';
    connect({ host, port })
      .on('data', (chunk: Buffer) => {
        text += chunk.toString();
      })
      .on('end', () => resolve(text))
      .on('error', reject);
  });
}

describe('a container with a port of the host', () => {
  const server = ['sh', '-c', 'echo ready; while :; do echo hello | nc -l -p 80; done'];
  const listening = async (name: string): Promise<void> => {
    expect(
      (await crisp('exec', name, 'sh', '-c', 'until netstat -ltn | grep -q ":80 "; do sleep 0.05; done'))
        .exitCode,
    ).toBe(0);
  };

  test('answers there and at its address, and both are free when it is gone', async () => {
    const port = await freePort();
    await started('--name', 'web', '-p', `127.0.0.1:${port}:80`, image, ...server);
    const { addresses = [], ports } = await state('web');
    expect(ports).toEqual([`127.0.0.1:${port}:80`]);
    await listening('web');
    expect(await said(addresses[0] ?? '', 80)).toBe('hello\n');
    await listening('web');
    expect(await said('127.0.0.1', port)).toBe('hello\n');
    expect(await crisp('rm', '-f', 'web')).toMatchObject({ exitCode: 0 });
    await expect(said('127.0.0.1', port)).rejects.toMatchObject({ code: 'ECONNREFUSED' });
    expect(await readdir(join(daemon.root, 'cli', 'network'))).toEqual([]);
  });

  test('keeps its address when a daemon starts; gc releases one whose record is lost', async () => {
    const id = await started('--name', 'kept', '--network', 'cni', image, 'sleep', '1000');
    await daemon.start();
    await daemon.stop();
    expect(await readdir(join(daemon.root, 'cli', 'network'))).toEqual([`${id}.json`]);
    expect((await crisp('gc')).stdout).toBe('nothing to remove\n');
    await rm(join(daemon.folder, 'cli', 'containers', `${id}.json`));
    expect((await crisp('gc')).stdout).toContain(`removed address ${id}\n`);
    expect(await readdir(join(daemon.root, 'cli', 'network'))).toEqual([]);
  });

  test('is refused where no plugin maps ports, or it has no address; nothing is left', async () => {
    const { plugins, ...rest } = daemon.conflist() as { plugins: { type: string }[] };
    await daemon.writeConflist({ ...rest, plugins: plugins.filter(({ type }) => type !== 'portmap') });
    expect(await crisp('run', '-p', '8080:80', image, 'true')).toMatchObject({
      exitCode: 125,
      stderr: expect.stringMatching(/UnsupportedField: --publish: .*hint: add \{"type": "portmap"/),
    });
    await daemon.writeConflist(daemon.conflist());
    expect(await crisp('run', '-p', '8080:80', '--network', 'none', image, 'true')).toMatchObject({
      exitCode: 2,
      stderr: expect.stringContaining('--publish needs --network cni'),
    });
    expect((await crisp('ps', '-q')).stdout).toBe('');
    expect((await crisp('gc')).stdout).toBe('nothing to remove\n');
  });
});

test('what a container may and sees', async () => {
  await mkdir(join(daemon.folder, 'here'));
  await writeFile(join(daemon.folder, 'here', 'file'), 'of the host\n');
  await writeFile(join(daemon.folder, 'env'), 'FROM_FILE=1\n# none\nOWN\n');
  const script = [
    'hostname; cat /mnt/file; echo $FROM_FILE $OWN $ALSO',
    'touch /x 2>/dev/null || echo read-only; touch /tmp/y && echo writable',
    'grep CapBnd /proc/self/status; head -c 15 /proc/1/cmdline',
  ].join('; ');
  const words = [
    ...['--hostname', 'other', '--init', '--read-only', '--tmpfs', '/tmp:size=1m', '-v', './here:/mnt'],
    ...['--cap-drop', 'ALL', '--cap-add', 'net_raw', '--env-file', join(daemon.folder, 'env'), '-e', 'ALSO'],
  ];
  const { stdout, stderr } = await daemon.machine.run([
    'sh',
    '-c',
    `cd '${daemon.folder}' && OWN=2 ALSO=3 exec "$@"`,
    'sh',
    ...[bin, 'run', '--rm', '--config', daemon.configFile, ...words],
    ...[image, 'sh', '-c', script],
  ]);
  expect([stderr, stdout]).toEqual([
    '',
    'other\nof the host\n1 2 3\nread-only\nwritable\nCapBnd:\t0000000000002000\n/run/crisp-init',
  ]);
  const mask = await crisp('run', '--rm', '--privileged', image, 'cat', '/proc/self/status');
  expect(mask.stdout).toMatch(/Seccomp:\t0\n/);
  expect(mask.stdout).not.toContain('CapBnd:\t00000000a80425fb');
  expect(await crisp('run', '--rm', '--entrypoint', 'echo', image, 'hello')).toMatchObject({
    stdout: 'hello\n',
  });
});

describe('the exit codes of shells', () => {
  test.each<[string, number]>([
    ['nosuch', 127],
    ['/no/such', 127],
    ['/etc/passwd', 126],
  ])('%s: %i', async (command, exitCode) => {
    expect(await crisp('run', '--rm', image, command)).toMatchObject({
      exitCode,
      stdout: '',
      stderr: expect.stringMatching(/^crisp run: StartFailed: [^\n]*\n$/),
    });
    expect((await crisp('ps', '-q')).stdout).toBe('');
  });
});

test('several at a time; one that fails keeps no other', async () => {
  const [one, two] = [await started(image, 'sleep', '1000'), await started(image, 'sleep', '1000')];
  const stop = await crisp('stop', '-t', '0', one, 'none', two);
  expect(stop).toMatchObject({ exitCode: 1, stdout: `${one}\n${two}\n` });
  expect(stop.stderr).toMatch(/^crisp stop: ContainerNotFound: [^\n]*"none"[^\n]*\n$/);
  expect(await crisp('rm', 'none', one, two)).toMatchObject({ exitCode: 1, stdout: `${one}\n${two}\n` });
});

test('top shows the processes of a container, with nothing in their names that steers a terminal', async () => {
  await started('--name', 'busy', image, 'sh', '-c', 'sleep 1000; true', 'sh', '\x1b[2J');
  expect((await crisp('top', 'busy')).stdout).toMatch(
    /^PID +PARENT +UID +CPU +COMMAND\n(\d+ +\d+ +0 +\d+\.\d\d s +.*\n){2}$/,
  );
  const processes = JSON.parse((await crisp('top', '--json', 'busy')).stdout) as { command: string }[];
  expect(processes.map(({ command }) => command)).toEqual(
    expect.arrayContaining(['sleep 1000', 'sh -c sleep 1000; true sh \\x1b[2J']),
  );
  await crisp('stop', '-t', '0', 'busy');
  expect(await crisp('stats', 'busy')).toMatchObject({
    exitCode: 1,
    stderr: expect.stringContaining('WrongContainerState'),
  });
});

describe('a container that is left and attached', () => {
  /** Runs crisp on a terminal of 33 rows and 77 columns, which types these keys: shell commands. */
  // With exec, because a shell between the terminal and crisp may end by Ctrl-C before crisp does (dash does).
  function onTerminal(keys: string, ...words: string[]): Promise<Result> {
    const line = [bin, ...words].map((word) => `'${word}'`).join(' ');
    return daemon.machine.run([
      'sh',
      '-c',
      '(eval "$1") | timeout 50 script -qec "stty rows 33 cols 77; exec $2" /dev/null',
      ...['sh', keys, line],
    ]);
  }
  const flags = (): string[] => ['--config', daemon.configFile];
  const untilSaid = (name: string, word: string): string =>
    `until '${bin}' logs --config '${daemon.configFile}' ${name} 2>/dev/null | grep -q ${word}; do sleep 0.2; done`;
  const detach = "printf '\\020\\021'; sleep 3";
  const left = async (name: string, ...words: string[]): Promise<void> => {
    const keys = `${untilSaid(name, 'ready')}; sleep 1; ${detach}`;
    const run = ['run', ...flags(), '-it', '--name', name, ...words];
    const { stdout, exitCode } = await onTerminal(keys, ...run);
    expect([stdout, exitCode]).toEqual([
      expect.stringContaining(`detached from ${name}, which keeps running: \`crisp attach ${name}\``),
      0,
    ]);
    expect(await state(name)).toMatchObject({ status: 'running' });
  };
  const gone = async (): Promise<void> => {
    await until(async () => (await crisp('ps', '-q')).stdout === '');
    expect((await crisp('gc')).stdout).toBe('nothing to remove\n');
  };

  test('has its prompt, its keys, its size and its exit code, and --rm removes it at its end', async () => {
    const script = 'echo ready; printf "prompt: "; read a; stty size; echo "got $a"; exit 7';
    await left('left', '--rm', image, 'sh', '-c', script);
    const attach = ['attach', ...flags(), 'left'];
    const again = await onTerminal(`sleep 3; ${detach}`, ...attach);
    expect(again).toMatchObject({
      exitCode: 0,
      stdout: expect.stringMatching(/^prompt: [^]*detached from left/),
    });
    const { stdout, exitCode } = await onTerminal("sleep 3; printf 'word\\n'; sleep 3", ...attach);
    expect(stdout).toMatch(/^prompt: [^]*33 77[^]*got word/);
    expect(stdout).not.toContain('ready'); // it was written before
    expect(exitCode).toBe(7);
    expect((await crisp('ps', '-q')).stdout).toBe('');
    await gone();
  });

  test('is removed by the next command if none is attached when it ends', async () => {
    await left('alone', '--rm', image, 'sh', '-c', 'echo ready; exec sleep 1000');
    expect(await crisp('kill', 'alone')).toMatchObject({ exitCode: 0 });
    await gone();
    await started('--rm', '--name', 'short', image, 'true');
    await until(async () => (await crisp('run', '--rm', '--name', 'short', image, 'true')).exitCode === 0);
    await gone();
  });

  test('without --rm stays', async () => {
    await left('kept', image, 'sh', '-c', 'echo ready; exec sleep 1000');
    expect(await crisp('kill', 'kept')).toMatchObject({ exitCode: 0 });
    await until(async () => (await state('kept')).status === 'stopped');
    expect(await crisp('attach', 'kept')).toMatchObject({
      exitCode: 125,
      stderr: expect.stringMatching(/WrongContainerState: .*hint: see its output with `crisp logs kept`/),
    });
  });

  test('needs no terminal: signals reach it, its exit code is that of crisp, and its reader may leave', async () => {
    const loop = 'trap "echo bye; exit 9" HUP; while :; do echo tick; sleep 0.1; done';
    await started('--name', 'loop', image, 'sh', '-c', loop);
    const attach = (after: string): Promise<Result> =>
      daemon.machine.run(['bash', '-c', after, 'bash', bin, 'attach', ...flags(), 'loop']);
    expect(await attach('"$@" | head -1; exit ${PIPESTATUS[0]}')).toMatchObject({
      stdout: 'tick\n',
      exitCode: 141,
    });
    expect(await state('loop')).toMatchObject({ status: 'running' });
    const ended = await attach('"$@" & sleep 3; kill -HUP $!; wait $!');
    expect(ended).toMatchObject({ exitCode: 9, stdout: expect.stringMatching(/^(tick\n)+bye\n$/) });
  });

  test('is started with its output and its input', async () => {
    const made = ['--name', 'made', image, 'sh', '-c', 'cat; echo err >&2; exit 3'];
    expect(await crisp('create', '-i', ...made)).toMatchObject({ exitCode: 0 });
    expect(await crisp('attach', 'made')).toMatchObject({
      exitCode: 125,
      stderr: expect.stringContaining('hint: start it with `crisp start --attach made`'),
    });
    expect(
      await daemon.machine.run(['sh', '-c', 'echo in | "$@"', 'sh', bin, 'start', ...flags(), '-ai', 'made']),
    ).toEqual({ stdout: 'in\n', stderr: 'err\n', exitCode: 3 });
    expect(await crisp('rm', 'made')).toMatchObject({ exitCode: 0 });
    expect(await crisp('create', ...made)).toMatchObject({ exitCode: 0 });
    expect(await crisp('start', '-ai', 'made')).toMatchObject({
      exitCode: 2,
      stderr: expect.stringContaining('made without --interactive: drop -i'),
    });
    expect(await crisp('start', '-a', 'made')).toEqual({ stdout: '', stderr: 'err\n', exitCode: 3 });
  });

  test('on a pipe is refused if it has a terminal', async () => {
    await left('tty', image, 'sh', '-c', 'echo ready; exec cat');
    expect(
      await daemon.machine.run(['sh', '-c', 'echo x | "$@"', 'sh', bin, 'attach', ...flags(), 'tty']),
    ).toMatchObject({ exitCode: 2, stderr: expect.stringContaining('stdin is not a terminal') });
  });

  test('with a terminal but no input ends by Ctrl-C', async () => {
    const keys = `${untilSaid('deaf', 'ready')}; sleep 1; printf '\\003'; sleep 3`;
    const script = 'trap "exit 5" INT; echo ready; while :; do sleep 0.1; done';
    const run = ['run', ...flags(), '-t', '--name', 'deaf', image, 'sh', '-c', script];
    expect(await onTerminal(keys, ...run)).toMatchObject({ exitCode: 5 });
  });
});

test.each<[string[], string]>([
  [['sotp'], 'unknown command "sotp" (did you mean stop?)'],
  [['build', '.'], 'crisp load'],
  [['run', '--memroy', '1', 'x'], 'unknown flag --memroy (did you mean --memory?)'],
  [['run', '--device', '/dev/null', 'x'], 'crisp run has no --device on purpose: '],
  [['run', '--restart', 'always', 'x'], 'systemd service'],
  [['ps', '-a'], 'the list has the stopped ones too'],
  [['logs', '--tail', 'x', 'y'], '--tail must be a number of lines'],
  [['logs', '--since', 'x', 'y'], '--since must be 10m'],
])('%j is answered with what was meant', async (words, answer) => {
  const { stderr, stdout, exitCode } = await daemon.machine.run([process.execPath, bin, ...words]);
  expect({ stdout, exitCode }).toEqual({ stdout: '', exitCode: 2 });
  expect(stderr).toContain(answer);
  expect(stderr.trim().split('\n')).toHaveLength(1);
});

test('a command on single containers does not load gRPC', async () => {
  const chunks = fileURLToPath(new URL('../../dist/chunks/', import.meta.url));
  const seen = new Map<string, string>();
  const read = async (file: string): Promise<void> => {
    if (seen.has(file)) return;
    seen.set(file, '');
    const text = await readFile(join(chunks, file), 'utf8');
    seen.set(file, text);
    for (const [, name = ''] of text.matchAll(/\b(?:import|from) ?"\.\/([^"]+)";/g)) await read(name);
  };
  const [list = ''] = (await readdir(chunks)).filter((name) => /^container-list-\w+\.js$/.test(name));
  await read(list);
  expect(seen.size).toBeGreaterThan(3);
  expect(
    [...seen].filter(([, text]) => text.includes('@grpc/grpc-js/build/src/server.js')).map(([name]) => name),
  ).toEqual([]);
});

describe('crisp load', () => {
  test('takes archives of docker save, by their names', async () => {
    const archive = join(daemon.folder, 'docker.tar');
    await daemon.machine.must([
      ...['skopeo', '--insecure-policy', 'copy', '-q'],
      `oci-archive:${join(daemon.folder, 'box.tar')}`,
      `docker-archive:${archive}:quay.io/team/box:1`,
    ]);
    expect(await crisp('load', archive)).toMatchObject({ exitCode: 0, stdout: 'quay.io/team/box:1\n' });
    expect(await crisp('load', `docker-archive:${archive}`)).toMatchObject({ exitCode: 0 });
    expect(
      await crisp('run', '--rm', '--pull', 'never', 'quay.io/team/box:1', 'echo', 'hello'),
    ).toMatchObject({ stdout: 'hello\n' });
    expect(await crisp('run', '--rm', `docker-archive:${archive}`, 'echo', 'hello')).toMatchObject({
      stdout: 'hello\n',
    });
  });

  test('takes oci-archive:FILE as FILE', async () => {
    expect(await crisp('load', `oci-archive:${join(daemon.folder, 'box.tar')}`)).toMatchObject({
      stdout: 'localhost/box:latest\n',
    });
  });
});
