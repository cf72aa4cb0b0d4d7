// The contract of the backends on CTs.
import { afterAll, beforeAll } from '@jest/globals';
import { contract } from '../helpers/contract.js';
import type { Daemon } from '../helpers/daemon.js';
import { Node } from './node.js';

let node: Node;
let daemon: Daemon;
beforeAll(async () => {
  [node, daemon] = await Node.withDaemon();
});
afterAll(() => node?.stop());

contract('lxc', () => daemon);
