// The hooks that liblxc runs for a CT have more privileges than its pod: no variable of
// the pod reaches them.
import { afterAll, beforeAll, expect, test as testAll } from '@jest/globals';
import { chmod, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { Daemon } from '../helpers/daemon.js';
import { containerConfig, removePod, runPod, startContainer, untilStopped } from '../helpers/requests.js';
import { isReal, Node } from './node.js';

// A real node has only its own hooks, which do not report their environment.
const test = isReal ? testAll.skip : testAll;

let node: Node;
let daemon: Daemon;
beforeAll(async () => {
  if (!isReal) [node, daemon] = await Node.withDaemon();
});
afterAll(() => node?.stop());

test.each([
  ['a pod', {}],
  [
    "a pod on the host's network",
    { linux: { security_context: { namespace_options: { network: 'NODE' } } } },
  ],
] as const)('the variables of %s', async (_, config) => {
  const seen = join(node.folder, 'hook-environment');
  await writeFile(seen, '');
  await chmod(seen, 0o666);
  const pod = await runPod(daemon, config, 'lxc');
  const envs = [
    { key: 'PERL5OPT', value: Buffer.from('-Mof::the::pod') },
    { key: 'ANYTHING', value: Buffer.from('of the pod\nin two lines') },
  ];
  const id = await startContainer(daemon, pod, containerConfig(untilStopped(), { envs }));
  const { stdout } = await daemon.client.runtime.ExecSync({ container_id: id, cmd: ['env'], timeout: '0' });
  expect(String(stdout)).toMatch(/^PERL5OPT=-Mof::the::pod$/m);
  expect(await readFile(seen, 'utf8')).not.toMatch(/of.the.pod|PERL5OPT|of::the::pod/);
  await removePod(daemon, pod.id);
});
