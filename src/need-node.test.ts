// Scripts that need Node report a version that is too old in one line, before they
// start npm or anything else.
import { expect, test } from '@jest/globals';
import { spawnSync } from 'node:child_process';
import { chmodSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

test.each([
  ['deploy/demo.sh', 'v18.20.4'],
  ['test/run.sh', 'v18.20.4'],
  ['bench/run.sh', 'v20.9.0'],
])('%s refuses Node %s', (script, version) => {
  const folder = mkdtempSync(join(tmpdir(), 'crisp-node-'));
  try {
    // In place of Debian 12's Node: says its version, and that anything else was started.
    writeFileSync(
      join(folder, 'node'),
      `#!/bin/sh\n[ "$1" = --version ] && echo ${version} || echo started\n`,
    );
    writeFileSync(join(folder, 'npm'), '#!/bin/sh\necho started\n');
    for (const name of ['node', 'npm']) chmodSync(join(folder, name), 0o755);
    const { status, stdout, stderr } = spawnSync('bash', [script], {
      encoding: 'utf8',
      env: { PATH: `${folder}:/usr/sbin:/usr/bin:/sbin:/bin` },
    });
    expect([status, stdout, stderr]).toEqual([
      1,
      '',
      `Node 20.19 or newer is required, and ${version} was found; README.md says how to install it on Debian 12\n`,
    ]);
  } finally {
    rmSync(folder, { recursive: true });
  }
});
