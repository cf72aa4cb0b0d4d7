// The serializer that caches bytes, compared with gRPC's own.
import { expect, test } from '@jest/globals';
import { readFileSync } from 'node:fs';
import { placedContainer, placedSandbox } from '../records/placed.js';
import { fromJson, storedContainerSchema, storedSandboxSchema } from '../records/records.js';
import { containerItem, containerStatus, sandboxItem, sandboxStatus } from './convert.js';
import { ofRecord, ofRecordAnd, serializerOf } from './encoded.js';
import { loadProto } from './proto.js';

const stored = (name: string): unknown =>
  fromJson(readFileSync(`test/fixtures/records/${name}.json`, 'utf8'));
const sandbox = placedSandbox(storedSandboxSchema.parse(stored('sandbox')), '/run/crisp');
const container = placedContainer(storedContainerSchema.parse(stored('container')), '/run/crisp', sandbox);
const others = ['a', 'b'].map((id) => ({ ...container, id: id.repeat(64) }));

const storedStats = ofRecordAnd(({ id }: typeof container, bytes: number) => ({
  attributes: { id },
  writable_layer: { used_bytes: { value: bytes } },
}));

const { service } = loadProto().runtime.v1.RuntimeService;
type Method = keyof typeof service & string;
const answers: readonly (readonly [Method, () => object])[] = [
  ['ListContainers', () => ({ containers: [container, ...others].map(containerItem) })],
  ['ListContainers', () => ({ containers: [] })],
  ['StreamContainers', () => ({ containers: others.map(containerItem) })],
  ['ContainerStatus', () => ({ status: containerStatus(container), info: { info: '{}' } })],
  ['ContainerStatus', () => ({ status: containerStatus(container), info: {} })],
  ['ListPodSandbox', () => ({ items: [sandboxItem(sandbox)] })],
  ['StreamPodSandboxes', () => ({ pod_sandboxes: [sandboxItem(sandbox)] })],
  [
    'PodSandboxStatus',
    () => ({
      status: sandboxStatus(sandbox),
      containers_statuses: others.map(containerStatus),
      info: {},
      timestamp: '5',
    }),
  ],
  [
    'GetContainerEvents',
    () => ({
      container_id: container.id,
      container_event_type: 'CONTAINER_STOPPED_EVENT',
      created_at: '7',
      pod_sandbox_status: sandboxStatus(sandbox),
      containers_statuses: [containerStatus(container)],
    }),
  ],
  ['GetContainerEvents', () => ({ container_id: container.id, pod_sandbox_status: null })],
  [
    'ListContainerStats',
    () => ({
      stats: [storedStats(container, 7), { attributes: { id: 'it runs' } }, storedStats(container, 7)],
    }),
  ],
  ['Status', () => ({ status: { conditions: [{ type: 'RuntimeReady', status: true }] }, info: {} })],
];

test.each(answers)('%s encodes to the same message, the first time and the next', (method, answer) => {
  const { responseSerialize, responseDeserialize } = service[method] as unknown as {
    responseSerialize: (message: object) => Buffer;
    responseDeserialize: (bytes: Buffer) => object;
  };
  const keeping = serializerOf(responseSerialize);
  const plain = responseDeserialize(responseSerialize(answer()));
  expect(responseDeserialize(keeping(answer()))).toEqual(plain);
  expect(responseDeserialize(keeping(answer()))).toEqual(plain);
});

test('the message of a record and another value is made again if that is another one', () => {
  expect(storedStats(container, 1)).toBe(storedStats(container, 1));
  expect(storedStats(container, 2)).toMatchObject({ writable_layer: { used_bytes: { value: 2 } } });
});

test.each([
  ['a container', container, containerItem],
  ['the status of a container', container, containerStatus],
  ['a sandbox', sandbox, sandboxItem],
  ['the status of a sandbox', sandbox, sandboxStatus],
])('the message of %s is made once, also by map()', (_name, record, item) => {
  const make = item as (record: object) => object;
  expect([others[0] as object, record].map(make)[1]).toBe([record].map(make)[0]);
});

test('the message of a record is encoded once, and again after a change', () => {
  let count = 0;
  const item = ofRecord(({ id, exit }: typeof container) => ({ id, state: exit ? 'ended' : 'runs' }));
  const serialize = serializerOf((message) => {
    count++;
    return Buffer.from(JSON.stringify(message));
  });
  const said = (record: typeof container): string => serialize({ items: [item(record)] }).toString();
  expect(said(container)).toBe(said(container));
  expect(count).toBe(3); // the item, and its neighbour twice
  expect(said({ ...container, id: 'other' })).toContain('"other"');
});
