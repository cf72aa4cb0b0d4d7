// JSON of CRI messages as people write it (crictl's files) -> whole messages,
// as a server would receive them: what is not there has its default.
import { loadProto } from '../cri/proto.js';
import type { ContainerConfig__Output } from '../cri/generated/runtime/v1/ContainerConfig.js';
import type { PodSandboxConfig__Output } from '../cri/generated/runtime/v1/PodSandboxConfig.js';
import { CrispError } from '../errors.js';

/** Reads messages; remembers the fields that no message has. */
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

  /** Over the wire and back: that is where defaults and enum names come from. */
  private whole(
    call: { requestSerialize(value: never): Buffer; requestDeserialize(bytes: Buffer): unknown },
    request: object,
    what: string,
  ): unknown {
    try {
      return call.requestDeserialize(call.requestSerialize(request as never));
    } catch (error) {
      throw new CrispError('InvalidArgument', `${what} is no CRI message: ${(error as Error).message}`);
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
