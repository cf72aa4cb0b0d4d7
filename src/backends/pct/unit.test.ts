import { expect, test } from '@jest/globals';
import { dropIn, environmentText } from './unit.js';

const streams = { stdin: undefined, stdout: '/run/b/stdout', stderr: '/run/b/stderr' };

test('arguments survive systemd: quotes, breaks, dollars, percents', () => {
  expect(
    dropIn(
      { args: ['/bin/sh', '-c', 'echo "$HOME" \\ 100%\n\t\'x\''], env: ['A=b'] },
      streams,
      '/b/environment',
    ),
  ).toBe(`[Unit]
CollectMode=inactive-or-failed
[Service]
ExecStart=
ExecStart=:/usr/bin/lxc-start -F -n %i "--" "/bin/sh" "-c" "echo \\"$HOME\\" \\\\ 100%%\\n\\t'x'"
StandardOutput=append:/run/b/stdout
StandardError=append:/run/b/stderr
`);
});

test('variables that no line of liblxc can hold are in a file, and not in the arguments', () => {
  const process = { args: ['/x'], env: ['A=b', 'KEY=one\ntwo', 'END=blank ', 'LD_X=/x\n', 'PERL5OPT=-Mx\n'] };
  const text = dropIn(process, { ...streams, stdin: '/run/b/std%in' }, '/run/b/environment');
  expect(text).toMatch(
    /^ExecStart=:\/usr\/bin\/perl "\S+environment\.pl" "\/run\/b\/environment" "\/usr\/bin\/lxc-start" -F -n %i "-s" "lxc.environment=KEY" "-s" "lxc.environment=END" /m,
  );
  expect(text).not.toMatch(/one|blank/);
  expect(environmentText(process.env)).toBe('KEY=one\ntwo\0END=blank \0');
  // What programs of the host would obey never enters the environment of lxc-start.
  expect(text).toContain(
    '"-s" "lxc.environment=\\"LD_X=/x\\n\\"" "-s" "lxc.environment=\\"PERL5OPT=-Mx\\n\\"" "--" "/x"\n',
  );
  expect(text).toContain('StandardInput=file:/run/b/std%%in\n');
  expect(environmentText(['A=b'])).toBeUndefined();
});
