// The wire format of SPDY/3.1, as far as Kubernetes uses it: parses and makes
// frames. Called by spdy.ts.
//
//   data:    0 | stream id, 31 bits        flags, 8 | length, 24   bytes
//   control: 1 | version, 15 | type, 16    flags, 8 | length, 24   payload
//
// Flow control is ignored: the SPDY library of all Kubernetes clients
// (moby/spdystream) never sends WINDOW_UPDATE, so a window would be used up
// after 64 KiB. The socket's own back-pressure is sufficient.
import { createInflate, type Inflate } from 'node:zlib';
import { maxControlBytes, maxHeaderBytes } from './limits.js';

/** The types of control frames (SPDY/3.1, section 2.6). */
export const frameTypes = {
  synStream: 1,
  synReply: 2,
  reset: 3,
  settings: 4,
  ping: 6,
  goAway: 7,
  headers: 8,
  windowUpdate: 9,
} as const;
/** The flag FLAG_FIN: the last frame of a stream in this direction. */
export const flagEnd = 1;
/** Status codes of RST_STREAM. */
export const resetRefused = 3;
/** CANCEL: the stream is not needed any more. */
export const resetCancel = 5;
/** The status code of GOAWAY. */
export const goAwayProtocolError = 1;

const version = 3;
const frameHeaderBytes = 8;

/** The peer violated the protocol; the connection has to be closed. */
export class ProtocolError extends Error {}

export interface DataFrame {
  readonly kind: 'data';
  readonly streamId: number;
  /** A part of the frame, which may be of any length. */ readonly data: Buffer;
  /** The stream ends with this part. */ readonly end: boolean;
}
export interface ControlFrame {
  readonly kind: 'control';
  readonly type: number;
  readonly flags: number;
  readonly payload: Buffer;
}

/**
 * Splits the bytes of a connection into frames. The data of a frame is passed on as it arrives, without a
 * buffer for the whole frame.
 */
export class FrameReader {
  /** The received part of the frame header, then of a control frame's payload. */
  private pending: Buffer = Buffer.alloc(0);
  /** The data frame that is being passed on. */
  private data: { streamId: number; left: number; end: boolean } | undefined;

  /**
   * The frames that are complete with this chunk; the data of a frame may come in several pieces.
   * @throws ProtocolError
   */
  *read(chunk: Buffer): Generator<DataFrame | ControlFrame> {
    let rest = this.pending.length ? Buffer.concat([this.pending, chunk]) : chunk;
    for (;;) {
      if (this.data) {
        if (rest.length === 0 && this.data.left > 0) break;
        const piece = rest.subarray(0, this.data.left);
        rest = rest.subarray(piece.length);
        const { streamId, left, end } = this.data;
        this.data = left > piece.length ? { streamId, left: left - piece.length, end } : undefined;
        yield { kind: 'data', streamId, data: piece, end: end && !this.data };
        continue;
      }
      if (rest.length < frameHeaderBytes) break;
      const first = rest.readUInt32BE(0);
      const flags = rest.readUInt8(4);
      const length = rest.readUIntBE(5, 3);
      if (first < 0x80000000) {
        if (first === 0) throw new ProtocolError('data for stream 0');
        this.data = { streamId: first, left: length, end: (flags & flagEnd) !== 0 };
        rest = rest.subarray(frameHeaderBytes);
        continue;
      }
      if (first >>> 16 !== (0x8000 | version))
        throw new ProtocolError(`SPDY version ${(first >>> 16) & 0x7fff}, not ${version}`);
      if (length > maxControlBytes)
        throw new ProtocolError(`a control frame of ${length} bytes; ${maxControlBytes} are allowed`);
      if (rest.length < frameHeaderBytes + length) break;
      const payload = rest.subarray(frameHeaderBytes, frameHeaderBytes + length);
      rest = rest.subarray(frameHeaderBytes + length);
      yield { kind: 'control', type: first & 0xffff, flags, payload };
    }
    this.pending = rest;
  }
}

/**
 * The eight bytes before the data of a frame.
 * @param length of the data in bytes, less than 16 MiB
 * @param end sets FLAG_FIN
 */
export function dataHeader(streamId: number, length: number, end: boolean): Buffer {
  const header = Buffer.allocUnsafe(frameHeaderBytes);
  header.writeUInt32BE(streamId, 0);
  header.writeUInt32BE(length, 4);
  if (end) header.writeUInt8(flagEnd, 4);
  return header;
}

/** A control frame with a payload of these 32-bit words and bytes. */
export function controlFrame(
  type: number,
  words: readonly number[],
  bytes: Buffer = Buffer.alloc(0),
): Buffer {
  const frame = Buffer.alloc(frameHeaderBytes + 4 * words.length);
  frame.writeUInt16BE(0x8000 | version, 0);
  frame.writeUInt16BE(type, 2);
  frame.writeUInt32BE(4 * words.length + bytes.length, 4);
  words.forEach((word, index) => frame.writeUInt32BE(word, frameHeaderBytes + 4 * index));
  return Buffer.concat([frame, bytes]);
}

/**
 * The header block of a reply, which has no headers. All blocks of a connection
 * are one zlib stream; this one consists of stored blocks, so it needs no
 * compressor: the zlib header (first block only), four bytes for the number of
 * headers (zero), and the empty block at which Go's reader flushes.
 */
export function emptyHeaderBlock(first: boolean): Buffer {
  return Buffer.from(`${first ? '7801' : ''}000400fbff00000000000000ffff`, 'hex');
}

/** Reads header blocks. They share one zlib stream, so all must be read, in order. */
export class HeaderReader {
  private readonly inflate: Inflate = createInflate({ dictionary: headerDictionary });
  private output: Buffer[] = [];
  private outputBytes = 0;
  private failed: ProtocolError | undefined;
  private fail: ((error: ProtocolError) => void) | undefined;

  constructor() {
    const refuse = (message: string): void => {
      this.failed ??= new ProtocolError(`header block: ${message}`);
      this.fail?.(this.failed);
    };
    this.inflate.on('data', (chunk: Buffer) => {
      this.output.push(chunk);
      this.outputBytes += chunk.length;
      if (this.outputBytes <= maxHeaderBytes) return;
      refuse(`more than ${maxHeaderBytes} bytes`);
      this.inflate.destroy();
    });
    this.inflate.on('error', (error) => refuse(error.message));
  }

  /** @throws ProtocolError */
  async read(block: Buffer): Promise<ReadonlyMap<string, string>> {
    if (this.failed) throw this.failed;
    this.output = [];
    this.outputBytes = 0;
    await new Promise<void>((resolve, reject) => {
      this.fail = reject; // zlib does not call the callback of a failed write
      this.inflate.write(block, () => resolve());
    });
    return parseHeaders(Buffer.concat(this.output));
  }

  /** Frees the memory of zlib. */
  close(): void {
    this.inflate.destroy();
  }
}

function parseHeaders(block: Buffer): ReadonlyMap<string, string> {
  let offset = 0;
  const number = (): number => {
    if (offset + 4 > block.length) throw new ProtocolError('header block too short');
    offset += 4;
    return block.readUInt32BE(offset - 4);
  };
  const text = (): string => {
    const length = number();
    if (offset + length > block.length) throw new ProtocolError('header block too short');
    offset += length;
    return block.toString('utf8', offset - length, offset);
  };
  const headers = new Map<string, string>();
  for (let left = number(); left > 0; left--) {
    const name = text().toLowerCase();
    headers.set(name, text());
  }
  return headers;
}

/**
 * The dictionary of SPDY/3 (draft-mbelshe-httpbis-spdy-00, 2.6.10.1): words, each preceded by its length,
 * then plain text.
 */
export const headerDictionary: Buffer = Buffer.concat([
  ...[
    'options',
    'head',
    'post',
    'put',
    'delete',
    'trace',
    'accept',
    'accept-charset',
    'accept-encoding',
    'accept-language',
    'accept-ranges',
    'age',
    'allow',
    'authorization',
    'cache-control',
    'connection',
    'content-base',
    'content-encoding',
    'content-language',
    'content-length',
    'content-location',
    'content-md5',
    'content-range',
    'content-type',
    'date',
    'etag',
    'expect',
    'expires',
    'from',
    'host',
    'if-match',
    'if-modified-since',
    'if-none-match',
    'if-range',
    'if-unmodified-since',
    'last-modified',
    'location',
    'max-forwards',
    'pragma',
    'proxy-authenticate',
    'proxy-authorization',
    'range',
    'referer',
    'retry-after',
    'server',
    'te',
    'trailer',
    'transfer-encoding',
    'upgrade',
    'user-agent',
    'vary',
    'via',
    'warning',
    'www-authenticate',
    'method',
    'get',
    'status',
    '200 OK',
    'version',
    'HTTP/1.1',
    'url',
    'public',
    'set-cookie',
    'keep-alive',
    'origin',
  ].flatMap((word) => [Buffer.from([0, 0, 0, word.length]), Buffer.from(word)]),
  Buffer.from(
    '100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505' +
      '203 Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request401 Unauthorized' +
      '403 Forbidden404 Not Found500 Internal Server Error501 Not Implemented503 Service Unavailable' +
      'Jan Feb Mar Apr May Jun Jul Aug Sept Oct Nov Dec 00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMT' +
      'chunked,text/html,image/png,image/jpg,image/gif,application/xml,application/xhtml+xml,text/plain,' +
      'text/javascript,publicprivatemax-age=gzip,deflate,sdchcharset=utf-8charset=iso-8859-1,utf-,*,enq=0.',
  ),
]);
