// The CRI's proto, loaded.  For the server (serve.ts), for commands that call
// it or read its messages from files, and for records, which contain
// messages.
import { loadPackageDefinition } from '@grpc/grpc-js';
import { loadSync } from '@grpc/proto-loader';
import { installed } from '../installed.js';
import type { ProtoGrpcType } from './generated/api.js';
import type { ContainerConfig__Output } from './generated/runtime/v1/ContainerConfig.js';
import type { LinuxContainerResources__Output } from './generated/runtime/v1/LinuxContainerResources.js';
import type { PodSandboxConfig__Output } from './generated/runtime/v1/PodSandboxConfig.js';

/** For the demo, which uses the built bundle: a client accepts only credentials of its own copy of gRPC. */
export { credentials } from '@grpc/grpc-js';

const protoPath = installed('proto/runtime/v1/api.proto');

let loaded: ProtoGrpcType | undefined;

/**
 * Loads it once (0.25 s) with the options that crisp's types expect: 64-bit numbers as strings, enums by
 * name.
 */
export function loadProto(): ProtoGrpcType {
  return (loaded ??= load());
}

function load(): ProtoGrpcType {
  const definition = loadSync(protoPath, {
    keepCase: true,
    longs: String,
    enums: String,
    defaults: true,
    arrays: true,
    oneofs: true,
  });
  return loadPackageDefinition(definition) as unknown as ProtoGrpcType;
}

// Converts an untrusted value (of a record on disk) to a message: unknown
// fields are dropped, missing ones get their defaults, and a field of a wrong
// type throws. Uses gRPC's own encoder and decoder, so that the result is the
// same as for a client's request.

/** A stored PodSandboxConfig. @throws TypeError if it is not an object */
export function podSandboxConfigOf(value: unknown): PodSandboxConfig__Output {
  const { RunPodSandbox } = loadProto().runtime.v1.RuntimeService.service;
  const bytes = RunPodSandbox.requestSerialize({ config: message(value) });
  return RunPodSandbox.requestDeserialize(bytes).config as PodSandboxConfig__Output;
}

/** A stored ContainerConfig. @throws TypeError if it is not an object */
export function containerConfigOf(value: unknown): ContainerConfig__Output {
  const { CreateContainer } = loadProto().runtime.v1.RuntimeService.service;
  const bytes = CreateContainer.requestSerialize({ config: message(value) });
  return CreateContainer.requestDeserialize(bytes).config as ContainerConfig__Output;
}

/** Stored LinuxContainerResources. @throws TypeError if it is not an object */
export function linuxResourcesOf(value: unknown): LinuxContainerResources__Output {
  const { UpdateContainerResources } = loadProto().runtime.v1.RuntimeService.service;
  const bytes = UpdateContainerResources.requestSerialize({ linux: message(value) });
  return UpdateContainerResources.requestDeserialize(bytes).linux as LinuxContainerResources__Output;
}

function message(value: unknown): object {
  if (typeof value !== 'object' || value === null) throw new TypeError('not a message');
  return value;
}
