import { afterEach, beforeEach, expect, test } from '@jest/globals';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { findProgram } from './programs.js';

let folder: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'crisp-programs-'));
});
afterEach(() => rmSync(folder, { recursive: true }));

test('a name is looked up where tools are, and not on the PATH or in the folder of the caller', async () => {
  writeFileSync(join(folder, 'own-tool'), '', { mode: 0o755 });
  const path = process.env['PATH'];
  const own = process.cwd();
  process.env['PATH'] = folder;
  process.chdir(folder);
  try {
    await expect(findProgram('own-tool')).rejects.toMatchObject({ id: 'ToolMissing', tool: 'own-tool' });
    expect(await findProgram('sh')).toMatch(/^\/(usr\/)?bin\/sh$/);
    expect(await findProgram('ldconfig')).toMatch(/^\/(usr\/)?sbin\/ldconfig$/);
  } finally {
    process.chdir(own);
    process.env['PATH'] = path;
  }
});

test('a path is that program and no other, if it can be run', async () => {
  const path = join(folder, 'program');
  writeFileSync(path, '', { mode: 0o755 });
  expect(await findProgram(path)).toBe(path);
  writeFileSync(join(folder, 'text'), '', { mode: 0o644 });
  await expect(findProgram(join(folder, 'text'))).rejects.toMatchObject({
    id: 'ToolMissing',
    message: `${join(folder, 'text')} cannot be executed`,
  });
  await expect(findProgram(join(folder, 'sh'))).rejects.toMatchObject({
    id: 'ToolMissing',
    message: `${join(folder, 'sh')} is not installed`,
  });
});
