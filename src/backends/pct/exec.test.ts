// Commands in a CT: the command line of lxc-attach, and a shell script in its place that has it.
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { spawn, type ChildProcess } from 'node:child_process';
import { mkdirSync, writeFileSync } from 'node:fs';
import { createServer, type Server } from 'node:net';
import { PassThrough } from 'node:stream';
import { getEventListeners, once } from 'node:events';
import { StandInNode } from '../../../test/helpers/stand-in-node.js';
import { until } from '../../../test/helpers/wait.js';
import { pidExists } from '../../host/proc.js';
import { log } from '../../log.js';
import type { ContainerRef, ExecPlan } from '../backend.js';
import { create } from './create.js';
import { attach, exec } from './enter.js';
import { attachCommand } from './exec.js';

const own = { user: { uid: 7, gid: 8 }, cwd: '/', env: ['A=b', 'TERM=dumb'] };
const place = { program: '/usr/bin/lxc-attach', lxcFolder: '/var/lib/lxc', vmid: 900_001, hasShell: true };
const command = (
  change: Partial<typeof own & { hasShell: boolean }>,
  plan: Partial<Pick<ExecPlan, 'args' | 'env'>> & { terminal?: boolean } = {},
): { argv: string[]; env: Record<string, string> } => {
  const { hasShell = true, ...process } = change;
  const { terminal = false, ...rest } = plan;
  return attachCommand(
    { ...place, hasShell, own: { ...own, ...process } },
    { args: ['ls', '-l'], ...rest, io: { terminal } },
  );
};
const start = [
  ...['/usr/bin/lxc-attach', '-n', '900001', '-P', '/var/lib/lxc', '--clear-env', '-u', '7', '-g', '8'],
];

describe('the command line of lxc-attach', () => {
  test('has the CT and the user of its process, and none of the variables that the CT has itself', () => {
    expect(command({})).toEqual({ argv: [...start, '--', 'ls', '-l'], env: {} });
  });

  test('names added variables, whose values only its own environment has', () => {
    const { argv, env } = command({}, { env: ['KEY=se=cret', 'EMPTY='] });
    expect(argv.slice(start.length)).toEqual(['--keep-var', 'KEY', '--keep-var', 'EMPTY', '--', 'ls', '-l']);
    expect(env).toEqual({ KEY: 'se=cret', EMPTY: '' });
  });

  test('has the variables of the process that its configuration cannot hold', () => {
    expect(command({ env: ['A=b', 'LINES=one\ntwo'] }).env).toEqual({ LINES: 'one\ntwo' });
  });

  test('has as arguments what the loader of lxc-attach itself would obey, and the path in which it is found', () => {
    const names = ['LD_PRELOAD', 'GLIBC_TUNABLES', 'GCONV_PATH', 'PATH'];
    const { argv, env } = command({}, { env: [...names.map((name) => `${name}=/x`), 'MY_LD_X=1'] });
    expect(env).toEqual({ MY_LD_X: '1' });
    for (const name of names) expect(argv[argv.indexOf(`${name}=/x`) - 1]).toBe('--set-var');
  });

  test.each([
    [['A=b'], undefined, 'xterm'],
    [['TERM=dumb'], undefined, undefined],
    [['A=b'], ['TERM=vt100'], 'vt100'],
  ])('gives a terminal a type, unless there is one: %j %j', (variables, env, type) => {
    expect(command({ env: variables }, { terminal: true, ...(env && { env }) }).env['TERM']).toBe(type);
    expect(command({ env: ['A=b'] }).env['TERM']).toBeUndefined(); // no terminal
  });

  test('enters the folder of the process by a shell, if the image has one', () => {
    const { argv } = command({ cwd: '/my work' });
    expect(argv.slice(argv.indexOf('--') + 1)).toEqual([
      ...['/bin/sh', '-c', 'cd "$0" && exec "$@"', '/my work', 'ls', '-l'],
    ]);
    expect(command({ cwd: '/my work', hasShell: false }).argv.slice(-3)).toEqual(['--', 'ls', '-l']);
  });
});

describe('a command', () => {
  let node: StandInNode;
  let container: ContainerRef;
  beforeEach(async () => {
    log.level = 'silent';
    node = await StandInNode.make();
    const { id, folder, spec, ...plan } = node.plan();
    spec.process.cwd = '/none';
    spec.process.oomScoreAdj = 321;
    writeFileSync(node.path('bundle/config.json'), JSON.stringify(spec));
    container = { id, folder, logPath: '', state: await create(node.ctx, { id, folder, spec, ...plan }) };
    node.program('attach', 'cd / && while [ "$1" != -- ]; do shift; done; shift; exec "$@"');
  });
  afterEach(() => node.remove());

  const run = async (
    args: string[],
    {
      timeoutMs,
      signal = new AbortController().signal,
      ...rest
    }: Partial<ExecPlan> & { signal?: AbortSignal } = {},
  ): Promise<{ exitCode: number; said: string }> => {
    const stdout = new PassThrough();
    let said = '';
    stdout.on('data', (chunk: Buffer) => (said += chunk.toString()));
    const { exitCode } = await exec(
      node.ctx,
      container,
      { args, io: { terminal: false, stdout }, timeoutMs, ...rest },
      signal,
    );
    return { exitCode, said };
  };

  test('has its output, its exit code, its variables and the OOM score of the process', async () => {
    expect(
      await run(['sh', '-c', 'echo "$X in $PWD"; cat /proc/self/oom_score_adj; exit 5'], { env: ['X=y'] }),
    ).toEqual({ exitCode: 5, said: 'y in /\n321\n' });
  });

  test('that has ended listens no more for the end of its client', async () => {
    const { signal } = new AbortController();
    await run(['true'], { signal, timeoutMs: 20_000 });
    expect(getEventListeners(signal, 'abort')).toEqual([]);
  });

  test('in an image with a shell starts in the folder of the process', async () => {
    mkdirSync(node.path('rootfs/bin'));
    writeFileSync(node.path('rootfs/bin/sh'), '');
    // The folder is one of the CT: on this host it does not exist.
    expect((await run(['true'])).exitCode).not.toBe(0);
  });

  test('finds the shell through the process of a CT whose rootfs is mounted only there', async () => {
    const spec = node.plan().spec;
    writeFileSync(
      node.path('bundle/config.json'),
      JSON.stringify({
        ...spec,
        process: { ...spec.process, cwd: '/none' },
        root: { path: node.path('away') },
      }),
    );
    expect((await run(['true'])).exitCode).toBe(0);
    node.write('pid', `${process.pid}\n`); // its root has a shell
    expect((await run(['true'])).exitCode).not.toBe(0);
  });

  test('has streams that belong to the user of the CT, and reads its input', async () => {
    const script = 'stat -L -c %u /proc/self/fd/0 /proc/self/fd/1 /proc/self/fd/2; cat';
    const stdin = new PassThrough();
    stdin.end('words');
    const stdout = new PassThrough();
    const stderr = new PassThrough().resume();
    let said = '';
    stdout.on('data', (chunk: Buffer) => (said += chunk.toString()));
    await run(['sh', '-c', script], { io: { terminal: false, stdin, stdout, stderr } });
    expect(said).toBe('7\n7\n7\nwords');
  });

  test('without a user of its own runs as the root of the host', async () => {
    container = { ...container, state: { ...(container.state as object), uid: 0 } };
    expect((await run(['stat', '-L', '-c', '%u', '/proc/self/fd/1'])).said).toBe('0\n');
  });

  test('that a signal ends is an error', async () => {
    node.program('attach', 'kill -9 $$');
    await expect(run(['x'])).rejects.toMatchObject({
      id: 'RuntimeFailed',
      message: expect.stringContaining('SIGKILL'),
    });
  });

  test('that takes too long is ended with what it has started', async () => {
    const ended = run(['sh', '-c', `sleep 1000 & echo $! >'${node.path('child')}'; wait`], {
      timeoutMs: 300,
    });
    await expect(ended).rejects.toMatchObject({ id: 'ExecTimeout' });
    const child = node.read('child').trim();
    await until(() => !pidExists(child));
  });

  test('whose client leaves is ended', async () => {
    const client = new AbortController();
    const ended = run(['sh', '-c', `echo $$ >'${node.path('child')}'; exec sleep 1000`], {
      signal: client.signal,
    });
    await until(() => {
      try {
        return node.read('child') !== '';
      } catch {
        return false;
      }
    });
    client.abort();
    await expect(ended).rejects.toMatchObject({ id: 'Cancelled' });
    const child = node.read('child').trim();
    await until(() => !pidExists(child));
  });

  test.each([
    ['its exit code', ['sh', '-c', 'tty >/dev/null && exit 6'], {}, 6],
    ['the type of the terminal', ['sh', '-c', '[ "$TERM" = xterm ] && exit 4'], {}, 4],
  ])('on a terminal has %s', async (_, args, change, exitCode) => {
    const io = { terminal: true, stdout: new PassThrough().resume() };
    expect(await run(args, { io, ...change })).toMatchObject({ exitCode });
  });

  test('on a terminal that takes too long is ended', async () => {
    const io = { terminal: true, stdout: new PassThrough().resume() };
    await expect(run(['sleep', '1000'], { io, timeoutMs: 300 })).rejects.toMatchObject({ id: 'ExecTimeout' });
  });
});

describe('the size of the terminal of an attached client', () => {
  let node: StandInNode;
  let watcher: Server;
  let told: string[];
  let starter: ChildProcess | undefined;
  afterEach(async () => {
    starter?.kill('SIGKILL');
    watcher.close();
    await node.remove();
  });

  test('goes to the watcher, and the parent of the first process is signalled', async () => {
    log.level = 'silent';
    node = await StandInNode.make();
    const plan = node.plan();
    const state = await create(node.ctx, plan);
    told = [];
    watcher = createServer((socket) =>
      socket.on('data', (chunk) => {
        const words = chunk.toString().trim();
        told.push(words);
        if (words === 'attach') socket.write('ok\n');
        else socket.end('ok\n');
      }),
    ).listen(node.path('bundle/watch'));
    await once(watcher, 'listening');
    // In place of lxc-start: it notes the signal.
    starter = spawn('bash', [
      '-c',
      `trap 'touch "${node.path('signalled')}"' WINCH; sleep 1000 & echo $! >'${node.path('pid')}'; while :; do wait; done`,
    ]);
    await until(() => {
      try {
        return node.read('pid').trim() !== '';
      } catch {
        return false;
      }
    });
    const client = new AbortController();
    let resize: (size: { width: number; height: number }) => void = () => undefined;
    const attached = attach(
      node.ctx,
      { id: plan.id, folder: plan.folder, logPath: '', state },
      {
        terminal: true,
        stdout: new PassThrough(),
        onResize: (follow: typeof resize) => (resize = follow),
      },
      client.signal,
    );
    await until(() => told.includes('attach'));
    resize({ width: 132, height: 43 });
    await until(() => {
      try {
        return node.read('signalled') === '';
      } catch {
        return false;
      }
    });
    expect(told).toContain('resize 43 132');
    process.kill(Number(node.read('pid')), 'SIGKILL');
    client.abort();
    await attached;
  });
});
