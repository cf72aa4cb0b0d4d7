// A process of jest with runner.mjs in it, told by messages what to run.
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { join } from 'node:path';

export class Worker {
  /** All files of tests that are related to the sources. */
  tests = [];
  heard = [];

  /** @param {string} tree a copy of the project @param {string[]} sources */
  static async start(tree, sources) {
    const worker = new Worker();
    const jest = [
      ...['--experimental-vm-modules', join(tree, 'node_modules/jest/bin/jest.js')],
      ...['--config', 'test/mutation/jest.config.mjs', '--runInBand', '--findRelatedTests', ...sources],
    ];
    // Its processes are its own as well: a mutant may end them all, and bash as the first of them reaps what tests leave.
    worker.process = spawn(
      'unshare',
      [
        ...['--pid', '--mount', '--fork', '--kill-child', '--mount-proc'],
        ...['bash', '-c', '"$@"; exit $?', 'bash', process.execPath, ...jest],
      ],
      { cwd: tree, stdio: ['ignore', 'ignore', 'pipe', 'ipc'] },
    );
    let said = '';
    worker.process.stderr.on('data', (text) => (said = (said + text).slice(-4000)));
    worker.ended = new Promise((resolve) => worker.process.on('exit', () => resolve({ died: true })));
    worker.process.on('message', (message) => worker.heard.push(message));
    const first = await Promise.race([worker.message(), worker.ended]);
    if (first.died) throw new Error(`jest ends before it runs a test:\n${said}`);
    worker.tests = first.tests;
    return worker;
  }

  async message() {
    while (this.heard.length === 0) await once(this.process, 'message');
    return this.heard.shift();
  }

  /** Runs these files with this mutant, until one fails. */
  async run(mutant, paths, limitMs) {
    let timer;
    let running;
    const late = new Promise((resolve) => {
      timer = setTimeout(() => resolve({ timedOut: true }), limitMs);
    });
    this.process.send({ mutant, paths });
    for (;;) {
      const said = await Promise.race([this.message(), this.ended, late]);
      if (said.running) {
        running = said.running;
        continue;
      }
      clearTimeout(timer);
      return { ...said, running };
    }
  }

  end() {
    this.process.kill('SIGKILL');
  }
}
