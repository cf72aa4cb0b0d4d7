// Applies the sizes of a client's terminal to the terminal of a process.
import type { Io, TerminalSize } from '../shapes/io.js';

/**
 * Sets the current size and the following ones, one at a time. If several sizes
 * arrive while one is being set, only the last of them is set, so that a client
 * cannot queue up work. `set` must not reject.
 */
export function followSizes(
  { onResize }: Pick<Io, 'onResize'>,
  set: (size: TerminalSize) => Promise<void>,
): void {
  let next: TerminalSize | undefined;
  let setting = false;
  const work = async (): Promise<void> => {
    setting = true;
    for (let size = next; size; size = next) {
      next = undefined;
      await set(size);
    }
    setting = false;
  };
  onResize?.((size) => {
    next = size;
    if (!setting) void work();
  });
}
