// StartContainer.
import { toCrispError, CrispError } from '../errors.js';
import { log } from '../log.js';
import { step } from '../steps.js';
import { containerState, now } from '../records/records.js';
import type { StartContainerRequest__Output } from './generated/runtime/v1/StartContainerRequest.js';
import type { StartContainerResponse } from './generated/runtime/v1/StartContainerResponse.js';
import { backendOf, containerOf, readySandboxOf, refOf } from './lookup.js';
import type { Services } from './services.js';

/** The exit code of a container if its process could not be started, the same as in other runtimes. */
const startErrorExitCode = 128;

/**
 * StartContainer. A failed start is recorded as an exit with code 128.
 * @throws StartFailed, WrongContainerState, SandboxNotReady, ContainerNotFound
 */
export async function startContainer(
  services: Services,
  request: StartContainerRequest__Output,
): Promise<StartContainerResponse> {
  const { id, sandboxId } = containerOf(services, request.container_id);
  await services.locks.with(sandboxId, () =>
    services.stops.whileStarting(id, async () => {
      const record = containerOf(services, id);
      const state = services.stops.isStopping(id) ? 'being stopped' : containerState(record);
      if (state !== 'CONTAINER_CREATED')
        throw new CrispError('WrongContainerState', `container ${id} cannot be started: it is ${state}`);
      const sandbox = await readySandboxOf(services, sandboxId);
      const backend = backendOf(services, record);
      const startedAt = now(); // before the start: events right after it must not have an earlier time
      try {
        const { pid } = await step('start container: start', () => backend.start(refOf(record)));
        await step('start container: record', () => services.store.containers.change(id, { startedAt, pid }));
      } catch (error) {
        const failure = toCrispError(error);
        // After a temporary error (a backup locks the CT, the cluster has no quorum) it stays CREATED, and
        // the caller's next attempt may start it.
        if (failure.core === 'Locked') throw failure;
        await backend.kill(refOf(record), 9, true);
        await services.store.containers.change(id, {
          startedAt,
          exit: {
            exitCode: startErrorExitCode,
            finishedAt: now(),
            reason: 'StartError',
            message: failure.report,
          },
        });
        throw failure;
      }
      log.info('container started');
      services.events.emit('CONTAINER_STARTED_EVENT', id, sandbox);
    }),
  );
  return {};
}
