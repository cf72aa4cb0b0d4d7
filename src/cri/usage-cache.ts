// The state of statistics between two calls: the last CPU readings, since a rate
// is computed from two of them, and the sizes of writable layers, since measuring
// one walks a tree.  Updated by the calls: no timer runs on a node without calls.
import { within } from '../host/wait.js';
import { log } from '../log.js';

export interface LayerUsage {
  readonly usedBytes: number;
  readonly inodesUsed: number;
}
/** `measuredAtMs`: since the epoch. */
export interface MeasuredLayer extends LayerUsage {
  readonly measuredAtMs: number;
}

interface CpuReading {
  readonly atNs: bigint;
  readonly cpuNs: bigint;
}
interface Layer {
  measured: MeasuredLayer | undefined;
  /** The time of the last measurement; a layer that a backend keeps elsewhere is never found. */
  checkedAtMs: number;
}

/**
 * A rate over a shorter time is inaccurate (the kernel accounts for CPU time at ticks),
 * so calls in quick succession get the rate since the previous reading.
 */
const steadyNs = 1_000_000_000n;
/**
 * The period of the CPU quota (100 ms by default): a container that has used its quota is stopped until the
 * period ends.
 */
const shortestNs = 100_000_000n;
/** The maximum age of a layer's size; the kubelet reads it every 10 s, and uses it for evictions. */
const layerAgeMs = 20_000;

/** Keeps readings between calls: CPU rates need two, and writable layers are slow to measure. */
export class UsageCache {
  private readonly cpu = new Map<string, { last: CpuReading; before: CpuReading | undefined }>();
  private readonly layers = new Map<string, Layer>();
  /** The containers whose layers are measured next. */
  private readonly due = new Set<string>();
  private measuring: Promise<void> | undefined;

  /**
   * @param measure measures several writable layers at once, since it starts a process; missing layers are
   * left out
   */
  constructor(
    private readonly measure: (containerIds: readonly string[]) => Promise<ReadonlyMap<string, LayerUsage>>,
  ) {}

  /**
   * CPU nanoseconds per second of a container or pod since an earlier reading;
   * undefined at the first one.
   * @param cpuNs its CPU time so far @param atNs a monotonic clock
   */
  nanoCores(id: string, cpuNs: bigint, atNs = process.hrtime.bigint()): bigint | undefined {
    const known = this.cpu.get(id);
    const reading = { atNs, cpuNs };
    if (!known || cpuNs < known.last.cpuNs) {
      this.cpu.set(id, { last: reading, before: undefined });
      return undefined;
    }
    const steady = atNs - known.last.atNs >= steadyNs;
    const base = steady ? known.last : (known.before ?? known.last);
    if (steady) this.cpu.set(id, { last: reading, before: known.last });
    const elapsedNs = atNs - base.atNs;
    return elapsedNs < shortestNs ? undefined : ((cpuNs - base.cpuNs) * 1_000_000_000n) / elapsedNs;
  }

  /**
   * The last measured size of a writable layer; undefined before. An old value is measured again in the
   * background.
   */
  layer(containerId: string): MeasuredLayer | undefined {
    const layer = this.layers.get(containerId);
    if (!layer || performance.now() - layer.checkedAtMs > layerAgeMs) {
      this.due.add(containerId);
      this.measuring ??= this.measureDue().finally(() => {
        this.measuring = undefined;
      });
    }
    return layer?.measured;
  }

  /** Waits until each of these layers was measured once, but not longer than `waitMs`. */
  async layersMeasured(containerIds: readonly string[], waitMs: number): Promise<void> {
    for (const id of containerIds) this.layer(id);
    if (containerIds.every((id) => this.layers.has(id))) return;
    if (this.measuring) await within(this.measuring, waitMs);
  }

  /** Drops the data of all other pods and containers. */
  keepOnly(exists: (id: string) => boolean): void {
    for (const map of [this.cpu, this.layers]) for (const id of map.keys()) if (!exists(id)) map.delete(id);
  }

  private async measureDue(): Promise<void> {
    while (this.due.size > 0) {
      await Promise.resolve(); // collect the rest of the current list
      const batch = [...this.due];
      try {
        const found = await this.measure(batch);
        const [checkedAtMs, measuredAtMs] = [performance.now(), Date.now()];
        for (const id of batch) {
          const usage = found.get(id);
          this.layers.set(id, { measured: usage && { ...usage, measuredAtMs }, checkedAtMs });
        }
      } catch (error) {
        log.warn({ err: error }, 'writable layers not measured');
        return;
      } finally {
        for (const id of batch) this.due.delete(id); // also those that were requested again meanwhile
      }
    }
  }
}
