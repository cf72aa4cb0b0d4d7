// Exec, attach and port-forward into real pods, with the real crictl, on both
// transports. The protocols alone are tested in streaming-crictl.test.ts.
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { execFileSync, spawn, type ChildProcessWithoutNullStreams } from 'node:child_process';
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { connect, type Socket } from 'node:net';
import { join } from 'node:path';
import { buffer, text } from 'node:stream/consumers';
import { startDaemon, type Daemon } from '../helpers/daemon.js';
import {
  containerConfig,
  runPod,
  startContainer,
  testImage,
  untilStopped,
  waitForExit,
} from '../helpers/requests.js';
import { until } from '../helpers/wait.js';
import { difference } from '../helpers/offenders.js';

let daemon: Daemon;
let pod: Awaited<ReturnType<typeof runPod>>;
beforeAll(async () => {
  daemon = await startDaemon();
  await daemon.addImage(testImage);
  pod = await runPod(daemon);
});
afterAll(() => daemon?.destroy());

describe.each(['spdy', 'websocket'])('crictl over %s', (transport) => {
  let id: string;
  beforeAll(async () => {
    id = await startContainer(
      daemon,
      pod,
      containerConfig(untilStopped(), { metadata: { name: `main-${transport}`, attempt: 0 } }),
    );
  });

  function crictl(verb: string, ...args: readonly string[]): string[] {
    return daemon.crictlArgv(verb, '--transport', transport, ...args);
  }
  function run(line: readonly string[]): ChildProcessWithoutNullStreams {
    const [tool = '', ...args] = daemon.machine.enter(line);
    return spawn(tool, args);
  }
  async function outcome(child: ChildProcessWithoutNullStreams): Promise<string[]> {
    return Promise.all([text(child.stdout), text(child.stderr)]);
  }

  test('exec: both outputs, and the exit code', async () => {
    const [stdout, stderr] = await outcome(
      run(crictl('exec', id, 'sh', '-c', 'hostname; echo err >&2; exit 3')),
    );
    expect(stdout).toBe('box\n');
    expect(stderr).toMatch(/^err\n[^]*exit code 3/m);
  });

  test('exec -i: a script by the name of its standard input', async () => {
    const child = run(crictl('exec', '-i', id, 'sh', '/dev/stdin', 'word'));
    child.stdin.end('echo "got $1" >/dev/stdout; echo err >/dev/stderr');
    expect(await outcome(child)).toEqual(['got word\n', 'err\n']);
  });

  test('exec of a command that does not exist is reported', async () => {
    const [, stderr] = await outcome(run(crictl('exec', id, 'nonsense')));
    expect(stderr).toMatch(/nonsense|not found|no such file/i);
  });

  test('exec -i: 100 MB there and back, byte for byte', async () => {
    const sent = hundredMegabytes();
    const child = run(crictl('exec', '-i', id, 'cat'));
    const received = buffer(child.stdout);
    child.stdin.end(sent);
    expect(difference(await received, sent)).toBe('');
  });

  test('exec -it: a terminal with the size of the client, and each later size', async () => {
    const ttyFile = join(daemon.folder, `tty-${transport}`);
    const child = run(
      underTerminal(crictl('exec', '-it', id, 'sh'), `stty rows 40 cols 100; tty >${ttyFile}; `),
    );
    let output = '';
    const steps: [string, () => void][] = [
      ['# ', () => child.stdin.write('until [ "$(stty size)" = "40 100" ]; do sleep 0.1; done; stty size\n')],
      [
        '\n40 100',
        () => {
          execFileSync('stty', ['-F', readFileSync(ttyFile, 'utf8').trim(), 'rows', '50', 'cols', '120']);
          child.stdin.write('until [ "$(stty size)" = "50 120" ]; do sleep 0.1; done; stty size\n');
        },
      ],
      ['\n50 120', () => child.stdin.write('test -t 0 && exit 7\n')],
    ];
    for await (const chunk of child.stdout) {
      output += String(chunk);
      const [wanted, next] = steps[0] ?? [];
      if (wanted !== undefined && output.includes(wanted)) {
        steps.shift();
        next?.();
      }
    }
    expect(steps).toEqual([]);
    expect(output).toContain('exit code 7');
  });

  test('50 sessions at once, each with its own bytes', async () => {
    await Promise.all(
      Array.from({ length: 50 }, async (_, number) => {
        const sent = Buffer.alloc(200_000, `session ${number} `);
        const child = run(crictl('exec', '-i', id, 'cat'));
        const received = buffer(child.stdout);
        child.stdin.end(sent);
        expect(difference(await received, sent)).toBe('');
      }),
    );
  });

  test.each(['-i', '-it'])('exec %s of a client that disconnects: its command is ended', async (flags) => {
    const argv = crictl('exec', flags, id, 'sleep', '98765');
    const child = run(flags === '-it' ? underTerminal(argv) : argv);
    const commands = async (): Promise<string> =>
      String(
        (
          await daemon.client.runtime.ExecSync({
            container_id: id,
            cmd: ['sh', '-c', 'grep -l "9876[5]" /proc/[0-9]*/cmdline 2>/dev/null'],
            timeout: '10',
          })
        ).stdout,
      );
    await until(async () => (await commands()) !== '');
    child.kill('SIGKILL');
    await until(async () => (await commands()) === '');
  });

  test('a container that ends during its sessions ends them: exec, attach, and a port connection', async () => {
    const port = transport === 'spdy' ? 8082 : 8083;
    const doomed = await startContainer(
      daemon,
      pod,
      containerConfig(
        `nc -ll -p ${port} -e cat & while :; do echo tick; sleep 0.2; done & ${untilStopped()}`,
        { metadata: { name: `doomed-${transport}`, attempt: 0 }, stdin: true },
      ),
    );
    await listening(doomed, port);
    const exec = run(crictl('exec', '-i', doomed, 'sh', '-c', 'echo here; exec cat'));
    const attach = run(crictl('attach', '-i', doomed));
    await Promise.all([exec, attach].map((child) => once(child.stdout, 'data')));
    const ended = [exec, attach].map((child) => outcome(child));
    const { child: forward, socket } = await forwarded(port);
    try {
      socket.write('ping');
      expect(String(((await once(socket, 'data')) as [Buffer])[0])).toBe('ping');
      const closed = once(socket, 'close');
      socket
        .resume()
        .on('end', () => socket.end())
        .on('error', () => undefined); // ended or reset, as the kernel has it
      await daemon.client.runtime.StopContainer({ container_id: doomed, timeout: '10' });
      expect(await Promise.all(ended)).toEqual([
        ['', expect.stringContaining('exit code 137')],
        [expect.stringMatching(/^(tick\n)*$/), ''],
      ]);
      await closed;
    } finally {
      forward.kill();
    }
  });

  test('attach -it: the terminal of the container itself', async () => {
    const attached = await startContainer(
      daemon,
      pod,
      containerConfig('read line; echo "got $line of $(stty size)"; sleep 0.2; exit 3', {
        metadata: { name: `terminal-${transport}`, attempt: 0 },
        stdin: true,
        stdin_once: true,
        tty: true,
      }),
    );
    const child = run(underTerminal(crictl('attach', '-it', attached), 'stty rows 40 cols 100; '));
    const said = outcome(child);
    await daemon.client.runtime.ExecSync({
      container_id: attached,
      cmd: ['sh', '-c', 'until [ "$(stty size </proc/1/fd/0)" = "40 100" ]; do sleep 0.1; done'],
      timeout: '30',
    });
    child.stdin.write('hello\r');
    expect((await said)[0]).toContain('got hello of 40 100');
    expect(await waitForExit(daemon, attached)).toMatchObject({ exit_code: 3 });
  });

  test('attach -i: to the first process, until it has ended', async () => {
    const attached = await startContainer(
      daemon,
      pod,
      containerConfig('read line; echo "got $line"; echo err >&2', {
        metadata: { name: `attached-${transport}`, attempt: 0 },
        stdin: true,
        stdin_once: true,
      }),
    );
    const child = run(crictl('attach', '-i', attached));
    child.stdin.write('hello\n');
    expect(await outcome(child)).toEqual(['got hello\n', 'err\n']);
  });

  test('port-forward: into the network of the pod, 100 MB there and back, byte for byte', async () => {
    const port = transport === 'spdy' ? 8080 : 8081;
    const echo = await startContainer(
      daemon,
      pod,
      containerConfig(`exec nc -ll -p ${port} -e cat`, {
        metadata: { name: `echo-${transport}`, attempt: 0 },
      }),
    );
    await listening(echo, port);
    const { child, socket } = await forwarded(port);
    try {
      const sent = hundredMegabytes();
      const received = buffer(socket);
      socket.end(sent);
      expect(difference(await received, sent)).toBe('');
    } finally {
      child.kill();
    }
  });

  async function listening(container: string, port: number): Promise<void> {
    const socket = `:${port.toString(16).toUpperCase()} [0-9A-F:]* 0A `;
    const waited = await daemon.client.runtime.ExecSync({
      container_id: container,
      cmd: ['sh', '-c', `until grep -q '${socket}' /proc/net/tcp /proc/net/tcp6; do sleep 0.1; done`],
      timeout: '10',
    });
    expect(waited.exit_code).toBe(0);
  }
  /** A connection through a crictl port-forward, which says where it listens. */
  async function forwarded(port: number): Promise<{ child: ChildProcessWithoutNullStreams; socket: Socket }> {
    const child = run(crictl('port-forward', pod.id, `0:${port}`));
    let said = '';
    for await (const chunk of child.stdout.iterator({ destroyOnReturn: false }))
      if ((said += String(chunk)).includes('127.0.0.1:')) break;
    child.stdout.resume();
    const socket = connect({
      host: '127.0.0.1',
      port: Number(/127\.0\.0\.1:(\d+)/.exec(said)?.[1]),
      allowHalfOpen: true,
    });
    await once(socket, 'connect');
    return { child, socket };
  }
});

function hundredMegabytes(): Buffer {
  return Buffer.concat(
    Array.from({ length: 100 }, (_, index) =>
      Buffer.alloc(1_000_000, createHash('sha512').update(String(index)).digest()),
    ),
  );
}

/** Runs it on a terminal of script(1); `first` is a command that runs there before. */
function underTerminal(argv: readonly string[], first = ''): string[] {
  return ['script', '-qec', `${first}exec ${argv.join(' ')}`, '/dev/null'];
}
