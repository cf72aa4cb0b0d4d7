// The Debian package on a machine with systemd and without Node: installed, upgraded
// and removed while a container runs, and purged.
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { execFile } from 'node:child_process';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { installed, packageFile } from '../../src/installed.js';
import { containerStatus, removePods, runPod, startContainer, waitForExit } from './pods.js';
import { Vm } from './vm.js';

const run = promisify(execFile);
const { version } = packageFile();
let folder: string;
let vm: Vm;
let container: string;
let pid: number;

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'crisp-vm-package-'));
  const files = await makePackages();
  // It is a file of the packages, and the program is in them.
  const prepare = 'rm -r /opt/crisp /usr/local/bin/node';
  vm = await Vm.start({ files, prepare, install: 'dpkg -i /opt/files/before.deb' });
}, 900_000);
afterAll(async () => {
  await vm?.stop();
  await rm(folder, { recursive: true, force: true });
});

/** The package, and the version before it: the same files under a lower number. */
async function makePackages(): Promise<string[]> {
  await run(process.execPath, [installed('deploy/package.mjs'), '--fast']);
  const now = installed(`build/crisp_${version}_amd64.deb`);
  const tree = join(folder, 'tree');
  await run('dpkg-deb', ['--raw-extract', now, tree]);
  const control = join(tree, 'DEBIAN/control');
  await writeFile(control, (await readFile(control, 'utf8')).replace(/^Version: .*/m, 'Version: 0.0.1'));
  const before = join(folder, 'before.deb');
  await run('dpkg-deb', ['--build', '--root-owner-group', '-Zgzip', '-z1', tree, before]);
  return [before, now];
}

const packageVersion = () => vm.must("dpkg-query -W -f '${Version}' crisp");
const mainPid = () => vm.must('systemctl show --value --property=MainPID crisp');
const lines = async (): Promise<number> => Number(await vm.must(`wc -l <${await logPath()}`));
const logPath = () => vm.must(`crictl inspect -o go-template --template '{{.status.logPath}}' ${container}`);

test('an installation starts the service, now and at each boot', async () => {
  expect(await packageVersion()).toBe('0.0.1');
  expect(await vm.must('systemctl is-enabled crisp; systemctl is-active crisp')).toBe('enabled\nactive');
  expect((await vm.run('command -v node')).exitCode).not.toBe(0);
  container = await startContainer(
    vm,
    await runPod(vm),
    'trap "exit 7" TERM; i=0; while :; do i=$((i+1)); echo tick $i; sleep 1; done',
  );
  ({ pid } = await containerStatus(vm, container));
});

async function runsOn(): Promise<void> {
  const before = await lines();
  expect(await containerStatus(vm, container)).toMatchObject({ state: 'CONTAINER_RUNNING', pid });
  expect(await vm.must(`crictl exec ${container} echo here`)).toBe('here');
  await vm.until(`[ "$(wc -l <${await logPath()})" -gt ${before} ]`);
}

test('an upgrade restarts the daemon, and the container continues', async () => {
  const before = await mainPid();
  await vm.must(`dpkg -i /opt/files/crisp_${version}_amd64.deb`);
  expect(await packageVersion()).toBe(version);
  expect(await mainPid()).not.toBe(before);
  expect(await vm.must('systemctl is-active crisp')).toBe('active');
  await runsOn();
});

test('a removal stops only the daemon, and the next installation finds the container', async () => {
  await vm.must('dpkg -r crisp');
  expect((await vm.run('systemctl is-active crisp')).stdout.trim()).not.toBe('active');
  await vm.must(`kill -0 ${pid}`);
  await vm.must(`dpkg -i /opt/files/crisp_${version}_amd64.deb`);
  await runsOn();
  await vm.must(`crictl stop --timeout 30 ${container}`);
  expect(await waitForExit(vm, container)).toMatchObject({ exitCode: 7 });
  await removePods(vm);
});

test('a purge leaves nothing behind', async () => {
  await vm.must('dpkg -P crisp');
  expect(
    await vm.must('ls -d /run/crisp /var/lib/crisp /var/cache/crisp /usr/lib/crisp 2>/dev/null || true'),
  ).toBe('');
  expect(await vm.must('systemctl list-unit-files --no-legend crisp.service || true')).toBe('');
});
