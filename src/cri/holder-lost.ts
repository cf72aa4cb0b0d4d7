// Detects that the holder of a pod's shared pid namespace has ended.
import { isAlive } from '../host/proc.js';
import { log } from '../log.js';
import { now, sandboxState, type SandboxRecord } from '../records/records.js';
import type { Services } from './services.js';

/**
 * The record, updated if the holder has ended. Any process in a shared pid
 * namespace can end the holder, and the kernel then kills all others in it, without
 * a notification: so this is checked whenever the pod is looked up.
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
