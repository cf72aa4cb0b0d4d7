// Routing and fallback in the daemon: the handler is chosen once per pod and shown with
// its rule, and runc replaces a broken crun; a standalone container runs independently
// beside the daemon.
import { afterAll, afterEach, beforeAll, expect, test } from '@jest/globals';
import { chmod, copyFile, mkdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { startDaemon, type Daemon } from '../helpers/daemon.js';
import { freePort } from '../helpers/port.js';
import {
  containerConfig,
  removePod,
  runPod,
  startContainer,
  testImage,
  untilStopped,
  waitForExit,
} from '../helpers/requests.js';
import { writeWrapper } from '../helpers/stand-ins.js';

const bin = fileURLToPath(new URL('../../bin/crisp', import.meta.url));
const config = {
  routing: { rules: [{ labels: { tier: '/back|front/' }, handler: 'runc' }], crun_name_patterns: ['*'] },
  default_container_type: 'runc',
};
let daemon: Daemon;
let wrapper: string;

beforeAll(async () => {
  daemon = await startDaemon({ config });
  await daemon.addImage(testImage);
  wrapper = join(daemon.folder, 'crun-wrapper');
});
afterAll(() => daemon?.destroy());

/** For one test. */
async function configure(own: Record<string, unknown>): Promise<void> {
  await daemon.writeConfig(own);
  isOwn = own !== config;
}
let isOwn = false;
afterEach(async () => {
  if (!isOwn) return;
  await configure(config);
  await daemon.restart();
});

const breakCrun = (broken: boolean) =>
  writeWrapper(wrapper, 'crun', broken ? 'echo broken on purpose >&2; exit 1' : '');

/** The lines of /metrics. */
async function figures(port: number): Promise<string[]> {
  return (await (await fetch(`http://127.0.0.1:${port}/metrics`)).text()).split('\n');
}

async function choice(id: string): Promise<{ handler: string; rule: string }> {
  const { info } = await daemon.client.runtime.PodSandboxStatus({ pod_sandbox_id: id, verbose: true });
  const { handler, rule } = JSON.parse(info['info'] ?? '{}') as { handler: string; rule: string };
  return { handler, rule };
}

test('a rule, a name pattern and a RuntimeClass select the handler, and the status names which', async () => {
  const byRule = await runPod(daemon, { labels: { tier: 'back' } });
  const byName = await runPod(daemon);
  const byClass = await runPod(daemon, { labels: { tier: 'back' } }, 'crun');
  expect(await choice(byRule.id)).toEqual({
    handler: 'runc',
    rule: 'routing.rules[0] (label tier "/back|front/")',
  });
  expect(await choice(byName.id)).toEqual({ handler: 'crun', rule: 'routing.crun_name_patterns *' });
  expect(await choice(byClass.id)).toEqual({ handler: 'crun', rule: 'RuntimeClass handler crun' });
  for (const pod of [byRule, byName, byClass]) await removePod(daemon, pod.id);
  await expect(runPod(daemon, {}, 'kata')).rejects.toThrow(
    /UnknownHandler: runtime handler "kata" is not configured; there are: crun, runc/,
  );
});

test('crisp status queries the daemon', async () => {
  const pod = await runPod(daemon);
  const { stdout, exitCode } = await daemon.machine.run([
    process.execPath,
    bin,
    'status',
    '--json',
    '--config',
    daemon.configFile,
  ]);
  expect(JSON.parse(stdout)).toMatchObject({
    healthy: true,
    pods: { ready: 1, notReady: 0 },
    images: 1,
    conditions: [
      { type: 'RuntimeReady', status: true },
      { type: 'NetworkReady', status: true },
    ],
    handlers: [
      { name: 'crun', ready: true },
      { name: 'runc', ready: true },
    ],
  });
  expect(exitCode).toBe(0);
  await removePod(daemon, pod.id);
});

test('a setting that a handler does not support is reported with the reason, to the kubelet and in the log', async () => {
  const told = async () => {
    const { runtime_handlers: handlers, info } = await daemon.client.runtime.Status({ verbose: true });
    const lacks = new Map(
      Object.entries(
        JSON.parse(info['handlers'] ?? '{}') as Record<string, { lacks: { userNamespaces?: string } }>,
      ).map(([name, handler]) => [name, handler.lacks.userNamespaces]),
    );
    return handlers
      .filter(({ name }) => name !== '')
      .map(({ name, features }) => ({ name, offered: features?.user_namespaces, reason: lacks.get(name) }));
  };
  for (const { offered, reason } of await told()) expect(offered).toBe(reason === undefined);
  await chmod(daemon.folder, 0o700); // the state folder is below it
  await daemon.restart();
  const reason = `${daemon.folder} cannot be traversed by the ids of a user namespace: chmod o+x ${daemon.folder}`;
  expect(await told()).toEqual(['crun', 'runc'].map((name) => ({ name, offered: false, reason })));
  const { stdout } = await daemon.machine.run([
    process.execPath,
    bin,
    'status',
    '--config',
    daemon.configFile,
  ]);
  expect(stdout).toContain(`; no user namespaces: ${reason}\n`);
  await chmod(daemon.folder, 0o711);
  await daemon.restart();
});

test('a standalone container runs independently of the daemon and its restart, and keeps its image', async () => {
  const cliState = join(daemon.folder, 'cli');
  await configure({ ...config, cli_state: cliState });
  await daemon.restart();
  const crisp = (command: string, ...words: string[]) =>
    daemon.machine.run([process.execPath, bin, command, '--config', daemon.configFile, ...words]);
  expect(await crisp('run', '--detach', '--name', 'beside', testImage, 'sleep', '1000')).toMatchObject({
    exitCode: 0,
  });
  await daemon.restart();
  expect((await daemon.client.runtime.ListContainers({})).containers).toEqual([]);
  await expect(daemon.client.image.RemoveImage({ image: { image: testImage } })).rejects.toThrow(
    /ImageInUse/,
  );
  expect(JSON.parse((await crisp('state', '--json', 'beside')).stdout)).toMatchObject({ status: 'running' });
  expect(await crisp('exec', 'beside', 'echo', 'lives')).toMatchObject({ stdout: 'lives\n', exitCode: 0 });
  expect(JSON.parse((await crisp('gc', '--dry-run', '--json')).stdout)).toMatchObject({ orphans: [] });
  expect(await crisp('delete', '--force', 'beside')).toMatchObject({ exitCode: 0 });
});

test('with a broken crun, pods run on runc, and each pod keeps its handler', async () => {
  await breakCrun(true);
  const port = await freePort();
  await configure({ handlers: { crun: { path: wrapper } }, metrics: { port } });
  await daemon.restart();
  const pod = await runPod(daemon);
  expect(await choice(pod.id)).toEqual({
    handler: 'runc',
    rule: 'default_container_type, with runc as the fallback of crun',
  });
  const id = await startContainer(daemon, pod, containerConfig(untilStopped(3)));
  expect(daemon.entries()).toContainEqual(
    expect.objectContaining({
      msg: 'pod sandbox runs',
      handler: 'runc',
      rule: expect.stringContaining('fallback of crun'),
    }),
  );
  await expect(runPod(daemon, {}, 'crun')).rejects.toThrow(/HandlerNotReady: .*broken on purpose/);

  expect(await figures(port)).toEqual(
    expect.arrayContaining([
      'crisp_pods_routed_total{handler="runc",rule="default_container_type, with runc as the fallback of crun"} 1',
      'crisp_handler_fallbacks_total{from="crun",to="runc"} 1',
      'crisp_handler_ready{handler="crun"} 0',
      'crisp_handler_ready{handler="runc"} 1',
      expect.stringMatching(
        /^crisp_handler_broken_info\{handler="crun",reason="[^"]*broken on purpose.*"\} 1$/,
      ),
    ]),
  );
  const conditions = await daemon.client.runtime.Status({ verbose: true });
  expect(JSON.stringify(conditions)).toContain('broken on purpose');

  // Repaired and broken again, as by a package upgrade, while the daemon runs.
  await breakCrun(false);
  const next = await runPod(daemon);
  expect(await choice(next.id)).toEqual({ handler: 'crun', rule: 'default_container_type' });
  expect(daemon.entries()).toContainEqual(
    expect.objectContaining({ msg: expect.stringContaining('probed again'), handler: 'crun', ready: true }),
  );
  await breakCrun(true);
  const third = await runPod(daemon);
  expect(await choice(third.id)).toMatchObject({ handler: 'runc' });
  await breakCrun(false);

  // The choice is for life, also across a restart that would choose otherwise.
  await daemon.restart();
  expect(await choice(pod.id)).toMatchObject({ handler: 'runc' });
  await daemon.client.runtime.StopContainer({ container_id: id, timeout: '10' });
  expect(await waitForExit(daemon, id)).toMatchObject({ exit_code: 3 });
  for (const each of [pod, next, third]) await removePod(daemon, each.id);
});

test('a configured handler: its own root, shared with others, and the annotations that it allows', async () => {
  const root = join(daemon.folder, 'shared-root');
  const foreign = join(daemon.folder, 'foreign');
  await makeForeignBundle(foreign);
  const crun = (...words: string[]) => daemon.machine.run(['crun', `--root=${root}`, ...words]);
  await configure({
    handlers: { own: { type: 'oci', path: '/usr/bin/crun', root, allowed_annotations: ['example.com/*'] } },
  });
  // Its first process would keep our pipes open.
  expect(
    await daemon.machine.run([
      'sh',
      '-c',
      'crun --root="$0" create --bundle "$1" foreign >/dev/null 2>&1',
      root,
      foreign,
    ]),
  ).toMatchObject({ exitCode: 0 });
  try {
    await daemon.restart();
    const pod = await runPod(
      daemon,
      { annotations: { 'example.com/pod': 'yes', 'run.oci.hooks.stdout': '/tmp/no' } },
      'own',
    );
    const id = await startContainer(daemon, pod, {
      ...containerConfig(untilStopped(0)),
      annotations: { 'example.com/container': 'yes', other: 'no' },
    });
    const { annotations } = JSON.parse(
      await readFile(daemon.machine.path(join(daemon.state, 'bundles', id, 'config.json')), 'utf8'),
    ) as { annotations: Record<string, string> };
    expect(
      Object.keys(annotations)
        .filter((key) => !key.startsWith('io.crisp.'))
        .sort(),
    ).toEqual(['example.com/container', 'example.com/pod']);
    expect((await crun('list', '--quiet')).stdout.split('\n')).toEqual(
      expect.arrayContaining(['foreign', id]),
    );
    await daemon.restart();
    expect(await crun('state', 'foreign')).toMatchObject({ exitCode: 0 });
    await removePod(daemon, pod.id);
    expect((await crun('list', '--quiet')).stdout.trim()).toBe('foreign');
  } finally {
    await crun('delete', '--force', 'foreign');
  }
});

/** A foreign container. */
async function makeForeignBundle(folder: string): Promise<void> {
  for (const name of ['proc', 'dev']) await mkdir(join(folder, 'rootfs', name), { recursive: true });
  await copyFile('/bin/busybox', join(folder, 'rootfs/busybox'));
  await writeFile(
    join(folder, 'config.json'),
    JSON.stringify({
      ociVersion: '1.0.2',
      root: { path: 'rootfs' },
      mounts: [{ destination: '/proc', type: 'proc', source: 'proc' }],
      process: { user: { uid: 0, gid: 0 }, args: ['/busybox', 'sleep', '1000'], cwd: '/' },
      linux: { namespaces: [{ type: 'pid' }, { type: 'mount' }], cgroupsPath: '/crisp-foreign' },
    }),
  );
}
