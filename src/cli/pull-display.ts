// Shows the progress of a pull: as a bar on a terminal, otherwise as lines.
import type { PullProgress } from '../images/download.js';
import { bytes } from './output.js';

const barWidth = 30;
const lineEveryMs = 5_000;

export class PullDisplay {
  private saidAt = Date.now();

  constructor(
    private readonly stream: NodeJS.WriteStream,
    private readonly name: string,
  ) {
    this.draw(`pulling ${name}`);
  }

  show(progress: PullProgress): void {
    if (!this.stream.isTTY && Date.now() - this.saidAt < lineEveryMs) return;
    this.saidAt = Date.now();
    const words = inWords(progress, this.stream.isTTY);
    this.draw(this.stream.isTTY ? `${words} ${this.name}` : `pulling ${this.name}: ${words}`);
  }

  /** @param line the last line; absent: an error follows */
  end(line = ''): void {
    if (this.stream.isTTY) this.stream.write('\r\x1b[K');
    if (line) this.stream.write(`${line}\n`);
  }

  /** On a terminal it replaces the previous line, and is cut to the width. */
  private draw(line: string): void {
    this.stream.write(
      this.stream.isTTY ? `\r${line.slice(0, (this.stream.columns || 80) - 1)}\x1b[K` : `${line}\n`,
    );
  }
}

function inWords({ bytes: done, totalBytes: total }: PullProgress, withBar: boolean): string {
  if (total === undefined) return bytes(done);
  if (done >= total) return 'unpacking';
  const filled = Math.floor((done / total) * barWidth);
  const bar = withBar ? `[${'#'.repeat(filled).padEnd(barWidth, '.')}] ` : '';
  return `${bar}${bytes(done)} of ${bytes(total)}`;
}
