// Ctrl-P Ctrl-Q at a terminal leaves a container running, as in podman and Docker.
import { Transform, type TransformCallback } from 'node:stream';

const [controlP, controlQ] = [0x10, 0x11];

/** Passes keys on until Ctrl-P Ctrl-Q. A Ctrl-P is held until the next key. */
export class DetachKeys extends Transform {
  private held = false;

  /** @param detach called once; later keys are dropped */
  constructor(private readonly detach: () => void) {
    super();
  }

  override _transform(chunk: Buffer, _encoding: BufferEncoding, done: TransformCallback): void {
    const keys = this.held ? Buffer.concat([Buffer.from([controlP]), chunk]) : chunk;
    const end = keys.indexOf(Buffer.from([controlP, controlQ]));
    if (end >= 0) {
      this.held = false;
      this.push(keys.subarray(0, end));
      this.push(null);
      this.detach();
      return done();
    }
    this.held = keys.at(-1) === controlP;
    done(null, this.held ? keys.subarray(0, -1) : keys);
  }

  override _flush(done: TransformCallback): void {
    done(null, this.held ? Buffer.from([controlP]) : null);
  }
}
