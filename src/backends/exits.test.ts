import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { mkdirSync, mkdtempSync, rmSync, statSync, symlinkSync, utimesSync, writeFileSync } from 'node:fs';
import { rename, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { until } from '../../test/helpers/wait.js';
import { setAside } from '../set-aside.js';
import { Exits } from './exits.js';

test('a folder that cannot be watched is an error', () => {
  const folder = mkdtempSync(join(tmpdir(), 'crisp-exits-'));
  writeFileSync(join(folder, 'file'), '');
  expect(() => new Exits(join(folder, 'file')).watch(() => undefined)).toThrow(/cannot watch .*file: /);
  rmSync(folder, { recursive: true });
});

describe('an exit', () => {
  let folder: string;
  beforeEach(() => {
    folder = mkdtempSync(join(tmpdir(), 'crisp-exits-'));
  });
  afterEach(() => rmSync(folder, { recursive: true }));

  test.each([
    ['0', 0],
    ['137\n', 137],
    ['', undefined],
    ['x', undefined],
    ['1000', undefined],
    ['-1', undefined],
  ])('with the text %j has the exit code %p', async (text, code) => {
    writeFileSync(join(folder, 'id'), text);
    expect((await new Exits(folder).read('id', folder))?.exitCode).toBe(code);
  });

  test('has the time of its file, and reports whether it was an OOM kill', async () => {
    const exits = new Exits(folder);
    expect(exits.path('id')).toBe(join(folder, 'id'));
    expect(await exits.read('id', folder)).toBeUndefined();
    writeFileSync(join(folder, 'id'), '1');
    utimesSync(join(folder, 'id'), 5, 7);
    expect(await exits.read('id', folder)).toEqual({
      exitCode: 1,
      finishedAt: 7_000_000_000n,
      oomKilled: false,
    });
    writeFileSync(join(folder, 'oom'), '');
    expect(await exits.read('id', folder)).toMatchObject({ oomKilled: true });
  });

  test('whose file is a folder is ignored', async () => {
    mkdirSync(join(folder, 'id'));
    expect(await new Exits(folder).read('id', folder)).toBeUndefined();
    expect(setAside.all().map(({ name }) => name)).toContain(join(folder, 'id'));
    setAside.replace('file', []);
  });

  test('is reported when its file is complete; other files are ignored', async () => {
    const exits = new Exits(join(folder, 'made'));
    const told: string[] = [];
    const last = new Promise<void>((resolve) => {
      exits.watch((id) => {
        told.push(id);
        if (id === 'last') resolve();
      });
    });
    expect((statSync(join(folder, 'made')).mode & 0o777).toString(8)).toBe('700');
    for (const name of ['.half', 'id.tmp', 'id', 'last']) writeFileSync(join(folder, 'made', name), '0');
    await last;
    exits.close();
    expect(new Set(told)).toEqual(new Set(['id', 'last']));
  });

  test('is told to every listener once, and to none after close', async () => {
    const exits = new Exits(folder);
    const [one, other]: string[][] = [[], []];
    exits.watch((id) => one?.push(id));
    exits.watch((id) => other?.push(id));
    await Promise.all([exits.wait('id', folder, 20_000), writeExit('id')]);
    await until(() => Boolean(one?.length && other?.length));
    expect([new Set(one), new Set(other)]).toEqual([new Set(['id']), new Set(['id'])]);
    expect(one?.length).toBe(other?.length);
    exits.close();
    const later = new Exits(folder);
    const heard = new Promise<string>((resolve) => later.watch(resolve));
    await writeExit('next');
    expect(await heard).toBe('next');
    expect(one).not.toContain('next');
    later.close();
  });

  test('is waited for, but not for ever', async () => {
    const exits = new Exits(folder);
    expect(await exits.wait('id', folder, 0)).toBeUndefined();
    const waited = exits.wait('id', join(folder, 'bundle'), 20_000);
    await writeExit('id');
    expect(await waited).toMatchObject({ exitCode: 7, oomKilled: false });
  });

  test('that cannot be read is an error, and no exit', async () => {
    symlinkSync('id', join(folder, 'id')); // a loop
    await expect(new Exits(folder).read('id', folder)).rejects.toThrow(/ELOOP/);
  });

  /** As a monitor does: whole at once. */
  async function writeExit(id: string): Promise<void> {
    await writeFile(join(folder, `.${id}`), '7');
    await rename(join(folder, `.${id}`), join(folder, id));
  }
});
