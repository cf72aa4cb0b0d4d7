// The services for the calls of cri/ in unit tests: real records, locks, creations,
// stops and events in a folder of the test. The backend, the network, the rootfs and
// the images are fakes, which record their calls.
import { jest } from '@jest/globals';
import { mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Alive, Backend, ContainerRef, Exit } from '../../src/backends/backend.js';
import type { ContainerEventResponse } from '../../src/cri/generated/runtime/v1/ContainerEventResponse.js';
import { configSchema } from '../../src/config/config.js';
import { Events } from '../../src/cri/event-log.js';
import type { Services } from '../../src/cri/services.js';
import { containerConfigOf, podSandboxConfigOf } from '../../src/cri/proto.js';
import { unmountBelow } from '../../src/host/mounts.js';
import { InFlight } from '../../src/records/creations.js';
import { Locks } from '../../src/records/locks.js';
import { newId, now, type ContainerRecord, type SandboxRecord } from '../../src/records/records.js';
import { Stops } from '../../src/records/stops.js';
import { Store } from '../../src/records/store.js';

export const bootId = 'this-boot';
export const exitedWell: Exit = { exitCode: 0, finishedAt: 1n, oomKilled: false };

export interface StandIns {
  readonly backend?: Partial<Backend>;
  readonly network?: Partial<Record<keyof Services['network'], unknown>>;
  readonly rootfs?: Partial<Record<keyof Services['rootfs'], unknown>>;
  readonly images?: Partial<Record<keyof Services['images'], unknown>>;
  readonly usageCache?: Partial<Record<keyof Services['usageCache'], unknown>>;
  /** How long an unclaimed creation waits for its retry. */
  readonly keepMs?: number;
}

export class Bench {
  readonly folder = mkdtempSync(join(tmpdir(), 'crisp-services-'));
  /** The calls of the fakes, in order: "backend.kill ID 9". */
  readonly told: string[] = [];
  readonly services: Services;
  readonly backend: Backend;
  private readonly gone = new AbortController();

  constructor(standIns: StandIns = {}) {
    for (const kind of ['sandboxes', 'containers']) mkdirSync(join(this.folder, kind));
    const store = new Store(this.folder);
    const creations = new InFlight(standIns.keepMs ?? 3_600_000);
    this.backend = this.standIn<Backend>('backend', {
      name: 'fake',
      fingerprint: () => Promise.resolve('a'),
      rootfs: () => ({ kind: 'overlay' }),
      survey: () => Promise.resolve<Alive>({ status: 'missing' }),
      list: () => Promise.resolve([]),
      inDoubt: () => Promise.resolve(false),
      cgroup: ({ id }: ContainerRef) => `/crisp-test-none/${id}`,
      reclaim: undefined,
      remnants: undefined,
      ownNetwork: undefined,
      userNamespace: undefined,
      notHonoured: undefined,
      ociRuntime: undefined,
      ...standIns.backend,
    });
    const probe = { ready: true, reason: '', version: '1', features: {}, lacks: {} };
    this.services = {
      config: configSchema.parse({
        state: this.folder,
        root: join(this.folder, 'root'),
        default_container_type: 'fake',
        fallback: {},
        handlers: { fake: { type: 'oci', path: '/usr/bin/false' } },
        routing: { crun_name_patterns: [] },
      }),
      version: '0',
      bootId,
      host: {
        systemdCgroup: false,
        lowestOomScoreAdj: 0,
        cpus: [0, 1],
        memoryNodes: [0],
        cgroup: 'v2',
        hugepageSizes: ['2MB'],
        capabilities: [],
        kernelCapabilities: [],
        rlimits: [],
        seccompProfile: undefined,
        apparmor: false,
        selinux: false,
        swapAccounting: false,
        hostname: 'host',
      },
      store,
      locks: new Locks(),
      creations,
      stops: new Stops(),
      handlers: new Map([['fake', { backend: this.backend, probe, refresh: () => Promise.resolve() }]]),
      network: this.standIn('network', { collectGarbage: () => Promise.resolve(), ...standIns.network }),
      images: this.standIn('images', standIns.images ?? {}),
      rootfs: this.standIn('rootfs', {
        list: () => Promise.resolve([]),
        images: () => Promise.resolve([]),
        ...standIns.rootfs,
      }),
      usageCache: {
        layersMeasured: () => Promise.resolve(),
        layer: () => undefined,
        nanoCores: () => undefined,
        keepOnly: () => undefined,
        ...standIns.usageCache,
      },
      events: new Events({ store, creations }),
      streaming: {},
    } as unknown as Services;
  }

  /** Any method that is not given notes its call, and answers with undefined. */
  private standIn<T extends object>(name: string, given: object): T {
    return new Proxy(given as T, {
      get: (target, key) => {
        const own = (target as Record<string | symbol, unknown>)[key];
        if (key in target && typeof own !== 'function') return own;
        if (typeof key === 'symbol' || key === 'then') return undefined;
        return (...args: unknown[]) => {
          this.told.push([`${name}.${key}`, ...args.map(shortly)].join(' ').trim());
          return typeof own === 'function'
            ? (own as (...all: unknown[]) => unknown)(...args)
            : Promise.resolve();
        };
      },
    });
  }

  /** The calls that begin with this. */
  toldOf(beginning: string): string[] {
    return this.told.filter((line) => line.startsWith(beginning));
  }

  /** Writes the record of a ready pod on the network of the host, in a foreign cgroup. */
  async pod(change: Partial<SandboxRecord> = {}, config: object = {}): Promise<SandboxRecord> {
    const id = change.id ?? newId();
    const record: SandboxRecord = {
      version: 1,
      id,
      config: podConfigOf(id, config),
      runtimeHandler: '',
      handler: 'fake',
      rule: 'default',
      bootId,
      complete: true,
      createdAt: now(),
      plan: {
        id,
        name: 'pod',
        namespace: 'test',
        uid: id,
        attempt: 0,
        labels: {},
        annotations: {},
        folder: join(this.folder, 'pods', id),
        hostname: undefined,
        namespaces: {},
        cgroupParent: '/crisp-test-none',
      },
      ...change,
    };
    return this.services.store.sandboxes.put(record);
  }

  /** Writes the record of a container that was created, and not started. */
  async container(
    sandbox: { readonly id: string },
    change: Partial<ContainerRecord> = {},
    config: object = {},
  ): Promise<ContainerRecord> {
    const id = change.id ?? newId();
    return this.services.store.containers.put({
      version: 1,
      id,
      sandboxId: sandbox.id,
      config: containerConfigOf({ metadata: { name: id.slice(0, 8) }, image: { image: 'image' }, ...config }),
      handler: 'fake',
      bootId,
      complete: true,
      imageId: 'image-id',
      imageRef: 'image@digest',
      imageVolumes: {},
      logPath: '',
      stopSignal: 'SIGNAL_SIGTERM',
      user: { uid: 0, gid: 0, supplementalGroups: [] },
      notHonoured: [],
      createdAt: now(),
      folder: join(this.folder, 'bundles', id),
      ...change,
    });
  }

  running(
    sandbox: { readonly id: string },
    change: Partial<ContainerRecord> = {},
    config: object = {},
  ): Promise<ContainerRecord> {
    return this.container(sandbox, { startedAt: now(), pid: 2, ...change }, config);
  }

  /** Listens to the events from now on. */
  listen(): ContainerEventResponse[] {
    const heard: ContainerEventResponse[] = [];
    void (async () => {
      for await (const event of this.services.events.listen(this.gone.signal)) heard.push(event);
    })();
    return heard;
  }

  async end(): Promise<void> {
    this.gone.abort();
    await unmountBelow(this.folder);
    rmSync(this.folder, { recursive: true, force: true });
  }
}

export function podConfigOf(uid: string, more: object = {}): SandboxRecord['config'] {
  return podSandboxConfigOf({
    metadata: { name: 'pod', namespace: 'test', uid },
    ...more,
    linux: {
      cgroup_parent: '/crisp-test-none',
      security_context: { namespace_options: { network: 'NODE', ipc: 'NODE', pid: 'CONTAINER' } },
      ...(more as { linux?: object }).linux,
    },
  });
}

export const call = {
  requestId: 'test',
  /** Of each call its own, as from gRPC. */
  get signal(): AbortSignal {
    return new AbortController().signal;
  },
};

/** Lets everything that can go on without a timer go on. */
export async function settled(turns = 20): Promise<void> {
  for (let turn = 0; turn < turns; turn++) await new Promise((resolve) => setImmediate(resolve));
}

/** Only setTimeout is faked, and stands still until it is advanced. */
export function fakeTimeouts(): void {
  jest.useFakeTimers({
    doNotFake: [
      'hrtime',
      'nextTick',
      'performance',
      'queueMicrotask',
      'setImmediate',
      'clearImmediate',
      'Date',
    ],
  });
}

/** A gate: code that waits for `passed` continues at open(). */
export function gate(): { passed: Promise<void>; open: () => void } {
  let open = (): void => undefined;
  const passed = new Promise<void>((resolve) => {
    open = resolve;
  });
  return { passed, open };
}

function shortly(value: unknown): string {
  if (typeof value === 'string') return value;
  if (typeof value === 'object' && value !== null && 'id' in value) return String(value.id);
  return JSON.stringify(value) ?? '';
}
