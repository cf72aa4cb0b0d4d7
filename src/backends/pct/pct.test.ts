import { describe, expect, test } from '@jest/globals';
import { toStatus } from '../../errors.js';
import { explain, meaningOf } from './pct.js';

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
