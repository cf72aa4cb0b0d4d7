// Clients that do not read, paste large input, disconnect, or end their input, on real
// containers with conmon and terminals.
import { afterAll, beforeAll, beforeEach, describe, expect, test } from '@jest/globals';
import { execFileSync, spawn } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { text } from 'node:stream/consumers';
import { setTimeout as sleep } from 'node:timers/promises';
import { startDaemon, type Daemon } from '../helpers/daemon.js';
import {
  containerConfig,
  runPod,
  startContainer,
  testImage,
  untilStopped,
  waitForExit,
} from '../helpers/requests.js';
import { SpdyClient, type ClientStream } from '../helpers/spdy-client.js';
import { until } from '../helpers/wait.js';

let daemon: Daemon;
beforeAll(async () => {
  daemon = await startDaemon();
  await daemon.addImage(testImage);
});
afterAll(() => daemon?.destroy());

type Streams = 'error' | 'stdin' | 'stdout' | 'stderr' | 'resize';
/** Opens a streaming URL with these streams. What comes on them waits until it is read, and then the whole connection. */
async function open(
  url: string,
  ...types: readonly Streams[]
): Promise<{ client: SpdyClient; streams: Record<Streams, ClientStream> }> {
  const client = await SpdyClient.open(url, 'v4.channel.k8s.io');
  const streams = {} as Record<Streams, ClientStream>;
  for (const streamtype of types) streams[streamtype] = await client.createStream({ streamtype });
  return { client, streams };
}
/** Processes of this machine whose command line contains the words. */
function running(words: string): number {
  return execFileSync('ps', ['-ww', '-eo', 'args'], { encoding: 'utf8' })
    .split('\n')
    .filter((line) => line.includes(words)).length;
}
let number = 0;

describe.each(['crun', 'runc'])('in a pod of %s', (handler) => {
  let pod: Awaited<ReturnType<typeof runPod>>;
  let marker: string;
  beforeAll(async () => {
    pod = await runPod(
      daemon,
      { metadata: { name: handler, namespace: 'test', uid: handler, attempt: 0 } },
      handler,
    );
  });
  beforeEach(() => {
    marker = String(900_000 + number++);
  });

  function container(script: string, more: object = {}): Promise<string> {
    const name = `c${number++}`;
    return startContainer(
      daemon,
      pod,
      containerConfig(script, {
        metadata: { name, attempt: 0 },
        log_path: `${handler}-${name}.log`,
        ...more,
      }),
    );
  }
  async function exec(id: string, cmd: readonly string[], stdin = true): Promise<string> {
    return (
      await daemon.client.runtime.Exec({ container_id: id, cmd: [...cmd], tty: true, stdin, stdout: true })
    ).url;
  }
  async function attach(id: string, streams: object): Promise<string> {
    return (await daemon.client.runtime.Attach({ container_id: id, ...streams })).url;
  }
  async function logOf(id: string): Promise<string> {
    const { status } = await daemon.client.runtime.ContainerStatus({ container_id: id });
    return readFileSync(status?.log_path as string, 'utf8');
  }
  async function stopped(id: string): Promise<void> {
    await daemon.client.runtime.StopContainer({ container_id: id, timeout: '1' });
    await waitForExit(daemon, id);
  }

  test('an exec with a terminal whose client does not read does not stop its container from ending', async () => {
    const id = await container(untilStopped());
    const { client } = await open(await exec(id, ['sh', '-c', `yes ${marker}`]), 'error', 'stdin', 'stdout');
    await until(() => running(`yes ${marker}`) > 0);
    await sleep(1_000); // everything between is full now
    await stopped(id);
    expect(running(`yes ${marker}`)).toBe(0);
    client.socket.destroy();
    await until(() => running(`${id}/execs`) === 0);
  });

  test('nor does one whose client has disappeared', async () => {
    const id = await container(untilStopped());
    const { client } = await open(await exec(id, ['sh', '-c', `yes ${marker}`]), 'error', 'stdin', 'stdout');
    await until(() => running(`yes ${marker}`) > 0);
    await sleep(500);
    client.socket.resetAndDestroy();
    await until(() => running(`yes ${marker}`) === 0);
    await until(() => running(`${id}/execs`) === 0);
    await stopped(id);
  });

  test('a paste of 128 KiB goes through a terminal', async () => {
    const id = await container(untilStopped());
    const { client, streams } = await open(await exec(id, ['cat']), 'error', 'stdin', 'stdout');
    let output = '';
    streams.stdout.output.on('data', (chunk: Buffer) => {
      output += chunk.toString();
    });
    await streams.stdin.write(`${'x'.repeat(127)}\n`.repeat(1024));
    await streams.stdin.write('the end\n');
    await until(() => output.split('the end').length === 3); // the echo, and what cat says
    await streams.stdin.write('\x04');
    expect(JSON.parse(await text(streams.error.output))).toEqual({ status: 'Success' });
    client.socket.destroy();
  });

  test('an attach that does not read delays neither log nor exit, and gets an error', async () => {
    const id = await container(
      `sleep 2; yes ${'y'.repeat(999)} | head -c 80000000; echo the last line; exit 3`,
    );
    const { client, streams } = await open(
      await attach(id, { stdout: true, stderr: true }),
      'error',
      'stdout',
      'stderr',
    );
    expect((await waitForExit(daemon, id)).exit_code).toBe(3);
    expect((await logOf(id)).trimEnd()).toMatch(/the last line$/);
    for (const stream of [streams.stdout, streams.stderr]) stream.output.resume();
    expect(JSON.parse(await text(streams.error.output))).toMatchObject({
      message: expect.stringMatching(/ClientTooSlow: .*did not take the output/) as unknown,
    });
    client.socket.destroy();
  });

  test('an attach ends with its input, and the input of the container stays open for the next', async () => {
    const id = await container('while read line; do echo "got $line"; done', { stdin: true });
    for (const word of ['one', 'two']) {
      const { client, streams } = await open(
        await attach(id, { stdin: true, stdout: true, stderr: true }),
        'error',
        'stdin',
        'stdout',
        'stderr',
      );
      await streams.stdin.write(`${word}\n`);
      streams.stdin.end();
      for (const stream of [streams.stdout, streams.stderr]) stream.output.resume();
      expect(JSON.parse(await text(streams.error.output))).toEqual({ status: 'Success' });
      await client.closed;
      await until(async () => (await logOf(id)).includes(`got ${word}`));
    }
    await stopped(id);
  });

  test('with stdin_once the end of the input ends that of the container, whose output continues', async () => {
    const id = await container('cat; sleep 1; echo after the end', { stdin: true, stdin_once: true });
    const { streams } = await open(
      await attach(id, { stdin: true, stdout: true, stderr: true }),
      'error',
      'stdin',
      'stdout',
      'stderr',
    );
    await streams.stdin.write('hello\n');
    streams.stdin.end();
    expect(await text(streams.stdout.output)).toBe('hello\nafter the end\n');
    expect((await waitForExit(daemon, id)).exit_code).toBe(0);
  });

  test('an attach to a terminal ends with its input as well', async () => {
    const id = await container('read line; echo "got $line"; sleep 1000', {
      stdin: true,
      stdin_once: true,
      tty: true,
    });
    const { streams } = await open(
      await attach(id, { stdin: true, stdout: true, tty: true }),
      'error',
      'stdin',
      'stdout',
    );
    await streams.stdin.write('hello\n');
    streams.stdin.end();
    streams.stdout.output.resume();
    expect(JSON.parse(await text(streams.error.output))).toEqual({ status: 'Success' });
    await until(async () => (await logOf(id)).includes('got hello'));
    await stopped(id);
  });

  test('killing the daemon ends the execs with a terminal; stopping it ends all sessions', async () => {
    const id = await container(untilStopped());
    await open(await exec(id, ['sleep', marker], false), 'error', 'stdout');
    await until(() => running(`sleep ${marker}`) > 0);
    await daemon.kill9();
    await until(() => running(`sleep ${marker}`) === 0);
    await daemon.start();
    const idle = await open(
      await exec(id, ['sh', '-c', `yes ${marker}`]),
      'error',
      'stdin',
      'stdout',
      'resize',
    );
    await open(await attach(id, { stdout: true, stderr: true }), 'error', 'stdout', 'stderr');
    await until(() => running(`yes ${marker}`) > 0);
    for (let size = 1; size <= 20_000; size++)
      await idle.streams.resize.write(JSON.stringify({ Width: size, Height: 24 }));
    expect(await daemon.stop()).toBe(0);
    await until(() => running(`yes ${marker}`) === 0);
    await daemon.start();
    await stopped(id);
  });

  test('echo x | crictl attach -i ends', async () => {
    const id = await container('while read line; do echo "got $line"; done', { stdin: true });
    for (const transport of ['spdy', 'websocket']) {
      const [tool = '', ...args] = daemon.machine.enter(
        daemon.crictlArgv('attach', '--transport', transport, '-i', id),
      );
      const child = spawn(tool, args);
      child.stdin.end(`${transport}\n`);
      child.stdout.resume();
      await text(child.stderr);
      await until(async () => (await logOf(id)).includes(`got ${transport}`));
    }
    await stopped(id);
  });
});
