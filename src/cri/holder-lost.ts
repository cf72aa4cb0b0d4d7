// What becomes of a pod whose shared pid namespace has lost its holder.
import { isAlive } from '../host/proc.js';
import { log } from '../log.js';
import { now, sandboxState, type SandboxRecord } from '../records/records.js';
import type { Services } from './services.js';

/**
 * The record with what has become of the pod.  Anybody in a shared pid namespace
 * can end its holder, the kernel then ends all that runs there, and nobody tells
 * us: so whoever asks for the pod looks.
 */
export async function withHolderChecked(
  services: Pick<Services, 'store' | 'events'>,
  record: SandboxRecord,
): Promise<SandboxRecord> {
  if (!record.holder || sandboxState(record) !== 'SANDBOX_READY' || (await isAlive(record.holder)))
    return record;
  const ended = (await services.store.sandboxes.change(record.id, { endedAt: now() })) ?? {
    ...record,
    endedAt: now(),
  };
  log.warn(
    { podId: record.id, holder: record.holder.pid },
    'the holder of the pid namespace of a pod has ended: the pod is not ready any more',
  );
  services.events.emit('CONTAINER_STOPPED_EVENT', record.id, ended);
  return ended;
}
