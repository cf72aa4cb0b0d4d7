import { expect, test } from '@jest/globals';
import { dropIn } from './unit.js';

const streams = { stdin: undefined, stdout: '/run/b/stdout', stderr: '/run/b/stderr' };

test('arguments survive systemd: quotes, breaks, dollars, percents', () => {
  expect(dropIn({ args: ['/bin/sh', '-c', 'echo "$HOME" \\ 100%\n\t\'x\''], env: ['A=b'] }, streams))
    .toBe(`[Unit]
CollectMode=inactive-or-failed
[Service]
ExecStart=
ExecStart=:/usr/bin/lxc-start -F -n %i "--" "/bin/sh" "-c" "echo \\"$HOME\\" \\\\ 100%%\\n\\t'x'"
StandardOutput=append:/run/b/stdout
StandardError=append:/run/b/stderr
`);
});

test('variables that no line of liblxc can hold come with the command', () => {
  const text = dropIn(
    { args: ['/x'], env: ['A=b', 'KEY=one\ntwo', 'END=blank '] },
    { ...streams, stdin: '/run/b/std%in' },
  );
  expect(text).toContain(
    '%i "-s" "lxc.environment=\\"KEY=one\\ntwo\\"" "-s" "lxc.environment=\\"END=blank \\"" "--" "/x"\n',
  );
  expect(text).toContain('StandardInput=file:/run/b/std%%in\n');
});
