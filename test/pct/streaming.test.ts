// Exec, attach and port-forward into CTs, with the real crictl.
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { spawn, type ChildProcessWithoutNullStreams } from 'node:child_process';
import { buffer, text } from 'node:stream/consumers';
import type { Daemon } from '../helpers/daemon.js';
import {
  containerConfig,
  createContainer,
  runPod,
  startContainer,
  untilStopped,
} from '../helpers/requests.js';
import { difference } from '../helpers/offenders.js';
import { Node } from './node.js';

let node: Node;
let daemon: Daemon;
let pod: Awaited<ReturnType<typeof runPod>>;
let id: string;
beforeAll(async () => {
  [node, daemon] = await Node.withDaemon();
  pod = await runPod(daemon, {}, 'lxc');
  id = await startContainer(daemon, pod, containerConfig(`httpd -p 8080 -h /etc; ${untilStopped()}`));
});
afterAll(() => node?.stop());

function crictl(verb: string, ...args: readonly string[]): string[] {
  return daemon.crictlArgv(verb, ...args);
}
function run(line: readonly string[]): ChildProcessWithoutNullStreams {
  const [tool = '', ...args] = daemon.machine.enter(line);
  return spawn(tool, args);
}
async function outcome(child: ChildProcessWithoutNullStreams): Promise<string[]> {
  return Promise.all([text(child.stdout), text(child.stderr)]);
}

test('exec -i: 20 MB there and back', async () => {
  const sent = Buffer.alloc(20_000_000, 'crisp');
  const child = run(crictl('exec', '-i', id, 'cat'));
  const received = buffer(child.stdout);
  child.stdin.end(sent);
  expect(difference(await received, sent)).toBe('');
});

test('exec -i: a script by the name of its standard input', async () => {
  const child = run(crictl('exec', '-i', id, 'sh', '/dev/stdin', 'word'));
  child.stdin.end('echo "got $1" >/dev/stdout; echo err >/dev/stderr');
  expect(await outcome(child)).toEqual(['got word\n', 'err\n']);
});

test('exec -it: a terminal with the size of the client', async () => {
  const child = run([
    'script',
    '-qec',
    `stty rows 40 cols 100; exec ${crictl('exec', '-it', id, 'sh').join(' ')}`,
    '/dev/null',
  ]);
  let output = '';
  let asked = false;
  for await (const chunk of child.stdout) {
    output += String(chunk);
    if (!asked && output.includes('# '))
      asked = child.stdin.write(
        'until [ "$(stty size)" = "40 100" ]; do sleep 0.1; done; stty size; echo $TERM; test -t 0 && exit 7\n',
      );
  }
  expect(output).toContain('\n40 100');
  expect(output).toContain('xterm');
  expect(output).toContain('exit code 7');
});

test('attach -i: to the first process, until it has ended', async () => {
  const attached = await startContainer(
    daemon,
    pod,
    containerConfig('read line; echo "got $line"; echo err >&2', {
      metadata: { name: 'attached', attempt: 0 },
      stdin: true,
      stdin_once: true,
    }),
  );
  const child = run(crictl('attach', '-i', attached));
  child.stdin.write('hello\n');
  expect(await outcome(child)).toEqual(['got hello\n', 'err\n']);
});

test('attach: the end of the input reaches a process that reads to the end', async () => {
  const attached = await startContainer(
    daemon,
    pod,
    containerConfig('wc -c', { metadata: { name: 'counts', attempt: 0 }, stdin: true, stdin_once: true }),
  );
  const child = run(crictl('attach', '-i', attached));
  child.stdin.end(Buffer.alloc(300_000, 'x'));
  expect((await outcome(child))[0]).toBe('300000\n');
});

test('attach -it: the terminal of the container itself', async () => {
  const attached = await createContainer(
    daemon,
    pod,
    containerConfig('test -t 0 && echo "a terminal"; read line; stty size; echo "got $line"; exit 4', {
      metadata: { name: 'tty', attempt: 0 },
      stdin: true,
      tty: true,
      log_path: 'tty.log',
    }),
  );
  await daemon.client.runtime.StartContainer({ container_id: attached });
  const child = run([
    'script',
    '-qec',
    `stty rows 30 cols 90; exec ${crictl('attach', '-it', attached).join(' ')}`,
    '/dev/null',
  ]);
  let output = '';
  const sized = daemon.client.runtime.ExecSync({
    container_id: attached,
    cmd: ['sh', '-c', 'until [ "$(stty size </proc/1/fd/0)" = "30 90" ]; do sleep 0.1; done'],
    timeout: '30',
  });
  void sized.then(
    () => child.stdin.write('hello\r'),
    () => child.kill(),
  );
  for await (const chunk of child.stdout) output += String(chunk);
  await sized;
  expect(output).toContain('got hello');
  expect(output).toContain('30 90');
});

test('port-forward: into the network of the pod', async () => {
  const child = run(crictl('port-forward', pod.id, '0:8080'));
  let said = '';
  for await (const chunk of child.stdout) {
    said += String(chunk);
    const port = /127\.0\.0\.1:(\d+) ->/.exec(said)?.[1];
    if (!port) continue;
    const answer = await fetch(`http://127.0.0.1:${port}/hostname`);
    expect(await answer.text()).toBe('box\n');
    break;
  }
  child.kill();
});
