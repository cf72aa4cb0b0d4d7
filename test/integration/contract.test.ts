// The contract of the backends on the OCI runtimes.
import { afterAll, beforeAll } from '@jest/globals';
import { contract } from '../helpers/contract.js';
import { startDaemon, type Daemon } from '../helpers/daemon.js';

let daemon: Daemon;
beforeAll(async () => {
  daemon = await startDaemon();
  await daemon.addImage();
});
afterAll(() => daemon?.destroy());

for (const handler of ['crun', 'runc']) contract(handler, () => daemon);
