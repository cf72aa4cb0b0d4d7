// The contract of the backends on CTs.
import { afterAll, beforeAll } from '@jest/globals';
import { contract } from '../helpers/contract.js';
import type { Daemon } from '../helpers/daemon.js';
import { Node } from './node.js';

let node: Node;
let daemon: Daemon;
beforeAll(async () => {
  node = await Node.start();
  daemon = await node.daemon();
  await daemon.addImage();
});
afterAll(async () => {
  await daemon?.destroy();
  await node?.stop();
});

contract('lxc', () => daemon);
