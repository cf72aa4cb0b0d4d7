// A pct that is killed, missing, slow or hangs, in each verb that is used: the call that
// needs it fails with an error that names it, a pod of another handler is made meanwhile,
// and the same call succeeds once the fault has gone.
import { status as Code } from '@grpc/grpc-js';
import { afterAll, beforeAll, expect, test as testAll } from '@jest/globals';
import { rename, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { Daemon } from '../helpers/daemon.js';
import {
  create,
  newWorld,
  removeContainer,
  runPod,
  start,
  update,
  type Call,
  type World,
} from '../helpers/failpoints.js';
import { patience } from '../helpers/patience.js';
import * as requests from '../helpers/requests.js';
import { eventually } from '../helpers/wait.js';
import { isReal, Node } from './node.js';

// A real node does not fail when a test wishes it to.
const test = isReal ? testAll.skip : testAll;

let node: Node;
let daemon: Daemon;
let clean: string[];
beforeAll(async () => {
  [node, daemon] = await Node.withDaemon({ pct_timeout_seconds: 10 * patience });
  clean = await traces();
});
afterAll(() => node?.stop());

const traces = async (): Promise<string[]> => [
  ...(await node.guests()),
  ...(await node.remains()),
  ...(await daemon.traces()),
];

/** A verb, what comes before the call that needs it, and the call; `after` in place of the same call again. */
const uses: Readonly<Record<string, { before: readonly Call[]; call: Call; after?: readonly Call[] }>> = {
  create: { before: [runPod], call: create('main') },
  // A container whose start failed has ended.
  start: {
    before: [runPod, create('main')],
    call: start,
    after: [removeContainer, create('main'), start],
  },
  set: {
    before: [runPod, create('main'), start],
    call: update,
  },
  destroy: { before: [runPod, create('main')], call: removeContainer },
};

const wish = (verb: string): string => join(node.folder, 'fail', verb);
const setAll = async (text: object): Promise<void> => {
  for (const verb of Object.keys(uses)) await writeFile(wish(verb), JSON.stringify(text));
};
const clearAll = async (): Promise<void> => {
  for (const verb of Object.keys(uses)) await rm(wish(verb));
};
const pct = (): string => join(node.folder, 'bin/pct');

interface Fault {
  readonly set: () => Promise<unknown>;
  readonly clear: () => Promise<unknown>;
  /** undefined: the calls succeed. */
  readonly error?: (verb: string) => RegExp;
}
const faults: Readonly<Record<string, Fault>> = {
  killed: {
    set: () => setAll({ signal: 'SIGKILL' }),
    clear: clearAll,
    error: (verb) => new RegExp(`^INTERNAL RuntimeFailed: pct ${verb} \\d+ failed: .*SIGKILL`),
  },
  missing: {
    set: () => rename(pct(), `${pct()}.away`),
    clear: () => rename(`${pct()}.away`, pct()),
    error: () => /^INTERNAL ToolMissing: \S+\/pct is not installed/,
  },
  slow: {
    set: () => writeFile(join(node.folder, 'delay-ms'), '2000'),
    clear: () => rm(join(node.folder, 'delay-ms')),
  },
  hanging: {
    set: () => setAll({ hangs: true }),
    clear: clearAll,
    error: () => /^DEADLINE_EXCEEDED ToolTimeout: pct did not end within \d+ ms/,
  },
};

/** Of handlers that need no pct. */
async function theRestWorks(): Promise<void> {
  const pod = await requests.runPod(daemon);
  await requests.startContainer(daemon, pod, requests.containerConfig('true'));
  await requests.removePod(daemon, pod.id);
}

test.each(Object.entries(faults))(
  'a pct that is %s fails the call that needs it, and nothing else',
  async (_, { set, clear, error }) => {
    const worlds = new Map<string, World>();
    for (const [verb, { before }] of Object.entries(uses)) {
      const world = newWorld(daemon, 'lxc');
      worlds.set(verb, world);
      for (const call of before) await call(world);
    }
    const of = (verb: string): World => worlds.get(verb) as World;

    await set();
    const outcomes: Record<string, string> = {};
    const calls = Object.entries(uses).map(async ([verb, { call }]) => {
      outcomes[verb] = await call(of(verb)).then(
        () => 'succeeds',
        ({ code, details }: { code: Code; details: string }) => `${Code[code]} ${details}`,
      );
    });
    await theRestWorks();
    await Promise.all(calls);
    await clear();

    for (const [verb, { call, after = [call] }] of Object.entries(uses))
      for (const again of error ? after : [])
        await again(of(verb)).catch((cause: unknown) => {
          throw new Error(`pct ${verb}, once the fault has gone`, { cause });
        });
    for (const { pod } of worlds.values()) await requests.removePod(daemon, pod);
    await eventually(async () => expect(await traces()).toEqual(clean));
    expect(outcomes).toEqual(
      Object.fromEntries(
        Object.keys(uses).map((verb) => [verb, error ? expect.stringMatching(error(verb)) : 'succeeds']),
      ),
    );
  },
  180_000 * patience,
);
