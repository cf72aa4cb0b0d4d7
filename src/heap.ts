// The memory of the daemon after much work. V8 collects old objects only when its heap has
// grown to a limit, which it raises in busy times; a daemon that mostly waits then keeps
// the garbage of, for example, a mass start of pods until the next one.
import { performance } from 'node:perf_hooks';
import { getHeapStatistics } from 'node:v8';

/** How often the daemon looks, and for how long it must have been idle. */
const everyMs = 10_000;
/** The share of the time that the event loop may have been busy. */
const idleAtMost = 0.1;
/** Less garbage is not worth a collection, which stops the daemon for some milliseconds. */
const worthBytes = 8 << 20;

/** What V8 tells of this process; replaced in tests. */
interface Heap {
  /** The bytes of the objects, with garbage. */
  used(): number;
  /** A full collection; undefined: Node runs without --expose-gc. */
  readonly collect: (() => void) | undefined;
  /** The share of the time, 0 to 1, that the event loop was busy since the last call. */
  busy(): number;
}

/**
 * Collects garbage when the daemon is idle and its heap has grown by 8 MiB since the last collection.
 * @returns ends it
 */
export function collectWhenIdle(heap: Heap = ownHeap()): () => void {
  const { collect } = heap;
  if (!collect) return () => undefined;
  let kept = heap.used();
  const timer = setInterval(() => {
    kept = Math.min(kept, heap.used()); // V8 collects as well
    const isIdle = heap.busy() <= idleAtMost;
    if (!isIdle || heap.used() - kept < worthBytes) return;
    collect();
    kept = heap.used();
  }, everyMs);
  timer.unref();
  return () => clearInterval(timer);
}

function ownHeap(): Heap {
  const { gc } = globalThis;
  let last = performance.eventLoopUtilization();
  return {
    used: () => getHeapStatistics().used_heap_size,
    collect: gc && (() => void gc()),
    busy() {
      const now = performance.eventLoopUtilization();
      const { utilization } = performance.eventLoopUtilization(now, last);
      last = now;
      return utilization;
    },
  };
}
