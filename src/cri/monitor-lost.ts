// Handles a running container after its monitor (conmon, the watcher of a CT) has
// died. Called by the listeners that daemon.ts sets on the backends.
import { log, withLogContext } from '../log.js';
import { metrics } from '../metrics.js';
import { containerState, now } from '../records/records.js';
import { stopContainerRecord } from './container-stop.js';
import { recordIfEnded } from './exits.js';
import type { Services } from './services.js';
import { isShown } from './shown.js';

/**
 * The monitor of a container is gone: reports an error in the log, in the metrics
 * and in the status; then, by runtime.lost_monitor, the container continues
 * without a log, or is killed. If it has ended as well, its exit is recorded.
 */
export async function monitorLost(services: Services, id: string): Promise<void> {
  await withLogContext({ containerId: id }, async () => {
    const record = services.store.containers.get(id);
    if (!record || containerState(record) === 'CONTAINER_EXITED') return;
    const policy = services.config.runtime.lost_monitor;
    if (!record.unwatchedAt) {
      metrics.monitorsLost.add({ handler: record.handler });
      const changed = await services.store.containers.change(id, { unwatchedAt: now() });
      log.error(
        { podId: record.sandboxId, policy },
        'the monitor of a container has ended: its log ends here, and its exit will not be reported',
      );
      // The CRI has no event for this; a listener gets the current status, as after connecting.
      if (changed && isShown(services, changed) && containerState(changed) === 'CONTAINER_RUNNING')
        services.events.emit('CONTAINER_STARTED_EVENT', id, services.store.sandboxes.get(record.sandboxId));
    }
    if (await recordIfEnded(services, record)) return;
    if (policy === 'end') await stopContainerRecord(services, id, 0);
  });
}
