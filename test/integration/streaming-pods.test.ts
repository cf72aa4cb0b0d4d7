// Exec, attach and port-forward into real pods, with the real crictl, on both
// transports. The protocols by themselves have streaming-crictl.test.ts.
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { spawn, type ChildProcessWithoutNullStreams } from 'node:child_process';
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { connect } from 'node:net';
import { buffer, text } from 'node:stream/consumers';
import { startDaemon, type Daemon } from '../helpers/daemon.js';
import { containerConfig, runPod, startContainer, testImage, untilStopped } from '../helpers/requests.js';

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
    id = await startContainer(daemon, pod, containerConfig(untilStopped(), { metadata: { name: `main-${transport}`, attempt: 0 } }));
  });

  function crictl(verb: string, ...args: readonly string[]): string[] {
    return [process.env['CRICTL'] ?? 'crictl', '--config', '/dev/null', '-r', `unix://${daemon.socket}`, verb, '--transport', transport, ...args];
  }
  function run(line: readonly string[]): ChildProcessWithoutNullStreams {
    const [tool = '', ...args] = daemon.machine.enter(line);
    return spawn(tool, args);
  }
  async function outcome(child: ChildProcessWithoutNullStreams): Promise<string[]> {
    return Promise.all([text(child.stdout), text(child.stderr)]);
  }

  test('exec: both outputs, and the exit code', async () => {
    const [stdout, stderr] = await outcome(run(crictl('exec', id, 'sh', '-c', 'hostname; echo err >&2; exit 3')));
    expect(stdout).toBe('box\n');
    expect(stderr).toMatch(/^err\n[^]*exit code 3/m);
  });

  test('exec of a command that is not there says so', async () => {
    const [, stderr] = await outcome(run(crictl('exec', id, 'nonsense')));
    expect(stderr).toMatch(/nonsense|not found|no such file/i);
  });

  test('exec -i: 100 MB there and back, byte for byte', async () => {
    const sent = Buffer.concat(Array.from({ length: 100 }, (_, index) => Buffer.alloc(1_000_000, createHash('sha512').update(String(index)).digest())));
    const child = run(crictl('exec', '-i', id, 'cat'));
    const received = buffer(child.stdout);
    child.stdin.end(sent);
    expect((await received).equals(sent)).toBe(true);
  });

  test('exec -it: a terminal of the size that the client has', async () => {
    const child = run(['script', '-qec', `stty rows 40 cols 100; exec ${crictl('exec', '-it', id, 'sh').join(' ')}`, '/dev/null']);
    let output = '';
    let asked = false;
    for await (const chunk of child.stdout) {
      output += String(chunk);
      if (!asked && output.includes('# ')) asked = child.stdin.write('stty size; test -t 0 && exit 7\n');
    }
    expect(output).toContain('40 100');
    expect(output).toContain('exit code 7');
  });

  test('attach -i: to the first process, until it has ended', async () => {
    const attached = await startContainer(daemon, pod, containerConfig('read line; echo "got $line"; echo err >&2', { metadata: { name: `attached-${transport}`, attempt: 0 }, stdin: true, stdin_once: true }));
    const child = run(crictl('attach', '-i', attached));
    child.stdin.write('hello\n');
    expect(await outcome(child)).toEqual(['got hello\n', 'err\n']);
  });

  test('port-forward: into the network of the pod', async () => {
    const port = transport === 'spdy' ? 8080 : 8081;
    const echo = await startContainer(daemon, pod, containerConfig(`exec nc -ll -p ${port} -e cat`, { metadata: { name: `echo-${transport}`, attempt: 0 } }));
    const listening = `:${port.toString(16).toUpperCase()} [0-9A-F:]* 0A `;
    const waited = await daemon.client.runtime.ExecSync({ container_id: echo, cmd: ['sh', '-c', `until grep -q '${listening}' /proc/net/tcp /proc/net/tcp6; do sleep 0.1; done`], timeout: '10' });
    expect(waited.exit_code).toBe(0);
    const child = run(crictl('port-forward', pod.id, `0:${port}`));
    try {
      let said = '';
      for await (const chunk of child.stdout.iterator({ destroyOnReturn: false })) if ((said += String(chunk)).includes('127.0.0.1:')) break;
      child.stdout.resume();
      const socket = connect({ host: '127.0.0.1', port: Number(/127\.0\.0\.1:(\d+)/.exec(said)?.[1]), allowHalfOpen: true });
      await once(socket, 'connect');
      const sent = Buffer.alloc(20_000_000, 'a pod speaks ');
      const received = buffer(socket);
      socket.end(sent);
      expect((await received).equals(sent)).toBe(true);
    } finally {
      child.kill();
    }
  });
});
