// CRI messages as a server receives them: all fields, absent ones with their defaults.
// Made by the serializer of the proto, so that no test has a list of fields.
import type { MethodDefinition } from '@grpc/proto-loader';
import { loadProto } from '../../src/cri/proto.js';
import type {
  ContainerConfig,
  ContainerConfig__Output,
} from '../../src/cri/generated/runtime/v1/ContainerConfig.js';
import type {
  CreateContainerRequest,
  CreateContainerRequest__Output,
} from '../../src/cri/generated/runtime/v1/CreateContainerRequest.js';
import type {
  LinuxContainerResources,
  LinuxContainerResources__Output,
} from '../../src/cri/generated/runtime/v1/LinuxContainerResources.js';
import type {
  LinuxContainerSecurityContext,
  LinuxContainerSecurityContext__Output,
} from '../../src/cri/generated/runtime/v1/LinuxContainerSecurityContext.js';
import type {
  PodSandboxConfig,
  PodSandboxConfig__Output,
} from '../../src/cri/generated/runtime/v1/PodSandboxConfig.js';

const method = loadProto().runtime.v1.RuntimeService.service.CreateContainer as unknown as MethodDefinition<
  CreateContainerRequest,
  unknown,
  CreateContainerRequest__Output
>;

function received(request: CreateContainerRequest): CreateContainerRequest__Output {
  return method.requestDeserialize(method.requestSerialize(request));
}

export function receivedContainer(config: ContainerConfig): ContainerConfig__Output {
  return received({ config: { metadata: { name: 'main' }, image: { image: 'busybox' }, ...config } })
    .config as ContainerConfig__Output;
}

export function receivedPod(config: PodSandboxConfig): PodSandboxConfig__Output {
  return received({ sandbox_config: { metadata: { name: 'pod', namespace: 'test', uid: 'u1' }, ...config } })
    .sandbox_config as PodSandboxConfig__Output;
}

export function receivedSecurity(
  security: LinuxContainerSecurityContext,
): LinuxContainerSecurityContext__Output {
  return receivedContainer({ linux: { security_context: security } }).linux
    ?.security_context as LinuxContainerSecurityContext__Output;
}

export function receivedResources(resources: LinuxContainerResources): LinuxContainerResources__Output {
  return receivedContainer({ linux: { resources } }).linux?.resources as LinuxContainerResources__Output;
}
