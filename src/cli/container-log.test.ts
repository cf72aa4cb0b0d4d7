import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { appendFile, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Writable } from 'node:stream';
import { replay } from './container-log.js';

let folder = '';
let path = '';
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'crisp-log-'));
  path = join(folder, 'log');
});
afterEach(async () => {
  await rm(folder, { recursive: true });
});

class Kept extends Writable {
  readonly chunks: Buffer[] = [];
  override _write(chunk: Buffer, _encoding: BufferEncoding, done: () => void): void {
    this.chunks.push(Buffer.from(chunk));
    this.emit('kept');
    done();
  }
  get content(): Buffer {
    return Buffer.concat(this.chunks);
  }
}
const at = '2026-01-01T00:00:00.000000000Z';

describe('a log in CRI format', () => {
  test('becomes the bytes that were written, stream by stream', async () => {
    const binary = Buffer.from([0, 255, 13, 128]);
    await writeFile(
      path,
      Buffer.concat([
        Buffer.from(
          `${at} stdout F one\n${at} stderr F wrong\n${at} stdout P ab\n${at} stdout F c\n${at} stdout F \n${at} stdout P `,
        ),
        binary,
        Buffer.from('\n'),
      ]),
    );
    const [stdout, stderr] = [new Kept(), new Kept()];
    await replay(path, { stdout, stderr });
    expect(stdout.content).toEqual(Buffer.concat([Buffer.from('one\nabc\n\n'), binary]));
    expect(stderr.content.toString()).toBe('wrong\n');
  });

  test('is followed until the end, and then read out', async () => {
    await writeFile(path, `${at} stdout F one\n${at} stdout F t`);
    const [stdout, stderr] = [new Kept(), new Kept()];
    let end: () => void = () => undefined;
    const done = replay(
      path,
      { stdout, stderr },
      new Promise<void>((resolve) => {
        end = resolve;
      }),
    );
    await kept(stdout, 'one\n');
    await appendFile(path, `wo\n${at} stdout F three\n`);
    await kept(stdout, 'one\ntwo\nthree\n');
    await appendFile(path, `${at} stdout P last`);
    await appendFile(path, '\n');
    end();
    await done;
    expect(stdout.content.toString()).toBe('one\ntwo\nthree\nlast');
  });

  test('is read no further than its reader goes', async () => {
    await writeFile(path, `${at} stdout F one\n${at} stdout F two\n`);
    const stdout = new Writable({ write: (_chunk, _encoding, done) => done(new Error('EPIPE')) });
    stdout.on('error', () => undefined);
    expect(await replay(path, { stdout, stderr: new Kept() }, new Promise(() => undefined))).toBe(false);
  });

  test('that is not there is empty', async () => {
    const stdout = new Kept();
    await replay(path, { stdout, stderr: stdout }, Promise.resolve());
    expect(stdout.content.toString()).toBe('');
  });
});

async function kept(stream: Kept, wanted: string): Promise<void> {
  while (stream.content.toString() !== wanted)
    await new Promise((resolve) => {
      stream.once('kept', resolve);
    });
}
