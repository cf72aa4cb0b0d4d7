import { describe, expect, test } from '@jest/globals';
import { constants, createDeflate, createInflate } from 'node:zlib';
import {
  controlFrame,
  dataHeader,
  emptyHeaderBlock,
  FrameReader,
  frameTypes,
  headerDictionary,
  HeaderReader,
  ProtocolError,
} from './spdy-frames.js';

function readAll(reader: FrameReader, ...chunks: Buffer[]) {
  return chunks.flatMap((chunk) => [...reader.read(chunk)]);
}

test('the dictionary is that of SPDY/3: zlib verifies its checksum', () => {
  let [low, high] = [1, 0];
  for (const byte of headerDictionary) {
    low = (low + byte) % 65521;
    high = (high + low) % 65521;
  }
  expect((high * 65536 + low).toString(16)).toBe('e3c6a7c2');
});

describe('FrameReader', () => {
  const frames = Buffer.concat([
    controlFrame(frameTypes.ping, [7]),
    dataHeader(5, 3, false),
    Buffer.from('abc'),
    dataHeader(5, 0, true),
    controlFrame(frameTypes.reset, [5, 5]),
  ]);

  test.each([1, 2, 3, 7, 8, 9, 11, 64])('finds the frames in pieces of %d bytes', (size) => {
    const reader = new FrameReader();
    const chunks = Array.from({ length: Math.ceil(frames.length / size) }, (_, index) =>
      frames.subarray(index * size, (index + 1) * size),
    );
    const found = readAll(reader, ...chunks);
    expect(
      found
        .filter((frame) => frame.kind === 'control')
        .map(({ type, payload }) => [type, payload.toString('hex')]),
    ).toEqual([
      [6, '00000007'],
      [3, '0000000500000005'],
    ]);
    const data = found.filter((frame) => frame.kind === 'data');
    expect(Buffer.concat(data.map((frame) => frame.data)).toString()).toBe('abc');
    expect(data.map((frame) => frame.end)).toEqual([...data.slice(1).map(() => false), true]);
  });

  test('the largest data frame is passed on in pieces as it arrives', () => {
    const reader = new FrameReader();
    const length = 0xffffff;
    expect(readAll(reader, dataHeader(1, length, true))).toEqual([]);
    const piece = Buffer.alloc(65_536, 1);
    let bytes = 0;
    while (bytes + piece.length < length) {
      const [frame, ...more] = readAll(reader, piece);
      if (more.length || frame?.kind !== 'data' || frame.end || frame.data.compare(piece) !== 0)
        throw new Error(`after ${bytes} bytes: ${JSON.stringify(frame)}`);
      bytes += piece.length;
    }
    expect(readAll(reader, piece.subarray(0, length - bytes))).toEqual([
      expect.objectContaining({ end: true }),
    ]);
  });

  test.each([
    ['a control frame of 16 MiB', Buffer.from('8003000600ffffff', 'hex'), /16777215 bytes/],
    ['another version', Buffer.from('8002000600000004', 'hex'), /SPDY version 2/],
    ['HTTP where SPDY should be', Buffer.from('GET / HTTP/1.1\r\n\r\n').fill(0xff, 0, 4), /SPDY version/],
    ['data for stream 0', Buffer.from('0000000000000001', 'hex'), /stream 0/],
  ])('%s is a protocol error', (_, bytes, message) => {
    expect(() => readAll(new FrameReader(), bytes)).toThrow(message);
  });
});

describe('HeaderReader', () => {
  function compressor() {
    const deflate = createDeflate({ dictionary: headerDictionary });
    return (block: Buffer): Promise<Buffer> =>
      new Promise((resolve) => {
        deflate.write(block);
        deflate.flush(constants.Z_SYNC_FLUSH, () => resolve(deflate.read() as Buffer));
      });
  }
  function block(...words: string[]): Buffer {
    const count = Buffer.alloc(4);
    count.writeUInt32BE(words.length / 2, 0);
    return Buffer.concat([
      count,
      ...words.flatMap((word) => [
        Buffer.from([0, word.length >> 16, (word.length >> 8) & 255, word.length & 255]),
        Buffer.from(word),
      ]),
    ]);
  }

  test('reads the blocks of one zlib stream', async () => {
    const [compress, reader] = [compressor(), new HeaderReader()];
    expect(await reader.read(await compress(block('streamtype', 'error', 'port', '80')))).toEqual(
      new Map([
        ['streamtype', 'error'],
        ['port', '80'],
      ]),
    );
    expect(await reader.read(await compress(block('streamtype', 'data')))).toEqual(
      new Map([['streamtype', 'data']]),
    );
    const long = 'x'.repeat(10_000);
    expect((await reader.read(await compress(block('long', long)))).get('long')).toBe(long);
    reader.close();
  });

  test('a block that does not inflate is a protocol error, also for later blocks', async () => {
    const reader = new HeaderReader();
    await expect(reader.read(Buffer.from('nonsense'))).rejects.toThrow(ProtocolError);
    await expect(reader.read(Buffer.from('nonsense'))).rejects.toThrow(ProtocolError);
  });

  test.each([
    ['a length beyond the block', Buffer.from('00000001000000ff61', 'hex')],
    ['a count beyond the block', Buffer.from('0000000a', 'hex')],
    ['no block at all', Buffer.alloc(0)],
  ])('%s is a protocol error', async (_, bytes) => {
    const reader = new HeaderReader();
    await expect(reader.read((await compressor()(bytes)) ?? Buffer.alloc(0))).rejects.toThrow('too short');
    reader.close();
  });

  test('a block that inflates without end is refused', async () => {
    const reader = new HeaderReader();
    const bomb = await compressor()(block('bomb', 'x'.repeat(2_000_000)));
    expect(bomb.length).toBeLessThan(16_384);
    await expect(reader.read(bomb)).rejects.toThrow('header block: more than 16384 bytes');
  });
});

test('the empty header block of a reply is valid zlib, the first and the later ones', async () => {
  const inflate = createInflate({ dictionary: headerDictionary });
  const parts: Buffer[] = [];
  inflate.on('data', (chunk: Buffer) => parts.push(chunk));
  for (const first of [true, false, false])
    await new Promise((resolve) => inflate.write(emptyHeaderBlock(first), resolve));
  expect(Buffer.concat(parts).toString('hex')).toBe('000000000000000000000000');
});
