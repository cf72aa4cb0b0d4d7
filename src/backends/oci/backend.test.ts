// The backend between a runtime and a conmon that are shell scripts: the runtime notes its
// arguments, and conmon starts a shell as the first process of the container and writes its exit.
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { execFileSync } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { until } from '../../../test/helpers/wait.js';
import { CrispError } from '../../errors.js';
import {
  cgroupFolder,
  cgroupLayout,
  cgroupOfProcess,
  cgroupVersion,
  makePodCgroup,
  removePodCgroup,
} from '../../host/cgroup.js';
import { catches, identify, killTree, parentOf, programsIn, type ProcessIdentity } from '../../host/proc.js';
import { runDetached } from '../../host/run.js';
import type { SandboxPlan } from '../../shapes/sandbox.js';
import type { Spec } from '../../shapes/spec.js';
import type { ContainerPlan, ContainerRef, Exit } from '../backend.js';
import { cgroupOfContainer, OciBackend, runtimeRoot, stateOf, type OciState } from './backend.js';

const id = 'ab'.repeat(32);
let state: string;
let bundle: string;
let backend: OciBackend;
const exits: [string, Exit][] = [];
const lost: string[] = [];

beforeEach(() => {
  state = mkdtempSync(join(tmpdir(), 'crisp-oci-'));
  bundle = join(state, 'bundles', id);
  mkdirSync(bundle, { recursive: true });
  writeFileSync(join(state, 'calls'), '');
  writeProgram('runtime', runtimeScript());
  writeProgram('conmon', conmonScript('exec sleep 1000'));
  backend = newBackend();
  exits.length = lost.length = 0;
});
afterEach(async () => {
  await backend.close();
  for (const program of await programsIn(bundle).catch(() => [])) await killTree(program);
  rmSync(state, { recursive: true });
});

function newBackend(): OciBackend {
  return new OciBackend({
    name: 'fake',
    path: join(state, 'runtime'),
    root: '',
    args: ['--own'],
    conmon: join(state, 'conmon'),
    state,
    systemdCgroup: false,
  });
}
function writeProgram(name: string, script: string): void {
  writeFileSync(join(state, name), `#!/bin/sh\n${script}\n`, { mode: 0o755 });
}

/** Notes its arguments; a verb with a file fail-VERB says its content and fails. */
function runtimeScript(version = 'runc version 1'): string {
  return `
[ "$1" = --version ] && { echo '${version}'; exit; }
shift 2
echo "$@" >>'${state}/calls'
if [ -e "${state}/fail-$1" ]; then cat "${state}/fail-$1" >&2; exit 1; fi
case $1 in
state) cat '${state}/state.json';;
list) cat '${state}/list.json';;
update) cp "$3" '${state}/resources';;
exec) cat "$3" >'${state}/process';;
delete) [ ! -e '${state}/first' ] || kill -9 "$(cat '${state}/first')" 2>/dev/null; true;;
esac`;
}

/** Its second process is the parent of the first one of the container, and writes the exit code for the id. */
function conmonScript(script: string, folder = '/'): string {
  return `
if [ "$1" = monitor ]; then
  cd '${folder}'; sh -c '${script}' 3>&- & first=$!; cd "$OLDPWD"
  echo $first >'${state}/first'
  echo "{\\"pid\\": $first}" >&3; exec 3>&-
  wait $first; code=$?
  echo $code >"$2/.temporary"; mv "$2/.temporary" "$2/${id}"
  exit
fi
printf '%s\\n' "$@" >'${state}/arguments'
while [ "$1" != --exit-dir ]; do shift; done
setsid "$0" monitor "$2" </dev/null >/dev/null 2>&1 &`;
}

const spec = (change: { terminal?: boolean; namespaces?: readonly object[]; cwd?: string } = {}): Spec =>
  ({
    process: {
      args: ['x'],
      env: [],
      cwd: change.cwd ?? '/',
      user: { uid: 0, gid: 0 },
      terminal: change.terminal,
    },
    root: { path: 'rootfs' },
    mounts: [],
    linux: { namespaces: change.namespaces ?? [{ type: 'pid' }], cgroupsPath: `/crisp-test-none/${id}` },
  }) as unknown as Spec;
const plan = (change: Partial<ContainerPlan> = {}): ContainerPlan => ({
  id,
  name: 'web',
  attempt: 0,
  image: 'i',
  imageId: 'i',
  sandbox: { id: 'pod', uid: 'u', cgroupParent: '/crisp-test-none' } as SandboxPlan,
  folder: bundle,
  spec: spec(),
  logPath: '',
  stdin: false,
  stdinOnce: false,
  stopSignal: 'SIGTERM',
  ...change,
});
const ref = (made: unknown): ContainerRef => ({ id, folder: bundle, logPath: '', state: made });
const calls = (): string[] => readFileSync(join(state, 'calls'), 'utf8').split('\n').filter(Boolean);
const conmonArguments = (): string[] => readFileSync(join(state, 'arguments'), 'utf8').trim().split('\n');
const gone = (process: ProcessIdentity): Promise<void> =>
  until(async () => (await identify(process.pid)) === undefined);
function follow(): void {
  backend.onExit((container, exit) => exits.push([container, exit]));
  backend.onMonitorLost((container) => lost.push(container));
}

describe('create', () => {
  test('answers with the process, its monitor and its group; the arguments name the folders', async () => {
    const made = await backend.create(plan({ stdin: true }));
    const pid = Number(readFileSync(join(state, 'first'), 'utf8'));
    expect(made).toEqual({
      process: await identify(pid),
      monitor: await identify((await parentOf(pid)) ?? 0),
      cgroup: (await cgroupOfProcess(pid)) ?? `/crisp-test-none/${id}`,
      terminal: false,
      ownPidNamespace: true,
      podOomKills: undefined,
    });
    expect(made.monitor).toBeDefined();
    const argv = conmonArguments();
    const after = (option: string): string | undefined => argv[argv.indexOf(option) + 1];
    expect(['--cid', '--bundle', '--exit-dir', '--runtime', '--log-path'].map(after)).toEqual([
      id,
      bundle,
      join(state, 'exits', 'fake'),
      join(state, 'runtime'),
      'off:',
    ]);
    expect(argv).toEqual(expect.arrayContaining([`--root=${join(state, 'runtimes', 'fake')}`, '--stdin']));
    expect(argv).toContain('--leave-stdin-open');
    expect(argv).not.toContain('--terminal');
    for (const folder of ['exits/fake', 'runtimes/fake'])
      expect((statSync(join(state, folder)).mode & 0o777).toString(8)).toBe('700');
  });

  test('with a terminal, and an input that ends with its first client', async () => {
    const made = await backend.create(plan({ spec: spec({ terminal: true }), stdin: true, stdinOnce: true }));
    expect(made.terminal).toBe(true);
    expect(conmonArguments()).toEqual(expect.arrayContaining(['--terminal', '--stdin']));
    expect(conmonArguments()).not.toContain('--leave-stdin-open');
  });

  test.each([
    ['a pid namespace of its own', [{ type: 'network', path: '/n' }, { type: 'pid' }], true],
    ['the pid namespace of another', [{ type: 'pid', path: '/proc/1/ns/pid' }], false],
    ['the pid namespace of the host', [{ type: 'network' }], false],
  ])('knows of %s, with which all its processes end', async (_, namespaces, own) => {
    expect((await backend.create(plan({ spec: spec({ namespaces }) }))).ownPidNamespace).toBe(own);
  });

  test('in a user namespace gives the runtime streams of its own', async () => {
    await backend.create(plan({ spec: spec({ namespaces: [{ type: 'user' }] }) }));
    expect(conmonArguments()).toEqual(expect.arrayContaining(['/bin/sh']));
    await backend.delete(ref(undefined));
    await backend.create(plan());
    expect(conmonArguments()).not.toContain('/bin/sh');
  });

  test('opens the log for conmon, and closes it', async () => {
    const log = join(state, 'log');
    await backend.create(plan({ logPath: log }));
    expect(existsSync(log)).toBe(true);
    expect(conmonArguments()).toContain('k8s-file:logfile');
    expect(existsSync(join(bundle, 'logfile'))).toBe(false); // the link is dangling: its descriptor is closed
  });

  test('that the runtime refuses is an error in its words, and removed again', async () => {
    writeProgram('conmon', `echo '{"pid": -1, "message": "no space left on device"}' >&3`);
    follow();
    await expect(backend.create(plan())).rejects.toMatchObject({
      id: 'DiskFull',
      message: 'fake create failed: no space left on device',
      stage: 'container create',
    });
    expect(calls()).toEqual([`delete --force ${id}`]);
  });

  test('that fails before the runtime is called leaves nothing that could have an exit', async () => {
    follow();
    writeProgram('runtime', 'exit 1');
    await expect(backend.create(plan())).rejects.toMatchObject({ id: 'RuntimeFailed' });
    const seen: string[] = [];
    backend.exits.watch((name) => seen.push(name));
    writeFileSync(join(state, 'exits/fake', id), '1');
    await until(() => seen.includes(id));
    await new Promise((resolve) => setTimeout(resolve, 50));
    expect(exits).toEqual([]);
  });

  test('whose first process is gone at once is an error', async () => {
    writeProgram('conmon', `echo '{"pid": ${2 ** 22 + 1}}' >&3`);
    await expect(backend.create(plan())).rejects.toMatchObject({
      message: 'fake create failed: the first process ended before it was started',
      stage: 'container create',
    });
    expect(calls()).toEqual([`delete --force ${id}`]);
  });

  test('checks the folder of the process, unless it is the top, after the runtime has entered it', async () => {
    writeProgram('conmon', conmonScript('exec sleep 1000', '/proc'));
    await backend.create(plan());
    await backend.delete(ref(undefined));
    const refused = backend.create(plan({ spec: spec({ cwd: '/work' }) }));
    await expect(refused).rejects.toMatchObject({ id: 'InvalidArgument' });
  });

  test('gives crun, and no other runtime, options that only crun has', async () => {
    const own = spec({ namespaces: [{ type: 'pid', path: '/proc/1/ns/pid' }] });
    const maps = [{ containerID: 0, hostID: 100_000, size: 10 }];
    const mounts = [{ destination: '/v', options: ['idmap'], uidMappings: maps, gidMappings: maps }];
    const mapped = { ...own, mounts } as Spec;
    await backend.create(plan({ spec: mapped }));
    expect(existsSync(join(bundle, 'config.json'))).toBe(false);
    await backend.delete(ref(undefined));
    writeProgram('runtime', runtimeScript('crun version 1'));
    await backend.create(plan({ spec: mapped }));
    expect(JSON.parse(readFileSync(join(bundle, 'config.json'), 'utf8'))).toMatchObject({
      mounts: [{ destination: '/v', options: ['idmap=uids=0-100000-10;gids=0-100000-10'] }],
    });
  });

  test('does not write the configuration of crun again where nothing is changed', async () => {
    writeProgram('runtime', runtimeScript('crun version 1'));
    await backend.create(plan());
    expect(existsSync(join(bundle, 'config.json'))).toBe(false);
  });
});

test('start is the verb of the runtime, and answers with the pid', async () => {
  const made = await backend.create(plan());
  expect(await backend.start(ref(made))).toEqual({ pid: made.process.pid });
  expect(calls()).toEqual([`start ${id}`]);
  writeFileSync(join(state, 'fail-start'), 'exec format error');
  await expect(backend.start(ref(made))).rejects.toMatchObject({
    id: 'StartFailed',
    stage: 'container start',
  });
});

test('a signal right after the start is not sent to the runtime, which handles it and goes on', async () => {
  const program = `trap "exit 7" TERM; while :; do sleep 0.01; done`;
  const perl = join(state, 'runtime.pl');
  writeFileSync(
    perl,
    `$SIG{TERM} = sub {}; select undef, undef, undef, 0.01 until -e "${state}/calls";
     select undef, undef, undef, 0.03; exec 'sh', '-c', '${program}';`,
  );
  writeProgram('conmon', conmonScript(`exec perl ${perl}`));
  follow();
  const made = await backend.create(plan());
  await until(() => catches(made.process.pid, 15)); // as runc does
  await backend.start(ref(made));
  await backend.kill(ref(made), 15);
  await until(() => exits.length > 0);
  expect(exits).toEqual([[id, { exitCode: 7, oomKilled: false, finishedAt: expect.any(BigInt) }]]);
});

describe('an exit', () => {
  test('is told once with the code of the process, of a container and of nothing else', async () => {
    follow();
    const made = await backend.create(plan());
    writeFileSync(join(state, 'exits/fake/of-an-exec'), '0');
    await backend.kill(ref(made), 15);
    await until(() => exits.length > 0);
    expect(exits).toEqual([[id, { exitCode: 143, oomKilled: false, finishedAt: expect.any(BigInt) }]]);
    expect(calls()).toEqual([]); // signalled without the runtime
  });

  test('of memory is what conmon found', async () => {
    follow();
    const made = await backend.create(plan());
    writeFileSync(join(bundle, 'oom'), '');
    await backend.kill(ref(made), 9);
    await until(() => exits.length > 0);
    expect(exits).toEqual([[id, { exitCode: 137, oomKilled: true, finishedAt: expect.any(BigInt) }]]);
  });

  test('of a container that is deleted is not told', async () => {
    follow();
    await backend.delete(ref(await backend.create(plan())));
    exits.length = 0;
    const seen: string[] = [];
    backend.exits.watch((name) => seen.push(name));
    writeFileSync(join(state, 'exits/fake', id), '1');
    await until(() => seen.includes(id));
    await new Promise((resolve) => setTimeout(resolve, 50));
    expect(exits).toEqual([]);
  });
});

test('a signal for all processes goes through the runtime, which may fail', async () => {
  const made = await backend.create(plan());
  writeFileSync(join(state, 'fail-kill'), 'no such process');
  await backend.kill(ref(made), 15, true);
  expect(calls()).toEqual([`kill --all ${id} 15`]);
  expect(await identify(made.process.pid)).toEqual(made.process);
});

describe('delete', () => {
  test('waits for the exit of a process that was running, and leaves no file', async () => {
    const made = await backend.create(plan());
    mkdirSync(join(state, 'runtimes/fake', id));
    await backend.delete(ref(made));
    expect(calls()).toEqual([`delete --force ${id}`]);
    await gone(made.monitor as ProcessIdentity);
    expect(existsSync(join(state, 'exits/fake', id))).toBe(false);
    expect(existsSync(join(state, 'runtimes/fake', id))).toBe(false);
    await backend.delete(ref(made));
  });

  test('of a container that the runtime does not know is done; any other failure is an error', async () => {
    writeFileSync(join(state, 'fail-delete'), `container "${id}" does not exist`);
    await backend.delete(ref(undefined));
    writeFileSync(join(state, 'fail-delete'), 'device or resource busy');
    await expect(backend.delete(ref(undefined))).rejects.toMatchObject({
      message: 'fake delete failed: device or resource busy',
      stage: 'container delete',
    });
  });

  test('of an unfinished one waits for the runtime that is still at work, but not for its monitor', async () => {
    await backend.create(plan());
    writeProgram('still', `while [ -e '${state}/work' ]; do sleep 0.01; done; echo done >>'${state}/calls'`);
    writeFileSync(join(state, 'work'), '');
    const { exited } = await runDetached([join(state, 'still')], { cwd: bundle });
    const deleted = backend.delete(ref(undefined));
    rmSync(join(state, 'work'));
    await Promise.all([deleted, exited]);
    expect(calls()).toEqual(['done', `delete --force ${id}`]);
  });
});

describe('a survey', () => {
  const surveyed = async (status?: string): Promise<unknown> => {
    const made = await backend.create(plan());
    if (status === undefined) writeFileSync(join(state, 'fail-state'), 'does not exist');
    else writeFileSync(join(state, 'state.json'), JSON.stringify({ status, pid: 77 }));
    return newBackend().survey(ref(made));
  };

  test.each([
    ['created', { status: 'created', pid: 77 }],
    ['running', { status: 'running', pid: 77 }],
    ['paused', { status: 'running', pid: 77 }],
    ['stopped', { status: 'stopped', exit: undefined }],
    [undefined, { status: 'missing' }],
  ])('of a container that the runtime calls %s', async (status, alive) => {
    expect(await surveyed(status)).toEqual(alive);
    expect(calls()).toEqual([`state ${id}`]);
  });

  test('of a started container whose process runs does not ask the runtime, which may be gone', async () => {
    const made = await backend.create(plan());
    writeFileSync(join(state, 'state.json'), JSON.stringify({ status: 'stopped', pid: 0 }));
    expect(await newBackend().survey(ref(made), true)).toEqual({
      status: 'running',
      pid: made.process.pid,
    });
    expect(calls()).toEqual([]);
    const ended = { ...made, process: { ...made.process, startTime: '1' } };
    expect(await newBackend().survey(ref(ended), true)).toEqual({ status: 'stopped', exit: undefined });
    expect(calls()).toEqual([`state ${id}`]);
  });

  test('takes the exit that its monitor has written, and does not ask the runtime', async () => {
    const made = await backend.create(plan());
    await backend.kill(ref(made), 15);
    await gone(made.monitor as ProcessIdentity);
    expect(await newBackend().survey(ref(made))).toMatchObject({
      status: 'stopped',
      exit: { exitCode: 143 },
    });
    expect(calls()).toEqual([]);
  });

  test('makes its exit known from then on', async () => {
    const made = await backend.create(plan());
    await backend.close();
    writeFileSync(join(state, 'state.json'), JSON.stringify({ status: 'running', pid: 77 }));
    backend = newBackend();
    follow();
    await backend.survey(ref(made));
    await backend.kill(ref(made), 15);
    await until(() => exits.length > 0);
    expect(exits).toEqual([[id, expect.objectContaining({ exitCode: 143 })]]);
  });
});

describe('a monitor that is lost', () => {
  test('is told while its process runs, and again when that ends without an exit', async () => {
    follow();
    const made = await backend.create(plan());
    await backend.start(ref(made));
    process.kill(made.monitor?.pid ?? 0, 'SIGKILL');
    await until(() => lost.length === 1);
    expect(await identify(made.process.pid)).toEqual(made.process);
    await backend.kill(ref(made), 9);
    await until(() => lost.length === 2 || exits.length === 1);
    expect(new Set(lost)).toEqual(new Set([id]));
  });

  test('is told again when its process ends without an exit, which the kernel has told nobody', async () => {
    follow();
    const made = await backend.create(plan());
    await backend.start(ref(made));
    process.kill(made.monitor?.pid ?? 0, 'SIGKILL');
    await until(() => lost.length === 1);
    for (const watch of await programsIn(bundle)) await killTree(watch);
    process.kill(made.process.pid, 'SIGKILL');
    await until(() => lost.length === 2);
    expect([lost, exits]).toEqual([[id, id], []]);
  });

  test('is told once, however often the container was surveyed', async () => {
    follow();
    const made = await backend.create(plan());
    await backend.start(ref(made));
    await backend.survey(ref(made), true);
    process.kill(made.monitor?.pid ?? 0, 'SIGKILL');
    await until(() => lost.length > 0);
    await new Promise((resolve) => setTimeout(resolve, 50));
    expect(lost).toEqual([id]);
    await backend.kill(ref(made), 9);
  });

  test('is told once if the exit of its process is there when that ends', async () => {
    follow();
    const made = await backend.create(plan());
    await backend.start(ref(made));
    process.kill(made.monitor?.pid ?? 0, 'SIGKILL');
    await until(() => lost.length === 1);
    writeFileSync(join(state, 'exits/fake', id), '0');
    process.kill(made.process.pid, 'SIGKILL');
    await gone(made.process);
    await until(async () => (await programsIn(bundle)).length === 0);
    await new Promise((resolve) => setTimeout(resolve, 50));
    expect(lost).toEqual([id]);
  });

  test('is told once if the exit of its process is still being written when that ends', async () => {
    follow();
    const made = await backend.create(plan());
    const watch = join(state, 'exit-watch.pl'); // as if an earlier daemon had started it
    const [temporary, exit] = [join(state, 'exits/fake/.exit'), join(state, 'exits/fake', id)];
    writeFileSync(
      watch,
      `select undef, undef, undef, 0.01 until -e '${state}/seen';
       open my $file, '>', '${temporary}'; print $file 5; close $file; rename '${temporary}', '${exit}'`,
    );
    const { exited } = await runDetached(['perl', watch], { cwd: bundle });
    await backend.start(ref(made));
    process.kill(made.monitor?.pid ?? 0, 'SIGKILL');
    await until(() => lost.length === 1);
    process.kill(made.process.pid, 'SIGKILL');
    await gone(made.process);
    await new Promise((resolve) => setTimeout(resolve, 50));
    expect(lost).toEqual([id]);
    writeFileSync(join(state, 'seen'), '');
    await until(() => exits.length > 0);
    await exited;
    expect([lost, exits]).toEqual([[id], [[id, expect.objectContaining({ exitCode: 5 })]]]);
  });

  test('with its process is told', async () => {
    follow();
    const made = await backend.create(plan());
    await backend.start(ref(made));
    for (const one of [made.monitor, made.process]) process.kill(one?.pid ?? 0, 'SIGKILL');
    await until(() => lost.length > 0);
    // Twice if the end of the monitor was seen before that of the process, as in the test above.
    expect(new Set(lost)).toEqual(new Set([id]));
  });

  test('after it has written the exit has done its work', async () => {
    follow();
    const made = await backend.create(plan());
    await backend.start(ref(made));
    await backend.kill(ref(made), 15);
    await until(() => exits.length > 0);
    await gone(made.monitor as ProcessIdentity);
    await new Promise((resolve) => setTimeout(resolve, 50));
    expect(lost).toEqual([]);
  });

  test('of a container that an earlier daemon has started is told, while its process runs', async () => {
    const made = await backend.create(plan());
    await backend.close();
    writeFileSync(join(state, 'state.json'), JSON.stringify({ status: 'running', pid: made.process.pid }));
    backend = newBackend();
    follow();
    await backend.survey(ref(made));
    process.kill(made.monitor?.pid ?? 0, 'SIGKILL');
    await until(() => lost.length === 1);
    expect(lost).toEqual([id]);
    await backend.kill(ref(made), 9);
  });

  test('is no loss after its exit, whose code is read in the folder of exits', async () => {
    follow();
    const made = await backend.create(plan());
    await backend.start(ref(made));
    writeFileSync(join(state, 'exits/fake', id), '0');
    process.kill(made.monitor?.pid ?? 0, 'SIGKILL');
    await gone(made.monitor as ProcessIdentity);
    await new Promise((resolve) => setTimeout(resolve, 50));
    expect(lost).toEqual([]);
    await backend.kill(ref(made), 9);
  });

  test('after close is not told', async () => {
    follow();
    const made = await backend.create(plan());
    await backend.start(ref(made));
    await backend.close();
    for (const one of [made.monitor, made.process]) process.kill(one?.pid ?? 0, 'SIGKILL');
    for (const one of [made.monitor, made.process]) await gone(one as ProcessIdentity);
    await new Promise((resolve) => setTimeout(resolve, 50));
    expect(lost).toEqual([]);
  });
});

describe('what is left of a container after its first process', () => {
  const top = `/crisp-test-${process.pid}-`; // without a parent of its own
  const surveyed = async (group: string, ownPidNamespace: boolean): Promise<boolean> => {
    const made = await backend.create(plan());
    writeFileSync(join(state, 'state.json'), JSON.stringify({ status: 'stopped', pid: 0 }));
    await makePodCgroup(group);
    const { pid, exited, kill } = await runDetached(['sleep', '1000']);
    try {
      const folder = cgroupFolder(cgroupLayout(), 'pids', group) ?? 'no tree of the kernel';
      writeFileSync(join(folder, 'cgroup.procs'), String(pid));
      expect(await backend.survey(ref({ ...made, ownPidNamespace, cgroup: group }))).toEqual({
        status: 'stopped',
        exit: undefined,
      });
      return (await identify(pid)) !== undefined;
    } finally {
      kill();
      await exited;
      await removePodCgroup(group);
    }
  };

  test('is ended, if it has no pid namespace that ends with that', async () => {
    expect(await surveyed(`${top}${id}`, false)).toBe(false);
    expect(await surveyed(`${top}${id}`, true)).toBe(true);
  });

  test('is ended as well when its monitor has written the exit', async () => {
    const made = await backend.create(plan());
    const group = `${top}${id}`;
    writeFileSync(join(state, 'exits/fake', id), '0');
    await makePodCgroup(group);
    const { pid, exited, kill } = await runDetached(['sleep', '1000']);
    try {
      const folder = cgroupFolder(cgroupLayout(), 'pids', group) ?? 'no tree of the kernel';
      writeFileSync(join(folder, 'cgroup.procs'), String(pid));
      await backend.survey(ref({ ...made, ownPidNamespace: false, cgroup: group }));
      expect(await identify(pid)).toBeUndefined();
    } finally {
      kill();
      await exited;
      await removePodCgroup(group);
    }
  });

  test('is left alone in a group that may be of others as well', async () => {
    expect(await surveyed(`${top}shared`, false)).toBe(true);
  });
});

test('the list has the containers of crisp alone: others may use the same root', async () => {
  const probe = 'crisp-probe-fake-12-3';
  const own = [
    { id, bundle },
    { id: probe, bundle: join(state, 'probe', 'fake', probe) },
  ];
  const others = [
    { id: 'cd'.repeat(32), bundle: '/var/lib/docker/x' },
    { id: 'web', bundle: join(state, 'bundles', 'web') },
    { id: 'crisp-probe-fake-12-4', bundle: join(state, 'bundles', 'crisp-probe-fake-12-4') },
  ];
  writeFileSync(join(state, 'list.json'), JSON.stringify([...own, ...others]));
  expect(await backend.list()).toEqual([]); // its root is not there yet
  mkdirSync(join(state, 'runtimes/fake/.cache'), { recursive: true });
  expect(await backend.list()).toEqual([]); // and has no containers
  expect(calls()).toEqual([]);
  mkdirSync(join(state, 'runtimes/fake', id));
  expect(await backend.list()).toEqual(
    own.map((one) => ({ id: one.id, folder: one.bundle, logPath: '', state: undefined })),
  );
  writeFileSync(join(state, 'fail-list'), '');
  await expect(backend.list()).rejects.toThrow(CrispError);
});

describe('an update', () => {
  const written = (): unknown => JSON.parse(readFileSync(join(state, 'resources'), 'utf8'));

  test('is given to the runtime in a file, which goes, also if the runtime refuses it', async () => {
    const made = await backend.create(plan());
    const resources = { cpu: { quota: 0, shares: 7 }, memory: { limit: 5 } };
    await backend.update(ref(made), resources);
    expect(calls()).toEqual([`update --resources ${join(bundle, 'resources.json')} ${id}`]);
    expect(written()).toEqual(resources);
    writeFileSync(join(state, 'fail-update'), 'cannot allocate memory');
    await expect(backend.update(ref(made), resources)).rejects.toMatchObject({ id: 'OutOfMemory' });
    expect(existsSync(join(bundle, 'resources.json'))).toBe(false);
  });

  test('to no quota is written by crisp itself on v1, where crun cannot', async () => {
    const made = await backend.create(plan());
    const update = backend.update(ref({ ...made, cgroup: '/crisp-test-none' }), {
      cpu: { quota: -1, period: 5_000, shares: 7 },
    });
    if (cgroupVersion() === 'v2') await update;
    else await expect(update).rejects.toMatchObject({ message: expect.stringContaining('cpu.cfs_quota_us') });
    expect(written()).toEqual({
      cpu: cgroupVersion() === 'v2' ? { quota: -1, period: 5_000, shares: 7 } : { shares: 7 },
    });
  });
});

test('a command has the process of config.json, which is read once per container', async () => {
  const made = await backend.create(plan());
  const config = join(bundle, 'config.json');
  writeFileSync(config, JSON.stringify(spec()));
  const run = (): Promise<unknown> =>
    backend.exec(
      ref(made),
      { args: ['ls'], io: { terminal: false }, timeoutMs: undefined },
      new AbortController().signal,
    );
  for (let round = 0; round < 2; round++) {
    expect(await run()).toEqual({ exitCode: 0 });
    expect(calls().at(-1)).toMatch(/^--log=.* exec --process /);
    rmSync(config, { force: true });
  }
  await backend.delete(ref(made));
  await expect(run()).rejects.toThrow(/config.json/);
});

test('a command is refused if the folder of the process leads into /proc by now', async () => {
  const made = await backend.create(plan());
  writeFileSync(join(bundle, 'config.json'), JSON.stringify(spec({ cwd: '/proc/self' })));
  const plain = { args: ['ls'], io: { terminal: false }, timeoutMs: undefined };
  await expect(backend.exec(ref(made), plain, new AbortController().signal)).rejects.toMatchObject({
    id: 'InvalidArgument',
  });
  expect(calls()).toEqual([]);
});

test('a container is in doubt once its process is gone', async () => {
  const made = await backend.create(plan());
  expect(await backend.inDoubt(ref(made))).toBe(false);
  process.kill(made.process.pid, 'SIGKILL');
  await gone(made.process);
  expect(await backend.inDoubt(ref(made))).toBe(true);
});

describe('the record of a container', () => {
  const good: OciState = {
    process: { pid: 2, startTime: '5' },
    cgroup: '',
    terminal: false,
    ownPidNamespace: true,
  };

  test('is as create() gave it', () => {
    expect(stateOf(ref(good))).toEqual(good);
    const more = { ...good, cgroup: '/a/b', podOomKills: { group: '/a', count: 3 } };
    expect(stateOf(ref(more))).toEqual(more);
    expect(backend.cgroup(ref(more))).toBe('/a/b');
  });

  test.each([
    { ...good, cgroup: 'a' },
    { ...good, cgroup: '/a/../b' },
    { ...good, podOomKills: { group: '../..', count: 0 } },
    { ...good, process: { pid: 1, startTime: '5' } },
    { ...good, process: { pid: 2, startTime: '5x' } },
    { ...good, process: undefined },
    undefined,
  ])('is refused where it could name somebody else: %j', (record) => {
    expect(() => stateOf(ref(record))).toThrow(expect.objectContaining({ id: 'RecordUnreadable' }));
  });
});

test('a template of Proxmox VE is no image for this handler', () => {
  const sandbox = {} as SandboxPlan;
  expect(backend.rootfs(sandbox)).toEqual({ kind: 'overlay' });
  expect(() => backend.rootfs(sandbox, 'local:vztmpl/x')).toThrow(
    expect.objectContaining({ id: 'InvalidArgument' }),
  );
});

test("the runtime's root is the configured one, else a folder of the handler's own", () => {
  expect(runtimeRoot({ name: 'a', state: '/s', root: '' })).toBe('/s/runtimes/a');
  expect(runtimeRoot({ name: 'a', state: '/s', root: '/own' })).toBe('/own');
});

test('a binary that is replaced changes the fingerprint, the runtime as well as conmon', async () => {
  expect(backend.ociRuntime).toEqual({ path: join(state, 'runtime'), args: ['--own'] });
  expect(new OciBackend({ ...optionsOf('crun'), path: '' }).ociRuntime.path).toBe('crun');
  const seen = new Set([await backend.fingerprint()]);
  for (const program of ['runtime', 'conmon']) {
    writeProgram(program, `echo another ${program}`);
    seen.add(await backend.fingerprint());
  }
  execFileSync('rm', [join(state, 'runtime')]);
  seen.add(await backend.fingerprint());
  expect(seen.size).toBe(4);
});
function optionsOf(name: string) {
  return { name, path: '', root: '', args: [], conmon: 'conmon', state, systemdCgroup: false };
}

describe('the group in the record of a container', () => {
  const process = { pid: 1234, startTime: '5' };
  // A pid that does not exist: the kernel names no group, as on cgroup v1.
  const nobody = 2 ** 30;

  test.each([
    ['kubepods-burstable.slice:crisp:abc', '/kubepods.slice/kubepods-burstable.slice/crisp-abc.scope'],
    ['/crisp/pod1/abc', '/crisp/pod1/abc'],
    [undefined, ''],
  ])('of %p is a path that the record accepts: %p', async (specified, path) => {
    const cgroup = await cgroupOfContainer(nobody, specified);
    expect(cgroup).toBe(path);
    const state = { process, cgroup, terminal: false, ownPidNamespace: true };
    expect(stateOf({ id: 'abc', folder: '/f', logPath: '', state })).toMatchObject({ cgroup: path });
  });
});
