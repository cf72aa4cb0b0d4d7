import { expect, test } from '@jest/globals';
import { DetachKeys } from './detach-keys.js';

/** The keys that are passed on, and whether the chunks detach. */
async function typed(...chunks: string[]): Promise<[string, boolean]> {
  let detached = false;
  const keys = new DetachKeys(() => {
    detached = true;
  });
  let passed = '';
  keys.on('data', (chunk: Buffer) => {
    passed += chunk.toString();
  });
  const ended = new Promise((resolve) => {
    keys.once('end', resolve);
  });
  for (const chunk of chunks) keys.write(chunk);
  keys.end();
  await ended;
  return [passed, detached];
}

test.each<[string[], string, boolean]>([
  [['ls\n'], 'ls\n', false],
  [['a\x10\x11b'], 'a', true],
  [['a\x10', '\x11'], 'a', true],
  [['\x10\x10\x11'], '\x10', true],
  [['\x10', 'x'], '\x10x', false],
  [['\x11\x10'], '\x11\x10', false],
])('%j', async (chunks, passed, detached) => {
  expect(await typed(...chunks)).toEqual([passed, detached]);
});
