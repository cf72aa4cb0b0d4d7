// The environment that jest runs each file of tests in: Node's, with a watchdog.
// jest's own time limit cannot end a test that blocks the event loop, such as a
// loop without end.  A thread ends the process of such a test and names it.
import { TestEnvironment } from 'jest-environment-node';
import { Worker } from 'node:worker_threads';

const beatMs = 500;
/** How much of the processor a test may take without a turn of the event loop. */
const limitSeconds = 20 * Number(process.env.CRISP_TEST_PATIENCE ?? 1);

/** Runs in the thread. Counts the processor's time, since a busy machine may hold up any test. */
function watch() {
  const { parentPort, workerData } = require('node:worker_threads');
  const { writeSync } = require('node:fs');
  let name = '';
  let beats = -1;
  let since = process.cpuUsage();
  parentPort.on('message', (message) => (name = message));
  setInterval(() => {
    const now = Atomics.load(workerData.beats, 0);
    if (now !== beats) since = process.cpuUsage();
    beats = now;
    if (process.cpuUsage(since).user < workerData.limitSeconds * 1e6) return;
    writeSync(2, `\n${name}: blocks the event loop for more than ${workerData.limitSeconds} s\n`);
    process.kill(process.pid, 'SIGKILL');
  }, workerData.beatMs);
}

/** One for all the files that this process runs. */
let thread;
let beats;
function startWatchdog() {
  beats = new Int32Array(new SharedArrayBuffer(4));
  thread = new Worker(`(${watch})()`, { eval: true, workerData: { beats, beatMs, limitSeconds } });
  thread.unref();
  setInterval(() => Atomics.add(beats, 0, 1), beatMs / 2).unref();
}

export default class Watched extends TestEnvironment {
  constructor(config, context) {
    super(config, context);
    if (!thread) startWatchdog();
    this.path = context.testPath;
    thread.postMessage(this.path);
  }

  handleTestEvent({ name, test }) {
    if (name !== 'test_start') return;
    const names = [];
    for (let part = test; part.parent; part = part.parent) names.unshift(part.name);
    thread.postMessage(`${this.path}: ${names.join(' ')}`);
  }
}
