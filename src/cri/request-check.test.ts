import { describe, expect, test } from '@jest/globals';
import { loadProto } from './proto.js';
import { RequestChecks, type MessageType } from './request-check.js';

const { v1 } = loadProto().runtime;
const types = v1 as unknown as Readonly<Record<string, { readonly type: MessageType }>>;
const typeOf = (name: string): MessageType => (types[name] as { type: MessageType }).type;
const checks = new RequestChecks(typeOf);
const services = [v1.RuntimeService.service, v1.ImageService.service];

/** A request as the server gets it: through the bytes of the wire. */
function received(method: keyof typeof v1.RuntimeService.service, request: object): object {
  const { requestSerialize, requestDeserialize } = v1.RuntimeService.service[method] as unknown as {
    requestSerialize: (request: object) => Buffer;
    requestDeserialize: (bytes: Buffer) => object;
  };
  return requestDeserialize(requestSerialize(request));
}
const check = (name: string, request: object) => () => checks.check(typeOf(name), request);

test('an empty request of every call is accepted', () => {
  for (const service of services)
    for (const definition of Object.values(service)) {
      const { requestType, requestDeserialize } = definition as unknown as {
        requestType: { type: MessageType };
        requestDeserialize: (bytes: Buffer) => object;
      };
      checks.check(requestType.type, requestDeserialize(Buffer.alloc(0)));
    }
});

describe('is refused, naming the field', () => {
  const pod = (config: object) => received('RunPodSandbox', { config });
  const container = (config: object) => received('CreateContainer', { config });
  test.each<[string, string, object, RegExp]>([
    [
      'an unknown value of an enum, in a list',
      'RunPodSandboxRequest',
      pod({ port_mappings: [{ protocol: 1 }, { protocol: 99 }] }),
      /^config\.port_mappings\[1\]\.protocol: 99 is not a value of Protocol$/,
    ],
    [
      'a negative one',
      'CreateContainerRequest',
      container({ stop_signal: -5 }),
      /^config\.stop_signal: -5 is not a value of Signal$/,
    ],
    [
      'one in a nested message',
      'CreateContainerRequest',
      container({ linux: { security_context: { seccomp: { profile_type: 7 } } } }),
      /^config\.linux\.security_context\.seccomp\.profile_type: 7 is not a value of ProfileType$/,
    ],
    [
      'one of a filter',
      'ListContainersRequest',
      received('ListContainers', { filter: { state: { state: 44 } } }),
      /^filter\.state\.state: 44/,
    ],
    [
      'a NUL character',
      'CreateContainerRequest',
      container({ mounts: [{ host_path: '/tmp\0/x' }] }),
      /^config\.mounts\[0\]\.host_path: .*NUL character/,
    ],
    [
      'one in an environment variable',
      'CreateContainerRequest',
      container({ envs: [{ key: 'A', value: Buffer.from('b\0') }] }),
      /^config\.envs\[0\]\.value: .*NUL byte/,
    ],
    [
      'one in an annotation',
      'RunPodSandboxRequest',
      pod({ annotations: { a: 'b\0' } }),
      /^config\.annotations\["a"\]: .*NUL character/,
    ],
    [
      'a path above the limit of the kernel',
      'CreateContainerRequest',
      container({ mounts: [{ container_path: `/${'a'.repeat(5000)}` }] }),
      /^config\.mounts\[0\]\.container_path: it has 5001 bytes, and the maximum is 4095$/,
    ],
    [
      'an argument above the limit of the kernel',
      'ExecSyncRequest',
      received('ExecSync', { cmd: ['x'.repeat(200_000)] }),
      /^cmd\[0\]: it has 200000 bytes/,
    ],
    [
      'a name of thousands of characters',
      'RunPodSandboxRequest',
      pod({ metadata: { name: '\u{1f642}'.repeat(2000) } }),
      /^config\.metadata\.name: it has 8000 bytes/,
    ],
    [
      'a list that is too long',
      'PortForwardRequest',
      received('PortForward', { port: Array<number>(100_000).fill(80) }),
      /^port: it has 100000 entries, and the maximum is 65536$/,
    ],
    [
      'labels that are too large for the answers of lists',
      'RunPodSandboxRequest',
      pod({
        labels: Object.fromEntries(Array.from({ length: 10 }, (_, n) => [`l${n}`, 'x'.repeat(100_000)])),
      }),
      /^config\.labels: it has 1000020 bytes, and the maximum is 524288$/,
    ],
    [
      'too many ports',
      'RunPodSandboxRequest',
      pod({ port_mappings: Array.from({ length: 5000 }, () => ({ container_port: 80 })) }),
      /^config\.port_mappings: it has 5000 entries, and the maximum is 4096$/,
    ],
    [
      'too many labels',
      'RunPodSandboxRequest',
      pod({ labels: Object.fromEntries(Array.from({ length: 5000 }, (_, n) => [`l${n}`, ''])) }),
      /^config\.labels: it has 5000 entries, and the maximum is 4096$/,
    ],
  ])('%s', (_, name, request, words) => {
    expect(check(name, request)).toThrow(
      expect.objectContaining({ id: 'InvalidArgument', message: expect.stringMatching(words) }),
    );
  });
});

test('the request of a kubelet for a large pod is accepted', () => {
  const envs = Array.from({ length: 35_000 }, (_, index) => ({
    key: `SERVICE_${index}`,
    value: Buffer.from('10.0.0.1'),
  }));
  expect(
    check(
      'CreateContainerRequest',
      received('CreateContainer', {
        config: { envs, args: ['x'.repeat(131_071)], annotations: { manifest: 'y'.repeat(262_144) } },
      }),
    ),
  ).not.toThrow();
});
