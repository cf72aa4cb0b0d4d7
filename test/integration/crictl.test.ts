// All commands of the real crictl without streaming, as typed by an operator. stats,
// statsp, metricdescs and metricsp are in stats.test.ts.
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { spawn } from 'node:child_process';
import { mkdir, rename, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { startDaemon, type Daemon } from '../helpers/daemon.js';
import { testImage, untilStopped } from '../helpers/requests.js';

let daemon: Daemon;
let clean: string[];
beforeAll(async () => {
  daemon = await startDaemon();
  await daemon.addImage(testImage);
  clean = await daemon.traces();
});
afterAll(() => daemon?.destroy());

/** The output of a command that must succeed. */
async function crictl(...args: readonly string[]): Promise<string> {
  const { stdout, stderr, exitCode } = await daemon.crictl(...args);
  if (exitCode !== 0) throw new Error(`crictl ${args.join(' ')}: exit code ${exitCode}: ${stderr}`);
  return stdout.trim();
}

async function file(name: string, content: object): Promise<string> {
  const path = join(daemon.folder, name);
  await writeFile(path, JSON.stringify(content));
  return path;
}

const pod = (name: string) => ({
  metadata: { name, namespace: 'default', uid: `${name}-uid`, attempt: 1 },
  hostname: name,
  log_directory: join(daemon.folder, 'logs', name),
  labels: { app: name },
  linux: {},
});
const container = (script: string) => ({
  metadata: { name: 'main', attempt: 0 },
  image: { image: testImage },
  command: ['sh', '-c', script],
  log_path: 'main.log',
  labels: { tier: 'front' },
  linux: { resources: { memory_limit_in_bytes: 67_108_864 } },
});

test('version, info and runtime-config', async () => {
  expect(await crictl('version')).toMatch(/RuntimeName: +crisp[\s\S]*RuntimeApiVersion: +v1/);
  expect(JSON.parse(await crictl('info'))).toMatchObject({
    status: {
      conditions: expect.arrayContaining([
        expect.objectContaining({ type: 'RuntimeReady', status: true }),
        expect.objectContaining({ type: 'NetworkReady', status: true }),
      ]),
    },
  });
  expect(await crictl('runtime-config')).toMatch(/CGROUPFS|SYSTEMD/);
  await crictl('update-runtime-config', '--pod-cidr', '10.99.0.0/24');
});

test('images, inspecti and imagefsinfo', async () => {
  expect(await crictl('images')).toMatch(/docker\.io\/library\/busybox +1 /);
  expect(JSON.parse(await crictl('inspecti', testImage))).toMatchObject({
    status: { repoTags: [testImage] },
  });
  const { status } = JSON.parse(await crictl('imagefsinfo')) as {
    status: { imageFilesystems: { usedBytes: { value: string } }[] };
  };
  expect(Number(status.imageFilesystems[0]?.usedBytes.value)).toBeGreaterThan(1_000_000);
});

test('the lifecycle of a pod, command by command', async () => {
  const podFile = await file('pod.json', pod('web'));
  const containerFile = await file('container.json', container(`echo hello; ${untilStopped(4)}`));
  const listener = daemon.machine.enter(daemon.crictlArgv('events'));
  const events = spawn(listener[0] as string, listener.slice(1), { stdio: ['ignore', 'pipe', 'ignore'] });
  let heard = '';
  events.stdout.on('data', (chunk: Buffer) => {
    heard += chunk.toString();
  });
  try {
    const podId = await crictl('runp', podFile);
    expect(await crictl('pods', '-q', '--label', 'app=web')).toBe(podId);
    expect(JSON.parse(await crictl('inspectp', podId))).toMatchObject({
      status: {
        state: 'SANDBOX_READY',
        metadata: { name: 'web' },
        network: { ip: expect.stringMatching(/^10\./) },
      },
      info: { handler: 'crun', networkCheck: 'as it was made' },
    });

    const id = await crictl('create', podId, containerFile, podFile);
    expect(await crictl('ps', '-a', '-q', '--state', 'Created')).toBe(id);
    await crictl('start', id);
    expect(await crictl('ps', '-q', '--pod', podId)).toBe(id);
    expect(JSON.parse(await crictl('inspect', id))).toMatchObject({
      status: { state: 'CONTAINER_RUNNING' },
      info: { pid: expect.any(Number), runtimeSpec: { process: { args: ['sh', '-c', expect.any(String)] } } },
    });
    expect(await crictl('exec', '--sync', id, 'hostname')).toBe('web');
    const endless = await crictl('exec', '--sync', id, 'head', '-c', '20000000', '/dev/zero');
    expect(endless.length).toBeGreaterThan(16_000_000);
    expect(await crictl('logs', id)).toBe('hello');
    await rename(
      join(daemon.folder, 'logs', 'web', 'main.log'),
      join(daemon.folder, 'logs', 'web', 'main.log.1'),
    );
    await crictl('logs', '--reopen', id);
    await crictl('update', '--memory', '134217728', id);
    expect(JSON.parse(await crictl('inspect', id))).toMatchObject({
      status: { resources: { linux: { memoryLimitInBytes: '134217728' } } },
    });
    const checkpoint = await daemon.crictl(
      'checkpoint',
      '--export',
      join(daemon.folder, 'checkpoint.tar'),
      id,
    );
    if (checkpoint.exitCode !== 0) expect(checkpoint.stderr).toMatch(/Unimplemented|criu/);

    const { pid } = (JSON.parse(await crictl('inspect', id)) as { info: { pid: number } }).info;
    const { ip } = (JSON.parse(await crictl('inspectp', podId)) as { status: { network: { ip: string } } })
      .status.network;
    const address = (verb: string) =>
      daemon.machine.must([
        'nsenter',
        '-t',
        String(pid),
        '-n',
        'ip',
        'address',
        verb,
        `${ip}/24`,
        'dev',
        'eth0',
      ]);
    await address('del');
    expect(JSON.parse(await crictl('inspectp', podId))).toMatchObject({
      info: { networkCheck: expect.stringMatching(/^CniFailed: .*bridge/) },
    });
    await address('add'); // without it, this plugin's DEL leaves its NAT rules

    await crictl('stop', '--timeout', '10', id);
    expect(JSON.parse(await crictl('inspect', id))).toMatchObject({
      status: { state: 'CONTAINER_EXITED', exitCode: 4, reason: 'Error' },
    });
    await crictl('rm', id);
    await crictl('stopp', podId);
    expect(await crictl('pods', '-q', '--state', 'NotReady')).toBe(podId);
    await crictl('rmp', podId);
    expect(await crictl('pods', '-q')).toBe('');
    for (const type of ['CREATED', 'STARTED', 'STOPPED', 'DELETED'])
      expect(heard).toContain(`CONTAINER_${type}_EVENT`);
  } finally {
    events.kill('SIGKILL');
  }
  expect(await daemon.traces()).toEqual(clean);
});

test('run creates pod and container in one step', async () => {
  await mkdir(join(daemon.folder, 'logs', 'quick'), { recursive: true });
  const id = await crictl(
    'run',
    '--no-pull',
    await file('quick-container.json', container('exit 0')),
    await file('quick-pod.json', pod('quick')),
  );
  expect(id).toMatch(/^[0-9a-f]{64}$/);
  const podId = await crictl('pods', '-q', '--name', 'quick');
  await crictl('rmp', '--force', podId);
  expect(await daemon.traces()).toEqual(clean);
});

test('pull reports a missing image, and rmi removes one', async () => {
  const { stderr, exitCode } = await daemon.crictl('pull', '127.0.0.1:1/none:1');
  expect({ stderr, exitCode }).toMatchObject({
    stderr: expect.stringContaining('RegistryUnavailable'),
    exitCode: 1,
  });
  const other = 'docker.io/library/other:1';
  await daemon.addImage(other, { files: { other: 'yes' } });
  expect(await crictl('images', '-q', other)).not.toBe('');
  await crictl('rmi', other);
  expect(await crictl('images', '-q', other)).toBe('');
});
