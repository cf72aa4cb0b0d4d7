import { afterEach, beforeEach, expect, test } from '@jest/globals';
import {
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Seal } from './seal.js';

const mark = { owner: 'pve1 /run/crisp', containerId: 'a'.repeat(64), vmid: '900001' };
let root: string;
beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), 'crisp-seal-'));
});
afterEach(() => rmSync(root, { recursive: true }));

test('matches only the sealed text, also for the next process', () => {
  const kept = new Seal(root).on(mark, 'text');
  expect(statSync(join(root, 'notes.key')).mode & 0o777).toBe(0o600);
  const seal = new Seal(root);
  expect(seal.fits(mark, kept)).toBe(true);
  for (const other of [{ owner: 'pve2 /run/crisp' }, { containerId: 'b'.repeat(64) }, { vmid: '900002' }])
    expect(seal.fits({ ...mark, ...other }, kept)).toBe(false);
  expect(seal.fits(mark, { ...kept, text: 'other' })).toBe(false);
  for (const bad of ['', '00', `${kept.seal.slice(2)}00`])
    expect(seal.fits(mark, { ...kept, seal: bad })).toBe(false);
});

test('a truncated key is created anew, and earlier seals do not match any more', () => {
  const kept = new Seal(root).on(mark, 'text');
  writeFileSync(join(root, 'notes.key'), '');
  const seal = new Seal(root);
  expect(seal.fits(mark, kept)).toBe(false);
  expect(seal.fits(mark, seal.on(mark, 'text'))).toBe(true);
  expect(readFileSync(join(root, 'notes.key'))).toHaveLength(32);
});

test('the key has 32 bytes of chance, in a folder that others may pass; nothing lies beside it', () => {
  const umask = process.umask(0);
  try {
    const inner = join(root, 'made');
    new Seal(inner).on(mark, 'text');
    new Seal(join(root, 'other')).on(mark, 'text');
    expect((statSync(inner).mode & 0o777).toString(8)).toBe('711');
    expect(readdirSync(inner)).toEqual(['notes.key']);
    const [one, other] = [inner, join(root, 'other')].map((at) => readFileSync(join(at, 'notes.key')));
    expect([one?.length, one?.equals(other ?? Buffer.alloc(0))]).toEqual([32, false]);
  } finally {
    process.umask(umask);
  }
});

test('a key that cannot be read is an error, and stays', () => {
  const link = join(root, 'notes.key');
  symlinkSync('notes.key', link); // a loop
  expect(() => new Seal(root).on(mark, 'text')).toThrow(/ELOOP/);
  expect(readdirSync(root)).toEqual(['notes.key']);
});
