import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { appendFile, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Writable } from 'node:stream';
import { replay, timeOf, type LogView } from './container-log.js';

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

describe('a part of a log', () => {
  const time = (seconds: number): string => `2026-01-01T00:00:0${seconds}.000000000Z`;
  const text = `${time(1)} stdout F one\n${time(2)} stdout P tw\n${time(3)} stdout F o\n${time(4)} stderr F bad\n${time(5)} stdout F three\n`;
  const shown = async (view: LogView): Promise<[string, string]> => {
    await writeFile(path, text);
    const [stdout, stderr] = [new Kept(), new Kept()];
    await replay(path, { stdout, stderr }, undefined, view);
    return [stdout.content.toString(), stderr.content.toString()];
  };

  test.each<[string, LogView, [string, string]]>([
    ['the last line', { tail: 1 }, ['three\n', '']],
    ['the last lines, with all parts', { tail: 3 }, ['two\nthree\n', 'bad\n']],
    ['more than there is', { tail: 9 }, ['one\ntwo\nthree\n', 'bad\n']],
    ['nothing', { tail: 0 }, ['', '']],
    ['what is younger', { since: Date.parse(time(4)) }, ['three\n', 'bad\n']],
    [
      'with times, one for each line',
      { timestamps: true, tail: 3 },
      [`${time(2)} two\n${time(5)} three\n`, `${time(4)} bad\n`],
    ],
  ])('%s', async (_, view, content) => {
    expect(await shown(view)).toEqual(content);
  });

  test('what comes later follows the last lines', async () => {
    await writeFile(path, text);
    const [stdout, stderr] = [new Kept(), new Kept()];
    const until = new Promise<void>((resolve) => {
      stdout.once('kept', () => {
        void appendFile(path, `${time(6)} stdout F four\n`).then(resolve);
      });
    });
    await replay(path, { stdout, stderr }, until, { tail: 1 });
    expect(stdout.content.toString()).toBe('three\nfour\n');
  });

  test('times of --since', () => {
    const now = Date.parse('2026-01-01T12:00:00Z');
    expect(timeOf('1h30m', now)).toBe(Date.parse('2026-01-01T10:30:00Z'));
    expect(timeOf('0.5s', now)).toBe(now - 500);
    expect(timeOf('2026-01-01T10:30:00Z', now)).toBe(Date.parse('2026-01-01T10:30:00Z'));
    expect(timeOf('1767225600')).toBe(Date.parse('2026-01-01T00:00:00Z'));
    expect(() => timeOf('yesterday')).toThrow(/--since/);
  });
});
