// The programs that crisp runs, each killed, missing, slow or hanging, in each verb that is
// used: the call that needs it fails with an error that names it, another pod is made
// meanwhile, and the same call succeeds once the fault has gone.
import { status as Code } from '@grpc/grpc-js';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { chmod, copyFile, mkdir, mkdtemp, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { WebSocket } from 'ws';
import { within } from '../../src/host/wait.js';
import { startDaemon, type Daemon } from '../helpers/daemon.js';
import { makeLayout } from '../helpers/image.js';
import { patience } from '../helpers/patience.js';
import { startRegistry, type Registry } from '../helpers/registry.js';
import { SpdyClient } from '../helpers/spdy-client.js';
import {
  containerConfig,
  createContainer,
  podConfig,
  removePod,
  runPod,
  startContainer,
  testImage,
  untilStopped,
  waitForExit,
} from '../helpers/requests.js';
import { eventually, until } from '../helpers/wait.js';

type Fault = 'killed' | 'missing' | 'slow' | 'hangs';

let daemon: Daemon;
let registry: Registry;
let folder: string;
let bin: string;
let witness: string;
let witnessPod: string;
/** Does not end at SIGTERM. */
let deaf: string;
let clean: string[];
/** The file of a stand-in that says its fault. */
const faultOf = (name: string): string => join(folder, `${name}.fault`);

/**
 * A program that has a fault in calls whose words match, and is the real one otherwise.
 * @param faults the name of the fault by the words (a pattern of sh)
 */
async function writeStandIn(name: string, program: string, faults: Record<string, string>): Promise<void> {
  for (const fault of Object.values(faults)) await writeFile(faultOf(fault), '');
  const cases = Object.entries(faults).map(([words, fault]) => `${words}) file=${faultOf(fault)} ;;`);
  await writeFile(
    join(bin, name),
    `#!/bin/sh
case "$CNI_COMMAND $*" in
${cases.join('\n')}
*) exec ${program} "$@" ;;
esac
case $(cat $file) in
  killed) kill -9 $$ ;;
  slow) sleep 2 ;;
  cut) echo 'read tcp 127.0.0.1:5000: read: connection reset by peer' >&2; exit 1 ;;
  hangs) echo $$ >>$file.begun; exec sleep 1000 ;;
esac
exec ${program} "$@"
`,
    { mode: 0o755 },
  );
}

/** The objects of one call. */
interface World {
  readonly config: ReturnType<typeof podConfig>;
  pod: string;
  container: string;
  image: string;
}

interface Use {
  /** The name of the fault, that of its stand-in or one of them, and the handler of the pod if it is a runtime. */
  readonly standIn: string;
  readonly handler?: string;
  /** What comes before the call. */
  readonly before: readonly Call[];
  readonly call: Call;
  /** By fault; absent: the call succeeds. */
  readonly errors: Partial<Record<Fault, RegExp>>;
  /** In place of the same call again. */
  readonly after?: Call;
}
type Call = (world: World, handler: string) => Promise<unknown>;

const run: Call = async (world, handler) => {
  const { pod_sandbox_id: id } = await daemon.client.runtime.RunPodSandbox({
    config: world.config,
    runtime_handler: handler,
  });
  world.pod = id;
};
const create: Call = async (world) => {
  const { container_id: id } = await daemon.client.runtime.CreateContainer({
    pod_sandbox_id: world.pod,
    config: containerConfig(untilStopped()),
    sandbox_config: world.config,
  });
  world.container = id;
};
const start: Call = ({ container: id }) => daemon.client.runtime.StartContainer({ container_id: id });
const exec: Call = ({ container: id }) =>
  daemon.client.runtime.ExecSync({ container_id: id, cmd: ['true'], timeout: '5' });
const update: Call = ({ container: id }) =>
  daemon.client.runtime.UpdateContainerResources({ container_id: id, linux: { cpu_shares: '512' } });
const stop: Call = ({ container: id }) =>
  daemon.client.runtime.StopContainer({ container_id: id, timeout: '1' });
const remove: Call = ({ container: id }) => daemon.client.runtime.RemoveContainer({ container_id: id });
const stopPod: Call = ({ pod }) => daemon.client.runtime.StopPodSandbox({ pod_sandbox_id: pod });
const pull: Call = async ({ image }) => daemon.client.image.PullImage({ image: { image } });
/** Longer than the daemon waits for skopeo. */
const removeImage: Call = ({ image }) =>
  daemon.client.image.RemoveImage({ image: { image } }, { deadlineMs: 150_000 * patience });
/** A container whose start failed has ended. */
const anew: Call = async (world, handler) => {
  for (const call of [remove, create, start]) await call(world, handler);
};
/** Its monitor (conmon) does not run: its end is not reported. */
const stopMonitor: Call = async ({ container: id }) => {
  const { info } = await daemon.client.runtime.ContainerStatus({ container_id: id, verbose: true });
  const { pid } = JSON.parse(info['info'] ?? '') as { pid: number };
  const [, monitor = ''] = /^PPid:\s*(\d+)/m.exec(await readFile(`/proc/${pid}/status`, 'utf8')) ?? [];
  process.kill(Number(monitor), 'SIGSTOP');
};

const runtime = (verb: string, use: Omit<Use, 'standIn' | 'handler'>): [string, Use] => [
  `crun ${verb}`,
  { standIn: `crun-${verb}`, handler: `crun-${verb}`, ...use },
];
const uses: Readonly<Record<string, Use>> = Object.fromEntries([
  runtime('create', {
    before: [run],
    call: create,
    errors: {
      killed: /^INTERNAL RuntimeFailed: /,
      missing: /^INTERNAL ToolMissing: /,
      hangs: /^DEADLINE_EXCEEDED ToolTimeout: /,
    },
  }),
  runtime('start', {
    before: [run, create],
    call: start,
    errors: {
      killed: /^INTERNAL RuntimeFailed: /,
      missing: /^INTERNAL ToolMissing: /,
      hangs: /^DEADLINE_EXCEEDED ToolTimeout: /,
    },
    after: anew,
  }),
  runtime('exec', {
    before: [run, create, start],
    call: exec,
    errors: {
      killed: /^INTERNAL RuntimeFailed: /,
      missing: /^INTERNAL ToolMissing: /,
      hangs: /^DEADLINE_EXCEEDED ExecTimeout: /,
    },
  }),
  runtime('update', {
    before: [run, create, start],
    call: update,
    errors: {
      killed: /^INTERNAL RuntimeFailed: /,
      missing: /^INTERNAL ToolMissing: /,
      hangs: /^DEADLINE_EXCEEDED ToolTimeout: /,
    },
  }),
  // Used where no exit is reported.
  runtime('kill', {
    before: [run, create, start, stopMonitor],
    call: stop,
    errors: {
      killed: /^INTERNAL RuntimeFailed: /,
      missing: /^INTERNAL ToolMissing: /,
      hangs: /^DEADLINE_EXCEEDED ToolTimeout: /,
    },
  }),
  runtime('delete', {
    before: [run, create],
    call: remove,
    errors: {
      killed: /^INTERNAL RuntimeFailed: /,
      missing: /^INTERNAL ToolMissing: /,
      hangs: /^DEADLINE_EXCEEDED ToolTimeout: /,
    },
  }),
  [
    'conmon',
    {
      standIn: 'conmon',
      handler: 'crun-plain',
      before: [run],
      call: create,
      errors: {
        killed: /^INTERNAL RuntimeFailed: .*conmon/,
        missing: /^INTERNAL ToolMissing: .*conmon/,
        hangs: /^DEADLINE_EXCEEDED ToolTimeout: /,
      },
    },
  ],
  [
    'CNI ADD',
    {
      standIn: 'cni-add',
      before: [],
      call: run,
      errors: {
        killed: /^UNAVAILABLE CniFailed: /,
        missing: /^FAILED_PRECONDITION HandlerNotReady: .*conmon/, // which is missing as well
        hangs: /^DEADLINE_EXCEEDED ToolTimeout: cni-add /,
      },
    },
  ],
  [
    'CNI DEL',
    {
      standIn: 'cni-del',
      before: [run],
      call: stopPod,
      errors: {
        killed: /^UNAVAILABLE CniFailed: /,
        missing: /^INTERNAL ToolMissing: .*cni-del/,
        hangs: /^DEADLINE_EXCEEDED ToolTimeout: cni-del /,
      },
    },
  ],
  [
    'skopeo copy',
    {
      standIn: 'skopeo',
      before: [],
      call: pull,
      errors: {
        killed: /^INTERNAL StorageFailed: .*SIGKILL/,
        missing: /^INTERNAL ToolMissing: /,
        hangs: /^DEADLINE_EXCEEDED PullStalled: /,
      },
    },
  ],
  [
    'skopeo inspect',
    {
      standIn: 'skopeo-inspect',
      before: [],
      call: pull,
      // The error of the first attempt.
      errors: {
        killed: /^UNAVAILABLE RegistryUnavailable: .*connection reset/,
        missing: /^INTERNAL ToolMissing: /,
        hangs: /^UNAVAILABLE RegistryUnavailable: .*connection reset/,
      },
    },
  ],
  [
    'skopeo delete',
    {
      standIn: 'skopeo-delete',
      before: [pull],
      call: removeImage,
      errors: {
        killed: /^INTERNAL StorageFailed: /,
        missing: /^INTERNAL ToolMissing: /,
        hangs: /^DEADLINE_EXCEEDED ToolTimeout: /,
      },
    },
  ],
]);

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'crisp-faults-'));
  await chmod(folder, 0o711);
  bin = join(folder, 'bin');
  await mkdir(bin);
  for (const verb of ['create', 'start', 'exec', 'update', 'kill', 'delete', 'plain'])
    await writeStandIn(`crun-${verb}`, '/usr/bin/crun', { [`*" ${verb} "*`]: `crun-${verb}` });
  await writeStandIn('crun-state', '/usr/bin/crun', { '*" state "*|*" list "*': 'crun-state' });
  await writeStandIn('conmon', '/usr/bin/conmon', { '*crun-plain*': 'conmon' });
  // Behind the network of the tests: without a fault they answer with the result of the plugin before them.
  for (const command of ['ADD', 'DEL']) {
    const name = `cni-${command.toLowerCase()}`;
    await writeFile(
      join(bin, 'result'),
      `#!/bin/sh
case $CNI_COMMAND in
  ADD) exec jq -c .prevResult ;;
  VERSION) echo '{"cniVersion":"1.0.0","supportedVersions":["0.4.0","1.0.0"]}' ;;
esac
`,
      { mode: 0o755 },
    );
    await writeStandIn(name, join(bin, 'result'), { [`${command}*`]: name });
  }
  await copyFile('/usr/bin/skopeo', join(folder, 'skopeo'));
  await writeStandIn('skopeo', join(folder, 'skopeo'), {
    // A pull inspects after its connection was cut. All calls run at once, so the image has the name of the fault.
    '*" docker://"*" containers-storage:"*skopeo-inspect*': 'skopeo-cut',
    '*" inspect "*skopeo-inspect*': 'skopeo-inspect',
    '*" copy "*': 'skopeo',
    '*" delete "*': 'skopeo-delete',
  });
  await writeFile(faultOf('skopeo-cut'), 'cut');
  registry = await startRegistry(join(folder, 'registry'));
  daemon = await startDaemon({
    config: {
      handlers: Object.fromEntries(
        ['create', 'start', 'exec', 'update', 'kill', 'delete', 'state', 'plain'].map((verb) => [
          `crun-${verb}`,
          { type: 'oci', path: join(bin, `crun-${verb}`) },
        ]),
      ),
      runtime: { conmon: join(bin, 'conmon'), unclaimed_seconds: 1 },
      network: { bin_dirs: [bin, '/opt/cni/bin', '/usr/lib/cni'], plugin_timeout_seconds: 3 },
      images: { pull_progress_timeout_seconds: 3 },
    },
  });
  await daemon.machine.must(['mount', '--bind', join(bin, 'skopeo'), '/usr/bin/skopeo']);
  const { plugins, ...rest } = daemon.conflist() as { plugins: object[] };
  await daemon.writeConflist({ ...rest, plugins: [...plugins, { type: 'cni-add' }, { type: 'cni-del' }] });
  await daemon.addImage(testImage);
  await daemon.restart();
  const pod = await runPod(daemon);
  witnessPod = pod.id;
  witness = await startContainer(daemon, pod, containerConfig(`nc -ll -p 7 -e cat & ${untilStopped()}`));
  deaf = await startContainer(
    daemon,
    pod,
    containerConfig("trap '' TERM; exec sleep 1000", { metadata: { name: 'deaf' } }),
  );
  clean = await traces();
}, 120_000 * patience);
afterAll(async () => {
  await daemon?.destroy();
  await registry?.close();
  await rm(folder, { recursive: true, force: true });
});

/** Without the results of probes, which depend on the programs. */
const traces = async (): Promise<string[]> =>
  (await daemon.traces()).filter((line) => !line.includes('/state/probed/'));

/** What needs none of them, or the real ones. @param conmon false: there is none, so no pod is made */
async function theRestWorks({ conmon }: { conmon: boolean }): Promise<void> {
  const { runtime: calls } = daemon.client;
  const { stdout } = await calls.ExecSync({ container_id: witness, cmd: ['echo', 'well'] });
  expect(stdout.toString()).toBe('well\n');
  await calls.Status({ verbose: true });
  if (!conmon) return;
  const pod = await runPod(daemon, {
    linux: { security_context: { namespace_options: { network: 'NODE' } } },
  });
  await startContainer(daemon, pod, containerConfig('true'));
  await removePod(daemon, pod.id);
}

/** One world for each use, up to its call. @param name part of the names of its images */
async function prepare(name: string): Promise<Map<string, World>> {
  const worlds = new Map<string, World>();
  await Promise.all(
    Object.entries(uses).map(async ([use, { before, standIn, handler = '' }]) => {
      const image = use.startsWith('skopeo') ? await imageFor(`${name}-${standIn}`) : '';
      const world: World = { config: podConfig(daemon), pod: '', container: '', image };
      worlds.set(use, world);
      for (const call of before) await call(world, handler);
    }),
  );
  return worlds;
}
const imageFor = async (name: string): Promise<string> =>
  registry.push(await makeLayout(folder, { layers: [{ file: name }] }), `faulty:${name}`);
const setAll = async (fault: Fault | ''): Promise<void> => {
  for (const { standIn } of Object.values(uses)) {
    await rm(`${faultOf(standIn)}.begun`, { force: true });
    await writeFile(faultOf(standIn), fault);
  }
};

/** The calls of all uses; outcomes by the name of the use. */
async function callAll(worlds: ReadonlyMap<string, World>): Promise<Record<string, string>> {
  const outcomes: Record<string, string> = {};
  await Promise.all(
    Object.entries(uses).map(async ([name, { call, handler = '' }]) => {
      outcomes[name] = await call(worlds.get(name) as World, handler).then(
        () => 'succeeds',
        (error: { code: Code; details: string }) => `${Code[error.code]} ${error.details}`,
      );
    }),
  );
  return outcomes;
}

/** The calls that failed succeed, and nothing is left. */
async function itHealed(worlds: ReadonlyMap<string, World>, failed: (use: Use) => boolean): Promise<void> {
  await Promise.all(
    Object.entries(uses)
      .filter(([, use]) => failed(use))
      .map(([name, { call, after = call, handler = '' }]) =>
        after(worlds.get(name) as World, handler).catch((error: unknown) => {
          throw new Error(`${name}, once the fault has gone`, { cause: error });
        }),
      ),
  );
  for (const world of worlds.values()) {
    if (world.pod) await removePod(daemon, world.pod);
    if (world.image) await removeImage(world, '');
  }
  await eventually(async () => expect(await traces()).toEqual(clean));
}

describe.each<[string, Fault]>([
  ['killed', 'killed'],
  ['missing', 'missing'],
  ['slow', 'slow'],
  ['hanging', 'hangs'],
])('a program that is %s', (name, fault) => {
  test(
    'fails the call that needs it, and nothing else',
    async () => {
      const worlds = await prepare(name);
      const hidden = fault === 'missing' ? await hidePrograms() : undefined;
      if (!hidden) await setAll(fault);
      const calls = callAll(worlds);
      let outcomes;
      try {
        await theRestWorks({ conmon: !hidden });
      } finally {
        outcomes = await calls;
        await (hidden ? hidden() : setAll(''));
      }
      await itHealed(worlds, ({ errors }) => errors[fault] !== undefined);
      expect(outcomes).toEqual(
        Object.fromEntries(
          Object.entries(uses).map(([use, { errors }]) => [
            use,
            errors[fault] ? expect.stringMatching(errors[fault]) : 'succeeds',
          ]),
        ),
      );
    },
    240_000 * patience,
  );
});

/** Without all stand-ins. @returns what brings them back */
async function hidePrograms(): Promise<() => Promise<void>> {
  const away = join(folder, 'away');
  await mkdir(away);
  const files = Object.values(uses)
    .map(({ standIn }) => standIn)
    .filter((name) => existsSync(join(bin, name)));
  for (const name of files) await rename(join(bin, name), join(away, name));
  // /usr/bin without skopeo: a device 0/0 in an upper folder of overlay hides a name.
  await daemon.machine.must(['umount', '/usr/bin/skopeo']);
  for (const name of ['upper', 'work']) await mkdir(join(folder, name));
  await daemon.machine.must(['mknod', join(folder, 'upper/skopeo'), 'c', '0', '0']);
  await daemon.machine.must([
    ...['mount', '-t', 'overlay', 'overlay', '-o'],
    ...[`lowerdir=/usr/bin,upperdir=${join(folder, 'upper')},workdir=${join(folder, 'work')}`, '/usr/bin'],
  ]);
  return async () => {
    await daemon.machine.must(['umount', '--lazy', '/usr/bin']);
    for (const name of files) await rename(join(away, name), join(bin, name));
    await daemon.machine.must(['mount', '--bind', join(bin, 'skopeo'), '/usr/bin/skopeo']);
  };
}

test(
  'the daemon starts while a runtime hangs that it asks for its containers, and none is lost',
  async () => {
    const pod = await runPod(daemon, {}, 'crun-state');
    const id = await startContainer(daemon, pod, containerConfig(untilStopped(7)));
    // The state of a started one is known without the runtime.
    const idle = await createContainer(
      daemon,
      pod,
      containerConfig('true', { metadata: { name: 'idle', attempt: 0 } }),
    );
    await daemon.stop();
    await writeFile(faultOf('crun-state'), 'hangs');
    try {
      await daemon.start({ withinMs: 40_000 * patience }); // 10 s for the state, and 10 s for the list
      await daemon.untilAnswers();
      expect(await readFile(`${faultOf('crun-state')}.begun`, 'utf8')).toMatch(/^\d+\n\d+\n/);
      await theRestWorks({ conmon: true });
      const { containers } = await daemon.client.runtime.ListContainers({
        filter: { pod_sandbox_id: pod.id },
      });
      expect(containers.map((one) => [one.id, one.state]).sort()).toEqual(
        [
          [id, 'CONTAINER_RUNNING'],
          [idle, 'CONTAINER_CREATED'],
        ].sort(),
      );
    } finally {
      await writeFile(faultOf('crun-state'), '');
      await endCallsOf('crun-state');
    }
    await daemon.client.runtime.StopContainer({ container_id: id, timeout: '30' });
    expect(await waitForExit(daemon, id)).toMatchObject({ exit_code: 7 });
    await removePod(daemon, pod.id);
    await eventually(async () => expect(await traces()).toEqual(clean));
  },
  120_000 * patience,
);

async function endCallsOf(standIn: string): Promise<void> {
  const pids = (await readFile(`${faultOf(standIn)}.begun`, 'utf8')).trim().split('\n');
  for (const pid of pids)
    try {
      process.kill(Number(pid), 'SIGKILL');
    } catch {
      /* it was ended */
    }
}

test(
  'SIGTERM ends the daemon while all of them hang and streams are open',
  async () => {
    const worlds = await prepare('ending');
    await setAll('hangs');
    const { runtime: calls, streams } = daemon.client;
    const all = callAll(worlds);
    const events = streams.GetContainerEvents({});
    events.on('error', () => undefined).resume();
    const sockets = await Promise.all(
      [
        calls.Exec({ container_id: witness, cmd: ['cat'], stdin: true, stdout: true }),
        calls.Attach({ container_id: witness, stdout: true }),
      ].map(async (call) => {
        const socket = new WebSocket((await call).url.replace('http', 'ws'), 'v4.channel.k8s.io');
        await once(socket, 'open');
        return {
          closed: once(
            socket.on('error', () => undefined),
            'close',
          ),
        };
      }),
    );
    const { url } = await calls.PortForward({ pod_sandbox_id: witnessPod, port: [] });
    const forward = await SpdyClient.open(url, 'portforward.k8s.io');
    const ports = { port: '7', requestid: '0' };
    await forward.createStream({ ...ports, streamtype: 'error' });
    const echo = await forward.createStream({ ...ports, streamtype: 'data' });
    await echo.write('well');
    expect(String(await once(echo.output, 'data'))).toBe('well');
    const unforwarded = once(forward.socket, 'close');
    const stopping = calls.StopContainer({ container_id: deaf, timeout: '600' }).catch(() => undefined);
    for (const { standIn } of Object.values(uses)) await until(() => existsSync(`${faultOf(standIn)}.begun`));

    const ended = daemon.stop();
    expect(await within(ended, 20_000 * patience)).toBe(true);
    expect(await ended).toBe(0);
    await Promise.all([all, stopping, unforwarded, ...sockets.map(({ closed }) => closed)]);

    // What it could not end hangs no more.
    for (const { standIn } of Object.values(uses)) await endCallsOf(standIn);
    await setAll('');
    await daemon.start();
    await daemon.untilAnswers();
    await theRestWorks({ conmon: true });
    await itHealed(worlds, () => true);
  },
  240_000 * patience,
);
