import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { existsSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { until } from '../../../test/helpers/wait.js';
import { dropIn, environmentText, Units } from './unit.js';

test('arguments pass through systemd unchanged: quotes, line breaks, dollar and percent signs', () => {
  expect(
    dropIn(
      { args: ['/bin/sh', '-c', 'echo "$HOME" \\ 100%\n\t\'x\''], env: ['A=b'] },
      '/run/b%i',
      'lxc.environment',
    ).replace(/"\/\S+\/ct-start\.pl"/, 'STARTER'),
  ).toBe(`[Unit]
CollectMode=inactive-or-failed
[Service]
ExecStart=
ExecStart=:/usr/bin/perl STARTER %i "/run/b%%i" "/usr/bin/lxc-start" -F -n %i "--" "/bin/sh" "-c" "echo \\"$HOME\\" \\\\ 100%%\\n\\t'x'"
`);
});

test('variables that liblxc cannot hold in a line are in a file, and not in the arguments', () => {
  const process = { args: ['/x'], env: ['A=b', 'KEY=one\ntwo', 'END=blank ', 'LD_X=/x\n', 'PERL5OPT=-Mx\n'] };
  const text = dropIn(process, '/run/b', 'lxc.environment');
  expect(text).toMatch(
    / "\/usr\/bin\/lxc-start" -F -n %i "-s" "lxc.environment=KEY" "-s" "lxc.environment=END" /m,
  );
  expect(text).not.toMatch(/one|blank/);
  expect(environmentText(process.env)).toBe('KEY=one\ntwo\0END=blank \0');
  // Variables that programs of the host evaluate never enter the environment of lxc-start.
  expect(text).toContain(
    '"-s" "lxc.environment=\\"LD_X=/x\\n\\"" "-s" "lxc.environment=\\"PERL5OPT=-Mx\\n\\"" "--" "/x"\n',
  );
  expect(environmentText(['A=b'])).toBeUndefined();
});

test('a variable with the name of a setting of a tool does not reach that tool, and is not in the arguments', () => {
  const keys = ['SSH_PRIVATE_KEY', 'SSL_CERT', 'GIT_DEPLOY_KEY', 'LDAP_BIND_KEY', 'HTTPS_KEY', 'NO_KEY'];
  const settings = ['SSH_AUTH_SOCK', 'SSL_CERT_FILE', 'LDAPURI', 'HTTPS_PROXY', 'http_proxy', 'NO_PROXY'];
  const env = [...keys, ...settings].map((name) => `${name}=one\ntwo`);
  const text = dropIn({ args: ['/x'], env }, '/run/b', 'lxc.environment');
  for (const name of keys) expect(text).toContain(`"lxc.environment=${name}"`);
  for (const name of settings) expect(text).toContain(`"lxc.environment=\\"${name}=one\\ntwo\\""`);
  expect(environmentText(env)).toBe(keys.map((name) => `${name}=one\ntwo\0`).join(''));
});

test.each([
  ...[
    'LD_PRELOAD',
    'GLIBC_TUNABLES',
    'GCONV_PATH',
    'MALLOC_CHECK_',
    'LC_ALL',
    'NSS_X',
    'RES_OPTIONS',
    'XDG_DATA_HOME',
  ],
  ...[
    'DBUS_SESSION_BUS_ADDRESS',
    'LISTEN_FDS',
    'SYSTEMD_LOG_LEVEL',
    'LXC_X',
    'PVE_X',
    'APPARMOR_X',
    'LIBMOUNT_FSTAB',
  ],
  ...[
    'BLKID_FILE',
    'DM_X',
    'LVM_SYSTEM_DIR',
    'ZFS_DEBUG',
    'CEPH_CONF',
    'RBD_X',
    'RADOS_X',
    'OVS_DBDIR',
    'FUSE_X',
  ],
  ...[
    'MODPROBE_OPTIONS',
    'PATH',
    'OPENSSL_CONF',
    'SSLKEYLOGFILE',
    'GNUTLS_DEBUG_LEVEL',
    'KRB5_CONFIG',
    'SASL_PATH',
  ],
  ...[
    'LWP_X',
    'BASH_ENV',
    'PERL5LIB',
    'PYTHONPATH',
    'RUBYLIB',
    'LANG',
    'IFS',
    'ENV',
    'PS4',
    'PWD',
    'OLDPWD',
    'HOME',
  ],
  ...[
    'TMPDIR',
    'TZ',
    'NOTIFY_SOCKET',
    'HOSTALIASES',
    'LOCALDOMAIN',
    'SSH_ASKPASS',
    'SSL_CERT_DIR',
    'HTTPS_DEBUG',
  ],
  ...['LDAPCONF', 'POSIXLY_CORRECT', 'TERM', 'PAGER', 'MAILPATH', 'ld_preload'],
])('programs of the host obey %s: it does not enter the environment of lxc-start', (name) => {
  const entry = `${name}=one\ntwo`;
  expect(environmentText([entry])).toBeUndefined();
  expect(dropIn({ args: ['/x'], env: [entry] }, '/run/b', 'k')).toContain(`"-s" "k=\\"${name}=one\\ntwo\\""`);
});

test('a name that does not fit a line is in the arguments as well', () => {
  expect(environmentText(['A\nB=c'])).toBeUndefined();
});

test('control characters pass systemd by their number', () => {
  expect(dropIn({ args: ['a\x01\x7f'], env: [] }, '/run/b', 'k')).toContain('"--" "a\\x01\\x7f"\n');
});

describe('the drop-ins of units', () => {
  let folder: string;
  let mask: number;
  beforeEach(() => {
    mask = process.umask(0);
    folder = mkdtempSync(join(tmpdir(), 'crisp-units-'));
    systemctl('');
  });
  afterEach(() => {
    process.umask(mask);
    rmSync(folder, { recursive: true });
  });
  /** @param shown what it says about a unit */
  const systemctl = (script: string, shown = ''): void =>
    writeFileSync(
      join(folder, 'systemctl'),
      `#!/bin/sh\nif [ $1 = show ]; then printf '${shown}'; exit; fi\necho "$@" >>'${folder}/calls'\n${script}\n`,
      { mode: 0o755 },
    );
  const calls = (): string[] =>
    (existsSync(join(folder, 'calls')) ? readFileSync(join(folder, 'calls'), 'utf8') : '')
      .split('\n')
      .filter(Boolean);
  const units = (): Units => new Units(join(folder, 'units'), join(folder, 'systemctl'));
  const path = (vmid: number): string => join(folder, `units/pve-container@${vmid}.service.d`);

  test('are of one CT each, and systemd reads them', async () => {
    const all = units();
    await all.write(100, 'text');
    expect(readFileSync(join(path(100), 'crisp.conf'), 'utf8')).toBe('text');
    expect((statSync(path(100)).mode & 0o777).toString(8)).toBe('755');
    expect(calls()).toEqual(['daemon-reload']);
    await all.write(101, 'other');
    await all.remove(100);
    expect([existsSync(path(100)), existsSync(path(101))]).toEqual([false, true]);
    expect(calls()).toHaveLength(2); // systemd forgets a removed one by itself
  });

  test.each([
    ['the unit is loaded later', 'NeedDaemonReload=no\\nDropInPaths=/etc/x.conf OURS\\n', []],
    ['the unit was loaded before', 'NeedDaemonReload=yes\\nDropInPaths=OURS\\n', ['daemon-reload']],
    ['the drop-in is not seen', 'NeedDaemonReload=no\\nDropInPaths=\\n', ['daemon-reload']],
    ['systemctl does not answer', '', ['daemon-reload']],
    ['systemctl names no drop-ins', 'NeedDaemonReload=no\\n', ['daemon-reload']],
  ])('are read by a reload only if necessary: %s', async (_, shown, reloads) => {
    systemctl('', shown.replace('OURS', join(path(100), 'crisp.conf')));
    await units().write(100, 'text');
    expect(calls()).toEqual(reloads);
  });

  test('that are written while systemd reloads share a further reload', async () => {
    systemctl(`: >'${folder}/reloading'; while [ ! -e '${folder}/go' ]; do sleep 0.02; done`);
    const all = units();
    const first = all.write(100, 'text');
    await until(() => existsSync(join(folder, 'reloading')));
    const others = [101, 102, 103].map((vmid) => all.write(vmid, 'text'));
    await until(() => existsSync(path(103)));
    writeFileSync(join(folder, 'go'), '');
    await Promise.all([first, ...others]);
    expect(calls().length).toBeGreaterThan(1); // what is written during a reload may not be read by it
    expect(calls().length).toBeLessThan(4);
  });

  test('a reload that fails is an error of its own callers alone', async () => {
    systemctl('exit 1');
    const all = units();
    await expect(all.write(100, 'text')).rejects.toMatchObject({ stage: 'systemctl daemon-reload' });
    systemctl('');
    await all.write(101, 'text');
  });
});
