// A process of jest with runner.mjs in it, told by messages what to run.
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { join } from 'node:path';

/** Modules stay in memory with each file of tests that is run: at this size the process is replaced. */
const largestBytes = 1_200 << 20;

export class Worker {
  /** All files of tests that are related to the sources. */
  tests = [];

  /** @param {string} tree a copy of the project @param {string[]} sources */
  static async start(tree, sources) {
    const worker = new Worker();
    Object.assign(worker, { tree, sources });
    await worker.renew();
    return worker;
  }

  async renew() {
    this.end();
    const jest = [
      ...['--experimental-vm-modules', join(this.tree, 'node_modules/jest/bin/jest.js')],
      ...['--config', 'test/mutation/jest.config.mjs', '--runInBand', '--findRelatedTests', ...this.sources],
    ];
    // Its processes are its own as well: a mutant may end them all, and bash as the first of them reaps what tests leave.
    this.process = spawn(
      'unshare',
      [
        ...['--pid', '--mount', '--fork', '--kill-child', '--mount-proc'],
        ...['bash', '-c', '"$@"; exit $?', 'bash', process.execPath, ...jest],
      ],
      { cwd: this.tree, stdio: ['ignore', 'ignore', 'pipe', 'ipc'] },
    );
    let said = '';
    this.process.stderr.on('data', (text) => (said = (said + text).slice(-4000)));
    this.heard = [];
    const { heard } = this;
    this.ended = new Promise((resolve) => this.process.on('exit', () => resolve({ died: true })));
    this.process.on('message', (message) => heard.push(message));
    const first = await Promise.race([this.message(), this.ended]);
    if (first.died) throw new Error(`jest ends before it runs a test:\n${said}`);
    this.tests = first.tests;
  }

  async message() {
    const { heard } = this;
    while (heard.length === 0) await once(this.process, 'message');
    return heard.shift();
  }

  /**
   * Runs a file of tests; each of its mutants may take `limitMs`.
   * @returns the result of runner.mjs; `stuck`: the process was ended, with this mutant on
   */
  async run(work, limitMs) {
    this.process.send(work);
    let running = work.atLoad ? work.mutants[0] : -1;
    for (;;) {
      let timer;
      const late = new Promise((resolve) => {
        timer = setTimeout(() => resolve({ timedOut: true }), limitMs);
      });
      const said = await Promise.race([this.message(), this.ended, late]);
      clearTimeout(timer);
      if (said.running !== undefined) {
        running = said.running;
        continue;
      }
      if (!said.result || said.result.bytes > largestBytes) await this.renew();
      return said.result ?? { stuck: running, timedOut: said.timedOut ?? false };
    }
  }

  end() {
    this.process?.kill('SIGKILL');
  }
}
