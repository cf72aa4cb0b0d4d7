import { expect, test } from '@jest/globals';
import { chmod, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
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
  ['the unit is loaded later', 'NeedDaemonReload=no\\nDropInPaths=/etc/x.conf OURS\\n', []],
  ['the unit was loaded before', 'NeedDaemonReload=yes\\nDropInPaths=OURS\\n', ['daemon-reload']],
  ['the drop-in is not seen', 'NeedDaemonReload=no\\nDropInPaths=\\n', ['daemon-reload']],
  ['systemctl does not answer', '', ['daemon-reload']],
])('systemd is reloaded only if necessary: %s', async (_, answer, reloads) => {
  const folder = await mkdtemp(join(tmpdir(), 'crisp-units-'));
  try {
    const [systemctl, calls] = ['systemctl', 'calls'].map((name) => join(folder, name)) as [string, string];
    const ours = join(folder, 'pve-container@900001.service.d/crisp.conf');
    const script = `#!/bin/sh\necho "$@" >>${calls}\n[ $1 != show ] || printf '${answer.replace('OURS', ours)}'\n`;
    await writeFile(systemctl, script);
    await chmod(systemctl, 0o755);
    await new Units(folder, systemctl).write(900_001, 'text');
    expect(await readFile(ours, 'utf8')).toBe('text');
    const called = (await readFile(calls, 'utf8')).trimEnd().split('\n');
    expect(called.filter((line) => !line.startsWith('show '))).toEqual(reloads);
  } finally {
    await rm(folder, { recursive: true });
  }
});
