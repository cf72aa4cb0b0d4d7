// The events of containers and pods, for the listeners of GetContainerEvents.
//
// An event is sent after its record is on disk. A new listener first gets one
// event for each existing container, so that it needs no separate list. A
// listener that is too slow is disconnected (it can connect again and get the
// current state), since pending events would fill the memory.
import type { ContainerEventResponse } from './generated/runtime/v1/ContainerEventResponse.js';
import type { ContainerEventType } from './generated/runtime/v1/ContainerEventType.js';
import { CrispError } from '../errors.js';
import { metrics } from '../metrics.js';
import { containerState, now, type SandboxRecord } from '../records/records.js';
import { containerStatus, sandboxStatus } from './convert.js';
import { isShown, shownContainersOf, type Shown } from './shown.js';

const maxQueued = 10_000;
/** A node has one kubelet; each listener costs a copy of every event. */
const maxListeners = 32;

class Listener {
  readonly queue: ContainerEventResponse[] = [];
  wake: () => void = () => undefined;
}

/** The event stream and its listeners. A listener with 10,000 unread events is disconnected. */
export class Events {
  private readonly listeners = new Set<Listener>();

  constructor(private readonly services: Shown) {}

  /** Notifies all listeners; `id` is a container id, or the sandbox id for the sandbox itself. */
  emit(type: ContainerEventType, id: string, sandbox: SandboxRecord | undefined): void {
    if (this.listeners.size === 0) return;
    const event = this.event(type, id, sandbox);
    for (const listener of this.listeners) {
      if (listener.queue.length >= maxQueued) {
        metrics.eventsDropped.add({});
        this.listeners.delete(listener);
      } else listener.queue.push(event);
      listener.wake();
    }
  }

  /**
   * All future events, after one for each existing container and sandbox. @throws Locked for too many
   * listeners, and for a listener that is too slow
   */
  async *listen(signal: AbortSignal): AsyncGenerator<ContainerEventResponse> {
    if (this.listeners.size >= maxListeners)
      throw new CrispError('Locked', `${maxListeners} clients listen to the events already`, {
        hint: 'end one of them first',
      });
    const listener = new Listener();
    listener.queue.push(...this.snapshot());
    this.listeners.add(listener);
    const wake = (): void => listener.wake();
    signal.addEventListener('abort', wake);
    try {
      while (!signal.aborted) {
        yield* listener.queue.splice(0);
        if (!this.listeners.has(listener))
          throw new CrispError('Locked', 'this listener reads the events too slowly', {
            hint: 'connect again: the current state comes first',
          });
        if (listener.queue.length === 0 && !signal.aborted)
          await new Promise<void>((resolve) => {
            listener.wake = resolve;
          });
      }
    } finally {
      this.listeners.delete(listener);
      signal.removeEventListener('abort', wake);
    }
  }

  /** The events that each listener has not taken yet. */
  queueLengths(): number[] {
    return [...this.listeners].map(({ queue }) => queue.length);
  }

  private snapshot(): ContainerEventResponse[] {
    return this.services.store.containers
      .all()
      .filter((record) => isShown(this.services, record))
      .map((container) =>
        this.event(
          (
            {
              CONTAINER_CREATED: 'CONTAINER_CREATED_EVENT',
              CONTAINER_RUNNING: 'CONTAINER_STARTED_EVENT',
              CONTAINER_EXITED: 'CONTAINER_STOPPED_EVENT',
              CONTAINER_UNKNOWN: 'CONTAINER_STOPPED_EVENT',
            } as const
          )[containerState(container)],
          container.id,
          this.services.store.sandboxes.get(container.sandboxId),
        ),
      );
  }

  private event(
    type: ContainerEventType,
    id: string,
    sandbox: SandboxRecord | undefined,
  ): ContainerEventResponse {
    return {
      container_id: id,
      container_event_type: type,
      created_at: now(),
      pod_sandbox_status: sandbox ? sandboxStatus(sandbox) : null,
      containers_statuses: sandbox ? shownContainersOf(this.services, sandbox.id).map(containerStatus) : [],
    };
  }
}
