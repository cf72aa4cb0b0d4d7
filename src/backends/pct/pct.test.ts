import { describe, expect, test } from '@jest/globals';
import { mkdtempSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { CrispError, toStatus } from '../../errors.js';
import { explain, meaningOf, Pct, untilNotTaken } from './pct.js';

// Texts of pct 6.1.10; the exit code of each may be 1, 2 or 255.
describe('an error message of pct', () => {
  test.each<[stderr: string, stdout: string, id: string]>([
    ...[
      'backup',
      'create',
      'destroyed',
      'disk',
      'fstrim',
      'migrate',
      'mounted',
      'rollback',
      'snapshot',
      'snapshot-delete',
    ].map((lock): [string, string, string] => [`CT is locked (${lock})`, '', 'Locked']),
    ['no lock found trying to remove any lock', '', 'WrongContainerState'],
    [
      "can't lock file '/run/lock/lxc/pve-config-900001.lock' - got timeout",
      'trying to acquire lock...',
      'Locked',
    ],
    ['cluster not ready - no quorum?', '', 'NoQuorum'],
    ['pve configuration filesystem (pmxcfs) not mounted', '', 'NoQuorum'],
    [
      'ipcc_send_rec[1] failed: Connection refused\nUnable to load access control list: Connection refused',
      '',
      'NoQuorum',
    ],
    ["CT 900001 already exists on node 'pve'", '', 'NameInUse'],
    ["unable to create CT 900001 - CT 900001 already exists on node 'pve'", '', 'NameInUse'],
    ["VM 900001 already exists on node 'other'", '', 'NameInUse'],
    ["Configuration file 'nodes/pve/lxc/900001.conf' does not exist", '', 'GuestMissing'],
    ['CT 900001 not running', '', 'WrongContainerState'],
    ['VM 900001 not running', '', 'WrongContainerState'],
    ["container '900001' not running!", '', 'WrongContainerState'],
    ['can only push files to a running CT', '', 'WrongContainerState'],
    ['unable to get PID for CT 900001 (not running?)', '', 'WrongContainerState'],
    ['400 Parameter verification failed.\nvmid: VM 900001 already exists', '', 'NameInUse'],
    ['CT 900001 already running', '', 'WrongContainerState'],
    ['unable to destroy CT 900001 - container is running', '', 'WrongContainerState'],
    ["you can't start a CT if it's a template", '', 'WrongContainerState'],
    ["can't remove CT 900001 - protection mode enabled", '', 'WrongContainerState'],
    [
      'container did not stop',
      "command 'lxc-stop -n 900001 --nokill --timeout 3' failed: exit code 1",
      'ToolTimeout',
    ],
    ["bridge 'nobr' does not exist", '', 'BridgeMissing'],
    ["storage 'local' does not support container directories", '', 'StorageFailed'],
    ["storage 'nothere' does not exist", '', 'StorageFailed'],
    ["unable to use volume local:iso/x.iso - content type needs to be 'vztmpl'", '', 'StorageFailed'],
    ["unable to create CT 900001 - volume 'local:vztmpl/x.tar.gz' does not exist", '', 'ImageNotFound'],
    ["storage 'nfs' does not support CT rootdirs", '', 'StorageFailed'],
    ["content type 'rootdir' is not available or configured on storage 'local'", '', 'StorageFailed'],
    ["unable to parse volume ID '/folder'", '', 'StorageFailed'],
    ["directory '/run/crisp/rootfs/x' does not exist", '', 'RootfsMissing'],
    ['unable to create CT 900001 - unable to detect OS distribution', '', 'Unsupported'],
    ['unable to create CT 900001 - setgid(0): Invalid argument', 'Detected OCI archive', 'Unsupported'],
    ['cannot resolve /etc/passwd path in container', '', 'Unsupported'],
    ['snapshot feature is not available', '', 'Unsupported'],
    ["unable to clone mountpoint 'mp0' (type bind)", '', 'Unsupported'],
    [
      'unable to remove CT 900001 - used in HA resources and purge parameter not set.',
      '',
      'WrongContainerState',
    ],
    ['400 Parameter verification failed.\nhostname: invalid format', '', 'InvalidArgument'],
    ['400 not enough arguments', '', 'InvalidArgument'],
    ["mount points configured, but 'rootfs' not set - aborting", '', 'InvalidArgument'],
    [
      '400 Parameter verification failed.\nmemory: unable to hotplug memory: short read on command socket (16 != 0)',
      '',
      'RuntimeFailed',
    ],
    ['Unknown option: foo\n400 unable to parse option', '', 'InvalidArgument'],
    [
      "startup for container '900001' failed",
      'No such file or directory - Failed to exec "/nope"',
      'StartFailed',
    ],
    ["startup for container '900001' failed", 'Failed to create tty mount target', 'StartFailed'],
    ['received interrupt', '', 'Cancelled'],
    ['unable to create CT 900001 - mkfs failed: No space left on device', '', 'DiskFull'],
    ['something nobody has seen', 'and its story', 'RuntimeFailed'],
  ])('%s', (stderr, stdout, id) => {
    const error = explain('start', 900_001, stdout, stderr);
    expect(error.id).toBe(id);
    expect(error).toMatchObject({ stage: 'pct start', tool: 'pct' });
    expect(error.hint).not.toContain('VMID');
    const { details } = toStatus(error);
    for (const word of [stdout, stderr].join('\n').split('\n')) expect(details).toContain(word);
  });

  test('locks and a missing quorum are UNAVAILABLE, for the kubelet to try again', () => {
    for (const text of ['CT is locked (snapshot)', 'cluster not ready - no quorum?'])
      expect(toStatus(explain('create', 900_001, '', text)).code).toBe(14);
  });

  test('an exit during the start is not a failure of the start', () => {
    for (const text of ['unable to get PID for CT 900001 (not running?)', 'failed to open /proc/4711 pid fd'])
      expect(meaningOf(explain('start', 900_001, '', text))).toBe('exited at once');
    expect(meaningOf(new Error('CT 900001 not running'))).toBeUndefined();
  });
});

test('an error has all that pct said, its last line in the message, and the guest in the hint', () => {
  const error = explain('start', 77, 'the reason\n', "startup for container '77' failed\n");
  expect(error).toMatchObject({
    id: 'StartFailed',
    stage: 'pct start',
    tool: 'pct',
    message: "pct start 77 failed: startup for container '77' failed",
    stderr: "the reason\nstartup for container '77' failed",
    hint: expect.stringContaining('pve-container@77`'),
  });
  expect(explain('set', 77, 'only this', '').message).toBe('pct set 77 failed: only this');
});

test('a message has a meaning only if pct has said it', () => {
  const of = (tool: string | undefined): CrispError =>
    new CrispError('RuntimeFailed', 'failed', { ...(tool ? { tool } : {}), stderr: 'CT 7 already exists' });
  expect([meaningOf(of('pct')), meaningOf(of('tar')), meaningOf(of(undefined))]).toEqual([
    'taken',
    undefined,
    undefined,
  ]);
  expect(
    meaningOf(
      Object.assign(new Error('CT 7 already exists'), { tool: 'pct', stderr: 'CT 7 already exists' }),
    ),
  ).toBeUndefined();
  expect(meaningOf(undefined)).toBeUndefined();
});

describe('an id that others take', () => {
  const taken = explain('create', 7, '', 'CT 7 already exists');

  test('costs another try, up to ten times', async () => {
    let tries = 0;
    const losing = (times: number) => (): Promise<string> =>
      tries++ < times ? Promise.reject(taken) : Promise.resolve('ours');
    expect(await untilNotTaken(losing(10))).toBe('ours');
    tries = 0;
    await expect(untilNotTaken(losing(1_000))).rejects.toBe(taken);
    expect(tries).toBe(11);
  });

  test('is no reason to repeat another failure', async () => {
    let tries = 0;
    const failure = explain('create', 7, '', 'no quorum');
    await expect(untilNotTaken(() => Promise.reject((tries++, failure)))).rejects.toBe(failure);
    expect(tries).toBe(1);
  });
});

describe('a call', () => {
  const called = async (script: string): Promise<unknown> => {
    const umask = process.umask(0);
    const folder = mkdtempSync(join(tmpdir(), 'crisp-pct-'));
    try {
      const program = join(folder, 'pct');
      writeFileSync(program, `#!/bin/sh\n${script}\n`, { mode: 0o755 });
      const pct = new Pct({ program, timeoutMs: 20_000, outputFolder: join(folder, 'state') });
      const { stdout } = await pct.call('set', 7, ['--x', '1'], folder);
      return [stdout.replace(folder, 'FOLDER'), (statSync(join(folder, 'state')).mode & 0o777).toString(8)];
    } finally {
      process.umask(umask);
      rmSync(folder, { recursive: true });
    }
  };

  test('has the verb, the guest and the arguments, in a folder of the caller', async () => {
    expect(await called('echo "$@"; pwd')).toEqual(['set 7 --x 1\nFOLDER\n', '711']);
  });

  test('that fails is the error of its words; a program that is missing is missing', async () => {
    await expect(called('echo "CT is locked (backup)"; echo why >&2; exit 2')).rejects.toMatchObject({
      id: 'Locked',
      message: 'pct set 7 failed: why',
    });
    const absent = new Pct({ program: '/none', timeoutMs: 1_000, outputFolder: tmpdir() });
    await expect(absent.call('set', 7)).rejects.toMatchObject({ id: 'ToolMissing' });
  });
});
