// GetContainerEvents: the event stream for the kubelet's evented PLEG.
import type { ContainerEventResponse } from './generated/runtime/v1/ContainerEventResponse.js';
import type { GetEventsRequest__Output } from './generated/runtime/v1/GetEventsRequest.js';
import type { Call, Services } from './services.js';

/** GetContainerEvents (KEP-3386), until the client disconnects. @throws Locked, ClientTooSlow */
export async function* getContainerEvents(
  { events }: Pick<Services, 'events'>,
  _request: GetEventsRequest__Output,
  call: Call,
): AsyncGenerator<ContainerEventResponse> {
  yield* events.listen(call.signal);
}
