// GetContainerEvents: what the kubelet's evented PLEG listens to.
import type { ContainerEventResponse } from './generated/runtime/v1/ContainerEventResponse.js';
import type { GetEventsRequest__Output } from './generated/runtime/v1/GetEventsRequest.js';
import type { Call, Parts } from './parts.js';

export async function* getContainerEvents(
  parts: Parts,
  _request: GetEventsRequest__Output,
  call: Call,
): AsyncGenerator<ContainerEventResponse> {
  yield* parts.events.listen(call.signal);
}
