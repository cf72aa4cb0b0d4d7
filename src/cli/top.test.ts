import { expect, test } from '@jest/globals';
import { inWords, podUse, sorted, sortKeys, type PodUse } from './top.js';
import { operatorCommands } from './table-operator.js';

const of = (name: string, more: Partial<PodUse> = {}): PodUse => ({ name, containers: [], ...more });
const names = (pods: readonly PodUse[]): string[] => pods.map(({ name }) => name);

test('the largest comes first, what is not known last, equals by name', () => {
  const pods = [
    of('b'),
    of('a'),
    of('small', { cpuPercent: 1, memoryBytes: 9, containers: [of('x'), of('y', { cpuPercent: 1 })] }),
    of('large', { cpuPercent: 50, memoryBytes: 3, receivedBytes: 1, sentBytes: 1 }),
  ];
  expect(names(sorted(pods, 'cpu'))).toEqual(['large', 'small', 'a', 'b']);
  expect(names(sorted(pods, 'memory'))).toEqual(['small', 'large', 'a', 'b']);
  expect(names(sorted(pods, 'network'))[0]).toBe('large');
  expect(names(sorted(pods, 'name'))).toEqual(['a', 'b', 'large', 'small']);
  expect(sorted(pods, 'cpu')[1]?.containers.map(({ name }) => name)).toEqual(['y', 'x']);
});

test('a pod in words, with its containers below it', () => {
  const pod = podUse({
    attributes: { metadata: { namespace: 'shop', name: 'web' } },
    linux: {
      cpu: { usage_nano_cores: { value: '15000000' } },
      memory: { working_set_bytes: { value: '1048576' } },
      network: { default_interface: { rx_bytes: { value: '2048' }, tx_bytes: null } },
      containers: [
        { attributes: { metadata: { name: 'app' } }, writable_layer: { used_bytes: { value: '512' } } },
      ],
    },
  } as never);
  expect(inWords([pod])).toBe(
    [
      'POD OR CONTAINER  CPU    MEMORY   RECEIVED  SENT  DISK',
      'shop/web          1.5 %  1.0 MiB  2.0 KiB   -     512 B',
      '  app             -      -        -         -     512 B',
      '',
    ].join('\n'),
  );
  expect(inWords([])).toBe('nothing runs\n');
});

test('a shell completes the keys that there are', () => {
  expect(operatorCommands.find(({ name }) => name === 'top')?.flags['sort']?.complete).toEqual(sortKeys);
});
