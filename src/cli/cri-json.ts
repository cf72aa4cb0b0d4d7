// JSON of CRI messages as written by users (crictl's files) -> complete
// messages, as a server would receive them: absent fields have their
// defaults.
import { loadProto } from '../cri/proto.js';
import type { ContainerConfig__Output } from '../cri/generated/runtime/v1/ContainerConfig.js';
import type { PodSandboxConfig__Output } from '../cri/generated/runtime/v1/PodSandboxConfig.js';
import { CrispError } from '../errors.js';

/** Reads messages; collects unknown fields. */
export class CriJson {
  /** "container app: linux.resources.cpu" */
  readonly unknown: string[] = [];
  private readonly service = loadProto().runtime.v1.RuntimeService.service;

  /** @throws InvalidArgument */
  sandbox(partial: object, what: string): PodSandboxConfig__Output {
    const { config } = this.whole(this.service.RunPodSandbox, { config: partial }, what) as {
      config: PodSandboxConfig__Output;
    };
    this.compare(partial, config, `${what}: `, '');
    return config;
  }

  /** @throws InvalidArgument */
  container(partial: object, what: string): ContainerConfig__Output {
    const { config } = this.whole(this.service.CreateContainer, { config: partial }, what) as {
      config: ContainerConfig__Output;
    };
    this.compare(partial, config, `${what}: `, '');
    return config;
  }

  /** Encodes and decodes the message: this sets defaults and enum names. */
  private whole(
    call: { requestSerialize(value: never): Buffer; requestDeserialize(bytes: Buffer): unknown },
    request: object,
    what: string,
  ): unknown {
    try {
      return call.requestDeserialize(call.requestSerialize(request as never));
    } catch (error) {
      throw new CrispError('InvalidArgument', `${what} is not a CRI message: ${(error as Error).message}`);
    }
  }

  private compare(given: unknown, known: unknown, what: string, path: string): void {
    if (
      typeof given !== 'object' ||
      given === null ||
      typeof known !== 'object' ||
      known === null ||
      Buffer.isBuffer(known)
    )
      return;
    for (const [key, value] of Object.entries(given)) {
      const own = Array.isArray(given) ? `${path}[${key}]` : path ? `${path}.${key}` : key;
      if (!Object.hasOwn(known, key)) this.unknown.push(`${what}${own}`);
      else this.compare(value, (known as Record<string, unknown>)[key], what, own);
    }
  }
}
