// The pods of the benchmark, by the calls of a kubelet.
import * as grpc from '@grpc/grpc-js';
import { loadSync } from '@grpc/proto-loader';
import { mkdirSync } from 'node:fs';
import { at, image, sleep } from './peers.mjs';
import { lasted, note } from './samples.mjs';

/** Not from dist/, since the bundle has its own copy of gRPC. */
const definition = loadSync(new URL('../proto/runtime/v1/api.proto', import.meta.url).pathname, {
  keepCase: true,
  longs: String,
  enums: String,
  defaults: true,
  arrays: true,
  oneofs: true,
});

/** A peer and its client. */
export function withCalls(peer) {
  return Object.assign(peer, newClient(peer));
}

/** One more client, on a connection of its own. */
export function newClient({ socket }) {
  const { v1 } = grpc.loadPackageDefinition(definition).runtime;
  const [runtime, images] = [v1.RuntimeService, v1.ImageService].map(
    (Service) =>
      new Service(`unix:${socket}`, grpc.credentials.createInsecure(), {
        'grpc.default_authority': 'localhost',
        'grpc.use_local_subchannel_pool': 1,
      }),
  );
  return {
    call: (method, request) =>
      new Promise((resolve, reject) => {
        const client = method in runtime ? runtime : images;
        client[method](request, { deadline: Date.now() + 300_000 }, (error, answer) =>
          error ? reject(new Error(`${method}: ${error.message}`)) : resolve(answer),
        );
      }),
  };
}

let counter = 0;
const command = ['sh', '-c', 'trap "exit 0" TERM; sleep 86399 & wait'];
const security = (host) => ({
  namespace_options: { network: host ? 'NODE' : 'POD', pid: 'CONTAINER', ipc: 'POD' },
  seccomp: { profile_type: 'RuntimeDefault' },
});

/** @param from the image */
export async function podUp({ call }, host, from = image) {
  const name = `bench-${counter++}`;
  const config = {
    metadata: { name, uid: name, namespace: 'bench', attempt: 0 },
    hostname: host ? '' : name,
    log_directory: at('logs', name),
    linux: { cgroup_parent: '/crisp-bench', security_context: security(host) },
  };
  mkdirSync(at('logs', name), { recursive: true });
  const { pod_sandbox_id: pod } = await call('RunPodSandbox', { config });
  const { container_id: id } = await call('CreateContainer', {
    pod_sandbox_id: pod,
    sandbox_config: config,
    config: {
      metadata: { name: 'main', attempt: 0 },
      image: { image: from, user_specified_image: from },
      command,
      log_path: 'main.log',
      linux: { security_context: security(host) },
    },
  });
  await call('StartContainer', { container_id: id });
  return { pod, id };
}

export async function podDown({ call }, { pod, id }) {
  const stop = await lasted(() => call('StopContainer', { container_id: id, timeout: 10 }));
  await call('RemoveContainer', { container_id: id });
  const stopPod = await lasted(() => call('StopPodSandbox', { pod_sandbox_id: pod }));
  await call('RemovePodSandbox', { pod_sandbox_id: pod });
  return { stop, stopPod };
}

/**
 * A probe comes after a pause, and the kernel then delays it by a random time (see
 * expectCgroupMove in src/host/cgroup-move.ts): so there are several, each after a pause.
 */
export async function execs(run) {
  const all = [];
  for (let index = 0; index < execsPerPod; index++) {
    await sleep(execPauseMs);
    all.push(await lasted(run));
  }
  return all;
}
const execsPerPod = 3;
const execPauseMs = 50;

export function noteLife(who, host, { up, exec, down }) {
  note(host ? 'pod up, host network' : 'pod up, CNI', who, up);
  for (const ms of exec) note('ExecSync', who, ms);
  note(host ? 'whole life, host network' : 'whole life, CNI', who, up + exec[0] + down);
}

export async function life(who, host, counted) {
  let made;
  const up = await lasted(async () => {
    made = await podUp(who, host);
  });
  const exec = await execs(() => who.call('ExecSync', { container_id: made.id, cmd: ['true'], timeout: 10 }));
  let stops;
  const down = await lasted(async () => {
    stops = await podDown(who, made);
  });
  if (!counted) return;
  noteLife(who.name, host, { up, exec, down });
  note('StopContainer', who.name, stops.stop);
  if (!host) note('StopPodSandbox, CNI', who.name, stops.stopPod);
}
