// Mutated messages for all calls, from a seed: no answer is INTERNAL, nothing
// crashes or hangs, and nothing is left behind.
//
//   FUZZ_SEED=N FUZZ_MESSAGES=20000 npm run integration -- --testPathPatterns fuzz
import * as grpc from '@grpc/grpc-js';
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { readdirSync, readFileSync } from 'node:fs';
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { loadProto } from '../../src/cri/proto.js';
import type { MessageType } from '../../src/cri/request-check.js';
import { startDaemon, type Daemon } from '../helpers/daemon.js';
import { patience } from '../helpers/patience.js';
import {
  containerConfig,
  podConfig,
  removePod,
  runPod,
  startContainer,
  testImage,
  untilStopped,
} from '../helpers/requests.js';

// The short form is the same each time, so that the gate is; the long form takes a seed.
const seed = Number(process.env['FUZZ_SEED'] ?? 7);
const messages = Number(process.env['FUZZ_MESSAGES'] ?? 500);
/** A call that has no answer by then hangs. */
const hangMs = 30_000 * patience;
const atOnce = 8;

const { v1 } = loadProto().runtime;
const methods = [v1.RuntimeService.service, v1.ImageService.service].flatMap((service) =>
  Object.values(service as grpc.ServiceDefinition),
);
/** Those whose requests say the most. */
const deep = methods.filter(({ path }) =>
  /\/(RunPodSandbox|CreateContainer|UpdateContainerResources|PullImage|ExecSync)$/.test(path),
);
type Definition = (typeof methods)[number];
const types = v1 as unknown as Readonly<Record<string, { readonly type: MessageType & EnumType }>>;
interface EnumType {
  readonly value?: readonly { readonly name: string }[];
}
const typeOf = (definition: Definition): MessageType =>
  (definition as unknown as { requestType: { type: MessageType } }).requestType.type;

/** mulberry32: the same numbers from the same seed. */
let state = seed;
function random(): number {
  state = (state + 0x6d2b79f5) | 0;
  let mixed = Math.imul(state ^ (state >>> 15), state | 1);
  mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
  return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
}
const chance = (part: number): boolean => random() < part;
const pick = <T>(items: readonly T[]): T => items[Math.floor(random() * items.length)] as T;

let daemon: Daemon;
let pod: Awaited<ReturnType<typeof runPod>>;
let running: string;
let client: grpc.Client;
beforeAll(async () => {
  daemon = await startDaemon({ config: { runtime: { unclaimed_seconds: 1 } } });
  await daemon.addImage(testImage);
  await mkdir(join(daemon.folder, 'host'));
  client = new grpc.Client(`unix:${daemon.socket}`, grpc.credentials.createInsecure());
});
afterAll(async () => {
  client?.close();
  await daemon?.destroy();
});

const odd = [
  '',
  ' ',
  'x',
  '\0',
  'a\nb',
  '\u001b[31m',
  '../../..',
  '/',
  '/..',
  '%s%n',
  '\u{1f642}',
  '=',
  ';',
  ':',
  'sha256:',
  '-1',
  '0',
  '99999999999999999999',
  'true',
];

function text(field: string): string {
  if (chance(0.02)) return pick(['a', '/a', '\u{1f642}', '/']).repeat(pick([300, 5000, 200_000]));
  if (chance(0.4)) return pick(odd);
  const inside = join(daemon.folder, 'host');
  switch (field) {
    case 'container_id':
    case 'target_id':
      return pick([running, running.slice(0, 13), running.slice(0, 1), 'f'.repeat(64), pod.id]);
    case 'pod_sandbox_id':
      return pick([pod.id, pod.id.slice(0, 13), pod.id.slice(0, 1), 'f'.repeat(64), running]);
    case 'id':
      return pick([pod.id, running, running.slice(0, 2)]);
    case 'image':
    case 'user_specified_image':
      return pick(['localhost:1/x', 'localhost:1/x@sha256:', 'UPPER', `${'a/'.repeat(50)}b`, 'pve/local:x']);
    case 'host_path':
    case 'location':
    case 'localhost_ref':
    case 'log_directory':
      return pick([
        inside,
        join(inside, 'a', 'b'),
        '/dev/null',
        '/dev/null/x',
        `${inside}/../host`,
        'relative',
      ]);
    case 'container_path':
    case 'working_dir':
      return pick([
        '/data',
        '/proc',
        '/proc/x',
        '/dev/x',
        '/etc/passwd/x',
        `/${'n'.repeat(256)}`,
        'relative',
      ]);
    case 'cmd':
    case 'command':
    case 'args':
      return pick(['true', 'false', 'no-such-program', '/', 'sh']);
    default:
      return pick(['word', '10-20', 'runtime/default', 'localhost/x', '1.2.3.4', 'crun', 'runc']);
  }
}

function scalar({ name, type, typeName }: MessageType['field'][number]): unknown {
  switch (type) {
    case 'TYPE_STRING':
      return text(name);
    case 'TYPE_BOOL':
      return chance(0.5);
    case 'TYPE_ENUM': {
      const names = types[typeName.split('.').at(-1) ?? '']?.type.value ?? [];
      return chance(0.1) ? pick([99, -1, 2 ** 31 - 1]) : (pick(names)?.name ?? pick([0, 1, 2]));
    }
    case 'TYPE_INT64':
      return pick(['0', '1', '-1', '1000', '65536', '9223372036854775807', '-9223372036854775808']);
    case 'TYPE_UINT64':
      return pick(['0', '1', '65536', '18446744073709551615']);
    case 'TYPE_UINT32':
      return pick([0, 1, 65536, 2 ** 32 - 1]);
    case 'TYPE_DOUBLE':
    case 'TYPE_FLOAT':
      return pick([0, -1, 1e308, NaN, Infinity]);
    case 'TYPE_BYTES':
      return Buffer.from(text('value'));
    default:
      return pick([0, 1, -1, 80, 65536, 2 ** 31 - 1, -(2 ** 31)]);
  }
}

/** Fields that would change the host after the test are not mutated. */
const untouched = new Set(['cgroup_parent']);

function message(type: MessageType, depth = 0): Record<string, unknown> {
  const made: Record<string, unknown> = {};
  for (const field of type.field) {
    if (untouched.has(field.name) || chance(0.3)) continue;
    const value = valueOf(type, field, depth);
    if (value !== undefined) made[field.name] = value;
  }
  return made;
}

function valueOf(type: MessageType, field: MessageType['field'][number], depth: number): unknown {
  const last = field.typeName.split('.').at(-1) ?? '';
  const entry = type.nestedType.find(({ name }) => name === last);
  const count = chance(0.01) ? 2000 : Math.floor(random() * 3);
  if (entry) {
    const value = entry.field.find(({ name }) => name === 'value');
    return Object.fromEntries(
      Array.from({ length: count }, () => [text('key'), value?.type === 'TYPE_STRING' ? text('value') : 1]),
    );
  }
  const one = (): unknown =>
    field.type === 'TYPE_MESSAGE'
      ? message((types[last] as { type: MessageType }).type, depth + 1)
      : scalar(field);
  if (depth > 6) return undefined;
  return field.label === 'LABEL_REPEATED' ? Array.from({ length: count }, one) : one();
}

/** A good request with one or two fields of its messages made odd: those get deep. */
function mutate(type: MessageType, good: Record<string, unknown>): Record<string, unknown> {
  const fields = type.field.filter(({ name }) => !untouched.has(name));
  const field = pick(fields);
  const nested = types[field.typeName.split('.').at(-1) ?? '']?.type;
  const present = good[field.name];
  if (field.type === 'TYPE_MESSAGE' && field.label !== 'LABEL_REPEATED' && nested && chance(0.9))
    return { ...good, [field.name]: mutate(nested, (present as Record<string, unknown> | undefined) ?? {}) };
  return { ...good, [field.name]: valueOf(type, field, 0) };
}

function requestOf(definition: Definition): Record<string, unknown> {
  const type = typeOf(definition);
  const good: Readonly<Record<string, () => object>> = {
    RunPodSandboxRequest: () => ({ config: podConfig(daemon) }),
    CreateContainerRequest: () => ({
      pod_sandbox_id: pod.id,
      config: containerConfig('true', { metadata: { name: `fuzz-${Math.floor(random() * 1e9)}` } }),
      sandbox_config: pod.config,
    }),
    UpdateContainerResourcesRequest: () => ({ container_id: running, linux: {} }),
    ExecSyncRequest: () => ({ container_id: running, cmd: ['true'], timeout: '5' }),
    ExecRequest: () => ({ container_id: running, cmd: ['true'], stdout: true }),
    PullImageRequest: () => ({ image: { image: 'localhost:1/x' }, auth: { username: 'a', password: 'b' } }),
  };
  const made = good[type.name]?.() as Record<string, unknown> | undefined;
  if (!made || chance(0.15)) return message(type);
  const once = mutate(type, made);
  return chance(0.3) ? mutate(type, once) : once;
}

function bytesOf(definition: Definition): Buffer {
  if (chance(0.03))
    return Buffer.from(Array.from({ length: Math.floor(random() * 64) }, () => Math.floor(random() * 256)));
  const bytes = definition.requestSerialize(requestOf(definition));
  if (bytes.length > 0 && chance(0.05))
    bytes[Math.floor(random() * bytes.length)] = Math.floor(random() * 256);
  return bytes;
}

interface Answer {
  readonly code: grpc.status;
  readonly details: string;
}
function send(definition: Definition, bytes: Buffer): Promise<Answer> {
  const same = (value: Buffer): Buffer => value;
  const options = { deadline: Date.now() + hangMs };
  return new Promise((resolve) => {
    if (!definition.responseStream) {
      client.makeUnaryRequest(definition.path, same, same, bytes, options, (error) =>
        resolve(error ? { code: error.code, details: error.details } : { code: grpc.status.OK, details: '' }),
      );
      return;
    }
    const call = client.makeServerStreamRequest(definition.path, same, same, bytes, options);
    call.on('data', () => undefined);
    call.on('error', (error: grpc.ServiceError) =>
      resolve({
        code: error.code === grpc.status.CANCELLED ? grpc.status.OK : error.code,
        details: error.details,
      }),
    );
    call.on('end', () => resolve({ code: grpc.status.OK, details: '' }));
    if (definition.path.endsWith('GetContainerEvents')) setTimeout(() => call.cancel(), 50);
  });
}

async function removeAll(): Promise<void> {
  for (const { id } of (await daemon.client.runtime.ListPodSandbox({})).items)
    if (id !== pod.id) await removePod(daemon, id);
  for (const { id } of (await daemon.client.runtime.ListContainers({})).containers)
    if (id !== running) await daemon.client.runtime.RemoveContainer({ container_id: id });
}

test(
  `${messages} messages, with the seed ${seed}`,
  async () => {
    const clean = await daemon.traces();
    const renew = async (): Promise<void> => {
      pod = await runPod(daemon);
      running = await startContainer(daemon, pod, containerConfig(untilStopped()));
    };
    await renew();
    const pid = daemon.pid;
    const wrong: string[] = [];
    const codes = new Map<string, number>();
    let sent = 0;
    let renewal: Promise<void> | undefined;
    const renewed = async (): Promise<void> => {
      const { containers } = await daemon.client.runtime.ListContainers({
        filter: { state: { state: 'CONTAINER_RUNNING' } },
      });
      if (!containers.some(({ id }) => id === running)) await renew(); // a message has stopped or removed it
    };
    const worker = async (): Promise<void> => {
      while (sent++ < messages) {
        if (sent % 50 === 0)
          renewal ??= renewed()
            .catch(() => undefined) // another message was faster; the next time it is looked again
            .finally(() => (renewal = undefined));
        const definition = pick(chance(0.5) ? deep : methods);
        const bytes = bytesOf(definition);
        const { code, details } = await send(definition, bytes);
        codes.set(grpc.status[code], (codes.get(grpc.status[code]) ?? 0) + 1);
        const method = definition.path.split('/').at(-1);
        if (
          [
            grpc.status.INTERNAL,
            grpc.status.UNKNOWN,
            grpc.status.DEADLINE_EXCEEDED,
            grpc.status.UNAVAILABLE,
          ].includes(code) &&
          !/^(RegistryUnavailable|ExecTimeout|Locked|TooManyTickets|CniFailed)/.test(details)
        )
          wrong.push(
            `${method} ${grpc.status[code]} ${details.slice(0, 400)} (${bytes.toString('base64').slice(0, 400)})`,
          );
        if (details.length > 9000 || /[\0-\x1f]/.test(details))
          wrong.push(`${method}: details ${details.slice(0, 200)}`);
      }
    };
    await Promise.all(Array.from({ length: atOnce }, worker));
    await renewal;
    console.log(`seed ${seed}`, Object.fromEntries(codes));
    expect(wrong).toEqual([]);
    expect(daemon.pid).toBe(pid);
    await removeAll();
    await removePod(daemon, pod.id);
    for (let tries = 0; tries < 100 && (await daemon.traces()).length > clean.length; tries++)
      await new Promise((resolve) => setTimeout(resolve, 100));
    expect(await daemon.traces()).toEqual(clean);
    expect(readdirSync(`/proc/${pid}/fd`).length).toBeLessThan(60);
    expect(readFileSync(`/proc/${pid}/status`, 'utf8')).toMatch(/VmRSS/);
  },
  900_000 * patience,
);
