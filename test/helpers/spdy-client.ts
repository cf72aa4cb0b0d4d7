// A small SPDY/3.1 client for tests, written independently of the server: they share
// only the dictionary. Back-pressure works in both directions.
import { once } from 'node:events';
import { request } from 'node:http';
import type { Socket } from 'node:net';
import { PassThrough } from 'node:stream';
import { constants, createDeflate, createInflate } from 'node:zlib';
import { headerDictionary } from '../../src/streaming/spdy-frames.js';

export class RefusedUpgrade extends Error {
  constructor(
    readonly status: number,
    readonly body: string,
    readonly headers: NodeJS.Dict<string | string[]>,
  ) {
    super(`${status}: ${body}`);
  }
}

/** Opens a URL with these headers beside those of the upgrade. @throws RefusedUpgrade */
export async function upgrade(
  url: string,
  headers: Record<string, string>,
  method = 'POST',
  upgradeTo = 'SPDY/3.1',
): Promise<{ socket: Socket; headers: NodeJS.Dict<string | string[]> }> {
  const sent = request(url, {
    method,
    headers: { connection: 'Upgrade', upgrade: upgradeTo, ...headers },
  }).end();
  return new Promise((resolve, reject) => {
    sent.on('error', reject);
    sent.on('upgrade', (response, socket: Socket, head) => {
      socket.unshift(head);
      resolve({ socket, headers: response.headers });
    });
    sent.on('response', (response) => {
      let body = '';
      response
        .setEncoding('utf8')
        .on('data', (chunk: string) => {
          body += chunk;
        })
        .on('end', () => reject(new RefusedUpgrade(response.statusCode ?? 0, body.trim(), response.headers)));
    });
  });
}

export class SpdyClient {
  /** The types of the control frames that came, in order. */
  readonly controls: number[] = [];
  readonly streams = new Map<number, ClientStream>();
  readonly closed: Promise<unknown>;
  private nextId = 1;
  private turn = Promise.resolve();
  private readonly deflate = createDeflate({ dictionary: headerDictionary, level: 9 });
  private readonly inflate = createInflate({ dictionary: headerDictionary });
  private inflated = Buffer.alloc(0);

  constructor(readonly socket: Socket) {
    socket.on('error', () => undefined);
    this.closed = once(socket, 'close');
    this.inflate.on('data', (chunk: Buffer) => {
      this.inflated = Buffer.concat([this.inflated, chunk]);
    });
    void this.read();
  }

  static async open(url: string, protocol: string): Promise<SpdyClient> {
    const { socket, headers } = await upgrade(url, { 'x-stream-protocol-version': protocol });
    if (headers['x-stream-protocol-version'] !== protocol)
      throw new Error(`the server chose ${String(headers['x-stream-protocol-version'])}`);
    return new SpdyClient(socket);
  }

  /** Resolves when the server has replied. */
  async createStream(headers: Record<string, string>): Promise<ClientStream> {
    const id = this.nextId;
    this.nextId += 2;
    const stream = new ClientStream(this, id);
    this.streams.set(id, stream);
    this.turn = this.turn.then(async () => {
      const payload = Buffer.concat([Buffer.alloc(10), await this.compress(headers)]);
      payload.writeUInt32BE(id, 0);
      this.sendControl(1, payload);
    });
    await stream.replied;
    return stream;
  }

  /** One block of the zlib stream that all blocks make; the server must get them in order. */
  async compress(headers: Record<string, string>): Promise<Buffer> {
    const word = (text: string): Buffer => {
      const bytes = Buffer.from(text);
      const length = Buffer.alloc(4);
      length.writeUInt32BE(bytes.length, 0);
      return Buffer.concat([length, bytes]);
    };
    const count = Buffer.alloc(4);
    count.writeUInt32BE(Object.keys(headers).length, 0);
    const parts: Buffer[] = [];
    const collect = (chunk: Buffer): void => {
      parts.push(chunk);
    };
    this.deflate.on('data', collect);
    this.deflate.write(
      Buffer.concat([
        count,
        ...Object.entries(headers).flatMap(([name, value]) => [word(name), word(value)]),
      ]),
    );
    await new Promise<void>((resolve) => this.deflate.flush(constants.Z_SYNC_FLUSH, () => resolve()));
    this.deflate.off('data', collect);
    return Buffer.concat(parts);
  }

  sendControl(type: number, payload: Buffer, flags = 0): void {
    const header = Buffer.alloc(8);
    header.writeUInt32BE(0x80030000 + type, 0);
    header.writeUInt32BE(flags * 0x1000000 + payload.length, 4);
    this.socket.write(Buffer.concat([header, payload]));
  }

  sendData(id: number, data: Buffer, end: boolean): boolean {
    const header = Buffer.alloc(8);
    header.writeUInt32BE(id, 0);
    header.writeUInt32BE((end ? 0x1000000 : 0) + data.length, 4);
    return this.socket.write(Buffer.concat([header, data]));
  }

  private async read(): Promise<void> {
    let pending = Buffer.alloc(0);
    try {
      for await (const chunk of this.socket) {
        pending = Buffer.concat([pending, chunk as Buffer]);
        while (pending.length >= 8) {
          const length = pending.readUIntBE(5, 3);
          if (pending.length < 8 + length) break;
          const frame = pending.subarray(0, 8 + length);
          pending = pending.subarray(8 + length);
          await this.take(frame);
        }
      }
    } catch {
      /* the end of a connection that broke: each stream hears of it below */
    }
    for (const stream of this.streams.values()) stream.over();
  }

  private async take(frame: Buffer): Promise<void> {
    const first = frame.readUInt32BE(0);
    const payload = frame.subarray(8);
    if (first < 0x80000000) {
      const stream = this.streams.get(first);
      if (payload.length && stream && !stream.output.write(payload)) await once(stream.output, 'drain');
      if (frame.readUInt8(4) & 1) stream?.output.end();
      return;
    }
    const type = first & 0xffff;
    this.controls.push(type);
    if (type === 2) {
      await new Promise((resolve) => this.inflate.write(payload.subarray(4), resolve));
      if (this.inflated.toString('hex') !== '00000000')
        throw new Error(`headers in a reply: ${this.inflated.toString('hex')}`);
      this.inflated = Buffer.alloc(0);
      this.streams.get(payload.readUInt32BE(0))?.reply();
    }
    if (type === 3) this.streams.get(payload.readUInt32BE(0))?.over();
  }
}

export class ClientStream {
  /** Ends with the server's FIN or RST. */
  readonly output = new PassThrough();
  /** The server has reset the stream, or the connection is over. */
  reset = false;
  readonly replied: Promise<void>;
  reply: () => void = () => undefined;

  constructor(
    private readonly client: SpdyClient,
    readonly id: number,
  ) {
    this.replied = new Promise((resolve) => {
      this.reply = resolve;
    });
  }

  over(): void {
    this.reset = true;
    this.reply();
    this.output.end();
  }

  async write(data: Buffer | string): Promise<void> {
    if (!this.client.sendData(this.id, Buffer.from(data), false)) await once(this.client.socket, 'drain');
  }
  end(): void {
    this.client.sendData(this.id, Buffer.alloc(0), true);
  }
  abandon(): void {
    const payload = Buffer.alloc(8);
    payload.writeUInt32BE(this.id, 0);
    payload.writeUInt32BE(5, 4);
    this.client.sendControl(3, payload);
  }
}
