import { expect, test } from '@jest/globals';
import { InFlight } from '../records/creations.js';
import type { Store } from '../records/store.js';
import { Events } from './event-log.js';

const store = { containers: { all: () => [] }, sandboxes: { get: () => undefined } } as unknown as Store;
const services = { store, creations: new InFlight(1000) };

test('a listener gets the events in order', async () => {
  const events = new Events(services);
  const listening = events.listen(new AbortController().signal);
  const first = listening.next();
  events.emit('CONTAINER_CREATED_EVENT', 'one', undefined);
  events.emit('CONTAINER_STARTED_EVENT', 'one', undefined);
  expect([(await first).value, (await listening.next()).value]).toMatchObject([
    { container_id: 'one', container_event_type: 'CONTAINER_CREATED_EVENT' },
    { container_id: 'one', container_event_type: 'CONTAINER_STARTED_EVENT' },
  ]);
});

test('a listener that does not keep up is cut off, and told to connect again', async () => {
  const events = new Events(services);
  const listening = events.listen(new AbortController().signal);
  const first = listening.next();
  for (let count = 0; count < 20_000; count++)
    events.emit('CONTAINER_CREATED_EVENT', String(count), undefined);
  await expect(
    (async () => {
      for (await first; ;) await listening.next();
    })(),
  ).rejects.toMatchObject({
    id: 'Locked',
    message: expect.stringContaining('did not keep up'),
    hint: expect.stringContaining('connect again'),
  });
});

test('there is a bound on listeners, and one that goes makes room', async () => {
  const events = new Events(services);
  const listeners = Array.from({ length: 32 }, () => {
    const gone = new AbortController();
    return { gone, first: events.listen(gone.signal).next() };
  });
  const extra = (): Promise<unknown> => events.listen(AbortSignal.abort()).next();
  await expect(extra()).rejects.toMatchObject({ id: 'Locked' });
  listeners[0]?.gone.abort();
  await listeners[0]?.first;
  await expect(extra()).resolves.toMatchObject({ done: true });
});
