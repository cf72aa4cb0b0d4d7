// The memory of the daemon after much work. V8 collects old objects only when its heap has
// grown to a limit, which it raises in busy times, and malloc(3) keeps what was freed between
// objects in use; a daemon that mostly waits would keep both, for example after a mass start
// of pods, until the next one.
import { performance } from 'node:perf_hooks';
import { trimMalloc } from './host/syscalls.js';

/** How often the daemon looks, and for how long it must have been idle. */
const everyMs = 10_000;
/**
 * And then for so long again: a mass start may have begun at the end of that time. Work that falls into it, and
 * comes every ten seconds, does not fall into the next one, which is eleven seconds later.
 */
const againMs = 1_000;
/** The share of the time that the event loop may have been busy. */
const idleAtMost = 0.1;
/** Less is not worth a collection, which stops the daemon for some milliseconds. */
const worthBytes = 4 << 20;

/** The memory of this process; replaced in tests. */
interface Memory {
  /** Its resident bytes. */
  resident(): number;
  /** Collects garbage and frees its pages; undefined: Node runs without --expose-gc. */
  readonly trim: (() => void) | undefined;
  /** The share of the time, 0 to 1, that the event loop was busy since the last call. */
  busy(): number;
}

/**
 * Gives memory back when the daemon is idle: after the start, and when it has grown by 4 MiB since the last time.
 * @returns ends it
 */
export function trimWhenIdle(memory: Memory = ownMemory()): () => void {
  const { trim } = memory;
  if (!trim) return () => undefined;
  let kept = 0;
  const look = (already: boolean): void => {
    const resident = memory.resident();
    kept = Math.min(kept, resident); // V8 collects as well
    const wanted = memory.busy() <= idleAtMost && resident - kept >= worthBytes;
    if (wanted && already) {
      trim();
      kept = memory.resident();
    }
    const again = wanted && !already;
    timer = setTimeout(look, again ? againMs : everyMs, again).unref();
  };
  let timer = setTimeout(look, everyMs, false).unref();
  return () => clearTimeout(timer);
}

function ownMemory(): Memory {
  const { gc } = globalThis;
  let last = performance.eventLoopUtilization();
  return {
    resident: () => process.memoryUsage.rss(),
    trim:
      gc &&
      (() => {
        void gc();
        trimMalloc();
      }),
    busy() {
      const now = performance.eventLoopUtilization();
      const { utilization } = performance.eventLoopUtilization(now, last);
      last = now;
      return utilization;
    },
  };
}
