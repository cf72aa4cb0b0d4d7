// What statistics need to remember between two calls: the last CPU readings,
// because a rate takes two of them, and the sizes of writable layers, because
// counting one walks a tree.  Filled by the calls themselves: no timer runs on
// a node that nobody asks.
import { log } from '../log.js';

export interface LayerUsage { readonly usedBytes: number; readonly inodesUsed: number }
/** `measuredAtMs`: since the epoch. */
export interface MeasuredLayer extends LayerUsage { readonly measuredAtMs: number }

interface CpuReading { readonly atNs: bigint; readonly cpuNs: bigint }
interface Layer { measured?: MeasuredLayer; measuring?: Promise<void>; final: boolean }

/**
 * A rate over less than this is noise (the kernel books CPU time at ticks), so
 * callers who come close together get the rate since the reading before.
 */
const steadyNs = 1_000_000_000n;
const shortestNs = 10_000_000n;
/** A layer's size may be this old; the kubelet asks every 10 s, and evicts by what it hears. */
const layerAgeMs = 20_000;
const measurementsAtOnce = 2;

export class Samples {
  private readonly cpu = new Map<string, { last: CpuReading; before: CpuReading | undefined }>();
  private readonly layers = new Map<string, Layer>();
  private readonly waiting: (() => void)[] = [];
  private free = measurementsAtOnce;

  /** @param measure counts what a container has written */
  constructor(private readonly measure: (containerId: string) => Promise<LayerUsage>) {}

  /**
   * CPU nanoseconds per second of a container or pod since an earlier reading;
   * undefined at the first one.
   * @param cpuNs its CPU time so far @param atNs a monotonic clock
   */
  nanoCores(id: string, cpuNs: bigint, atNs = process.hrtime.bigint()): bigint | undefined {
    const known = this.cpu.get(id);
    const reading = { atNs, cpuNs };
    if (!known || cpuNs < known.last.cpuNs) { this.cpu.set(id, { last: reading, before: undefined }); return undefined; }
    const steady = atNs - known.last.atNs >= steadyNs;
    const base = steady ? known.last : known.before ?? known.last;
    if (steady) this.cpu.set(id, { last: reading, before: known.last });
    const elapsedNs = atNs - base.atNs;
    return elapsedNs < shortestNs ? undefined : (cpuNs - base.cpuNs) * 1_000_000_000n / elapsedNs;
  }

  /** The size of a writable layer as last measured; undefined until it was. An old one is measured anew behind the caller's back. */
  layer(containerId: string, exited = false): MeasuredLayer | undefined {
    const layer = this.layers.get(containerId) ?? { final: false };
    this.layers.set(containerId, layer);
    const old = !layer.measured || Date.now() - layer.measured.measuredAtMs > layerAgeMs;
    if (old && !layer.final && !layer.measuring) layer.measuring = this.update(containerId, layer, exited);
    return layer.measured;
  }

  /** Waits until each of these layers was measured once, but not longer than `waitMs`. */
  async layersMeasured(containerIds: readonly string[], waitMs: number): Promise<void> {
    const missing = containerIds.filter((id) => !this.layer(id)).map((id) => this.layers.get(id)?.measuring);
    if (missing.length === 0) return;
    let timer: NodeJS.Timeout | undefined;
    await Promise.race([Promise.all(missing), new Promise((resolve) => { timer = setTimeout(resolve, waitMs); })]);
    clearTimeout(timer);
  }

  /** Forgets all but these pods and containers. */
  keepOnly(exists: (id: string) => boolean): void {
    for (const map of [this.cpu, this.layers]) for (const id of map.keys()) if (!exists(id)) map.delete(id);
  }

  private async update(containerId: string, layer: Layer, exited: boolean): Promise<void> {
    if (this.free === 0) await new Promise<void>((resolve) => this.waiting.push(resolve));
    else this.free--;
    try {
      layer.measured = { ...await this.measure(containerId), measuredAtMs: Date.now() };
      layer.final = exited; // nobody writes any more
    } catch (error) {
      log.debug({ err: error, containerId }, 'writable layer not measured'); // removed meanwhile; the next call tries again
    } finally {
      delete layer.measuring;
      const next = this.waiting.shift();
      if (next) next(); else this.free++;
    }
  }
}
