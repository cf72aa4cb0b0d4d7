// Which exits are OOM kills, by the counts of cgroup v2, which this machine may not have.
import { afterEach, beforeEach, expect, jest, test } from '@jest/globals';
import { mkdirSync, mkdtempSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { until } from '../../../test/helpers/wait.js';
import * as stats from '../../host/cgroup-stats.js';
import { log } from '../../log.js';
import type { SandboxPlan } from '../../shapes/sandbox.js';
import type { Spec } from '../../shapes/spec.js';
import type { ContainerPlan, ContainerRef } from '../backend.js';

const counts = new Map<string, number>();
jest.unstable_mockModule('../../host/cgroup-stats.js', () => ({
  ...stats,
  readOomKills: (group: string) => counts.get(group),
}));
const { OciBackend } = await import('./backend.js');
type Backend = InstanceType<typeof OciBackend>;

const id = 'ab'.repeat(32);
const pod = '/kubepods/pod1';
let folder: string;
let backend: Backend;
const told: boolean[] = [];

beforeEach(() => {
  log.level = 'silent';
  folder = mkdtempSync(join(tmpdir(), 'crisp-oom-'));
  mkdirSync(join(folder, 'bundle'));
  program('runtime', '[ "$1" = --version ] && echo runc version 1; true');
  // Its second process is the parent of the first one of the container, and writes its exit.
  program(
    'conmon',
    `if [ "$1" = monitor ]; then
  sleep 1000 3>&- & echo $! >'${folder}/first'; echo "{\\"pid\\": $!}" >&3; exec 3>&-; wait $!
  echo $? >"$2/.exit"; mv "$2/.exit" "$2/${id}"; exit
fi
while [ "$1" != --exit-dir ]; do shift; done
setsid "$0" monitor "$2" </dev/null >/dev/null 2>&1 &`,
  );
  backend = new OciBackend({
    ...{ name: 'fake', path: join(folder, 'runtime'), root: '', args: [], systemdCgroup: false },
    ...{ conmon: join(folder, 'conmon'), state: join(folder, 'state') },
  });
  counts.clear();
  counts.set(pod, 3);
  told.length = 0;
});
afterEach(async () => {
  await backend.close();
  rmSync(folder, { recursive: true });
});
function program(name: string, script: string): void {
  writeFileSync(join(folder, name), `#!/bin/sh\n${script}\n`, { mode: 0o755 });
}

async function started(cgroupParent = pod): Promise<ContainerRef & { state: { monitor?: { pid: number } } }> {
  backend.onExit((_, { oomKilled }) => told.push(oomKilled));
  backend.onMonitorLost(() => undefined);
  const plan = {
    ...{ id, folder: join(folder, 'bundle'), logPath: '', stdin: false, stdinOnce: false },
    sandbox: { id: 'pod', uid: 'u', cgroupParent, namespace: 'default' } as SandboxPlan,
    spec: {
      process: { cwd: '/', env: [], args: [], user: { uid: 0, gid: 0 } },
      mounts: [],
      linux: { namespaces: [{ type: 'pid' }], cgroupsPath: `${pod}/${id}` },
    } as unknown as Spec,
  } as unknown as ContainerPlan;
  const container = { id, folder: plan.folder, logPath: '', state: await backend.create(plan) };
  await backend.start(container);
  return container;
}
const kernelKills = (signal: NodeJS.Signals = 'SIGKILL'): boolean =>
  process.kill(Number(readFileSync(join(folder, 'first'), 'utf8')), signal);
const answer = async (): Promise<boolean | undefined> => {
  await until(() => told.length > 0);
  return told[0];
};

test('a process that is killed while the pod hits its limit is an OOM kill', async () => {
  await started();
  counts.set(pod, 4);
  kernelKills();
  expect(await answer()).toBe(true);
});

test('kills that the pod counted before are of others', async () => {
  await started();
  kernelKills();
  expect(await answer()).toBe(false);
});

test.each<[string, (container: ContainerRef) => unknown]>([
  ['that crisp kills', (container) => backend.kill(container, 9)],
  ['that ends by another signal', () => kernelKills('SIGTERM')],
])('a process %s is none, even if the pod hits its limit', async (_, end) => {
  const container = await started();
  counts.set(pod, 4);
  await end(container);
  expect(await answer()).toBe(false);
});

test('the counts of a group that is of several pods are not used', async () => {
  counts.set('/', 3);
  expect((await started('')).state).toMatchObject({ podOomKills: undefined });
  counts.set('/', 4);
  kernelKills();
  expect(await answer()).toBe(false);
});

test.each([
  [1, true],
  [0, false],
  [undefined, false],
])('without its conmon the group of the container is read: %p kills', async (kills, oomKilled) => {
  const container = await started();
  const { monitor, cgroup } = container.state as unknown as { monitor: { pid: number }; cgroup: string };
  process.kill(monitor.pid, 'SIGKILL');
  await until(() => backend['unwatched'].has(id));
  if (kills !== undefined) counts.set(cgroup, kills);
  kernelKills();
  writeFileSync(join(folder, 'state/exits/fake/.exit'), '137'); // as exit-watch.pl does
  renameSync(join(folder, 'state/exits/fake/.exit'), join(folder, 'state/exits/fake', id));
  expect(await answer()).toBe(oomKilled);
});

test('a kill by crisp is forgotten with its container', async () => {
  const container = await started();
  await backend.kill(container, 9);
  await answer();
  await backend.delete(container);
  told.length = 0;
  await started();
  counts.set(pod, 4);
  kernelKills();
  expect(await answer()).toBe(true);
});

test('a pod whose group is gone counts no kills', async () => {
  await started();
  counts.delete(pod);
  kernelKills();
  expect(await answer()).toBe(false);
});
