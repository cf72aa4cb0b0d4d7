// The sizes of a client's terminal, on their way to that of a process.
import type { Io, TerminalSize } from '../shapes/io.js';

/** Sets the present size and each that follows, one after the other: of two that are on their way side by side, the older may come last. */
export function followSizes(
  { onResize }: Pick<Io, 'onResize'>,
  set: (size: TerminalSize) => Promise<void>,
): void {
  let last = Promise.resolve();
  onResize?.((size) => {
    last = last.then(() => set(size));
  });
}
