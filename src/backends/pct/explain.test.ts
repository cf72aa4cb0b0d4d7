import { afterEach, beforeEach, expect, test } from '@jest/globals';
import { readdirSync, readFileSync, statSync } from 'node:fs';
import { StandInNode } from '../../../test/helpers/stand-in-node.js';
import { log } from '../../log.js';
import { create } from './create.js';
import { explainCt, type ExplainedCt } from './explain.js';
import { removeContainer } from './remove.js';
import { start } from './start.js';

let node: StandInNode;
beforeEach(() => {
  log.level = 'silent';
});
afterEach(() => node.remove(node.path('bundle')));

const named = (explained: ExplainedCt, vmid: number): ExplainedCt =>
  JSON.parse(JSON.stringify(explained).replaceAll('VMID', String(vmid))) as ExplainedCt;

test.each([{}, { rootfs: { storage: 'tank', size_gib: 3 } }, { network: 'bridge' }])(
  'explains the calls and the files with which a CT is made: %j',
  async (lxc) => {
    node = await StandInNode.make(lxc);
    node.ctx.found = { hostManaged: true, givesGroups: true, environmentReachesHooks: false };
    const made = node.plan();
    const plan = { ...made, sandbox: { ...made.sandbox, ownNetwork: 'network' in lxc } };
    // What explain() says is compared with what the calls do.
    const said = explainCt(node.ctx.options, plan);
    expect(readdirSync(node.path('root'))).toEqual([]); // it makes nothing
    expect(node.calls()).toEqual([]);
    const state = await create(node.ctx, plan);
    const { commands, files } = named(said, state.vmid);
    const argv = node.read('created').split('\0').slice(0, -1);
    expect(commands.map(({ what }) => what)).toEqual(['create', 'start', 'delete']);
    expect(commands[0]?.argv).toEqual([node.path('pct'), ...argv]);
    for (const { path, text } of files) expect(readFileSync(path, 'utf8')).toBe(text);
    expect(files).toHaveLength(2);
    const container = { id: plan.id, folder: plan.folder, logPath: '', state };
    await start(node.ctx, container);
    await removeContainer(node.ctx, container);
    expect(node.calls().slice(1)).toEqual(commands.slice(1).map(({ argv: [, ...words] }) => words.join(' ')));
  },
);

test('names what no CT supports, and writes nothing', async () => {
  node = await StandInNode.make();
  const plan = node.plan();
  plan.spec.linux.seccomp = { defaultAction: 'SCMP_ACT_ERRNO' };
  plan.spec.linux.namespaces.push({ type: 'user', path: '/ns/user' });
  plan.spec.process.user.additionalGids = [5];
  const before = statSync(node.path('bundle')).mtimeMs;
  expect(explainCt(node.ctx.options, plan).notHonoured).toEqual(['spec.linux.seccomp']);
  expect(statSync(node.path('bundle')).mtimeMs).toBe(before);
});
