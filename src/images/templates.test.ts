import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { chmodSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { templateOf, Templates } from './templates.js';

let folder: string;
let pvesm: string;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'crisp-templates-'));
  pvesm = join(folder, 'pvesm'); // stands for the real one: a path for each volume of "local", as `pvesm path` prints it
  writeFileSync(
    pvesm,
    `#!/bin/sh\ncase $2 in local:*) echo "${folder}/\${2#local:vztmpl/}";; *) echo "storage '\${2%%:*}' does not exist" >&2; exit 255;; esac\n`,
  );
  chmodSync(pvesm, 0o755);
  writeFileSync(join(folder, 'debian-13.tar.zst'), 'x'.repeat(100));
});
afterAll(() => rmSync(folder, { recursive: true }));

test.each([
  ['pve/local:vztmpl/debian-13.tar.zst', 'local:vztmpl/debian-13.tar.zst'],
  ['pve/local/vztmpl/debian-13_1.tar.gz:latest', 'local:vztmpl/debian-13_1.tar.gz'],
  ['pve/local/vztmpl/debian.tar', 'local:vztmpl/debian.tar'],
  ['pve/local:vztmpl/../../etc/shadow.tar', undefined],
  ['pve/local:iso/debian.iso', undefined],
  ['pve/app:1', undefined],
  ['docker.io/pve/local/vztmpl/x.tar', undefined],
])('%s means %s', (reference, volume) => expect(templateOf(reference)).toBe(volume));

test('a pulled template is found, also after a restart, until it is removed', async () => {
  const file = join(folder, 'templates.json');
  const templates = new Templates(file, pvesm);
  expect(await templates.list()).toEqual([]);
  const image = await templates.pull('local:vztmpl/debian-13.tar.zst');
  expect(image).toMatchObject({
    tags: ['pve/local:vztmpl/debian-13.tar.zst'],
    sizeBytes: 100,
    template: 'local:vztmpl/debian-13.tar.zst',
    config: { Cmd: ['/sbin/init'] },
  });
  await templates.pull('local:vztmpl/debian-13.tar.zst');
  expect(await new Templates(file, pvesm).list()).toEqual([image]);
  await templates.forget('local:vztmpl/debian-13.tar.zst');
  expect(await templates.list()).toEqual([]);
});

test('a missing template, and a missing storage', async () => {
  const templates = new Templates(join(folder, 'none.json'), pvesm);
  await expect(templates.pull('local:vztmpl/alpine.tar')).rejects.toMatchObject({ id: 'NotFoundInRegistry' });
  await expect(templates.pull('tank:vztmpl/alpine.tar')).rejects.toMatchObject({
    id: 'StorageFailed',
    stderr: expect.stringContaining('tank') as unknown,
  });
  expect(await templates.list()).toEqual([]);
});
