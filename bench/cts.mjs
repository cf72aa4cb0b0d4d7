// The speed of Proxmox CTs: the calls of a kubelet on crisp and the bare pct with the
// same arguments, in turns, on a Proxmox VE node (npm run bench -- cts). The pod exists
// already, since pct has no counterpart. An aborted run leaves CTs with the tag crisp-bench.
//
//   --rounds N    CTs of each, one at a time       (9)
//   --mass N      CTs that are made at once        (8)
//   --masses N    how often                        (5)
import { execFile } from 'node:child_process';
import { chmodSync, chownSync, cpSync, mkdirSync, writeFileSync } from 'node:fs';
import { cpus, totalmem } from 'node:os';
import { parseArgs, promisify } from 'node:util';
import { at, image, makeArchives, run, sleep, startCrisp } from './peers.mjs';
import { withCalls } from './pods.mjs';
import { tableOf } from './report.mjs';
import { counted, lasted, note } from './samples.mjs';

const { values } = parseArgs({
  options: {
    rounds: { type: 'string', default: '9' },
    mass: { type: 'string', default: '8' },
    masses: { type: 'string', default: '5' },
  },
});
const runFile = promisify(execFile);
const [first, last] = [991_000, 991_999];
const tag = 'crisp-bench';

// -------------------------------------------------------------------- the two

/** The steps of one CT; `prepare` is not measured. */
function bare() {
  const pct = async (...args) => runFile('pct', args.map(String));
  const root = 100_000;
  let vmid = last;
  return {
    name: 'pct',
    prepare() {
      const made = vmid--;
      const rootfs = at('bare', String(made));
      for (const folder of ['bin', 'dev', 'etc', 'proc', 'sys', 'tmp', 'run']) {
        mkdirSync(`${rootfs}/${folder}`, { recursive: true });
        chownSync(`${rootfs}/${folder}`, root, root);
      }
      chownSync(rootfs, root, root);
      cpSync('/bin/busybox', `${rootfs}/bin/sleep`);
      return { vmid: made, rootfs };
    },
    create: ({ vmid: made, rootfs }) =>
      pct(
        ...['create', made, at('empty.tar'), '--rootfs', rootfs, '--ostype', 'unmanaged', '--arch', 'amd64'],
        ...['--unprivileged', 1, '--hostname', `bench-${made}`, '--memory', Math.ceil(totalmem() / 2 ** 20)],
        ...[
          '--swap',
          0,
          '--cpulimit',
          0,
          '--cores',
          cpus().length,
          '--cpuunits',
          100,
          '--tags',
          `${tag};bench`,
        ],
        ...['--description', 'Made by a benchmark', '--onboot', 0, '--console', 0, '--tty', 0],
        ...['--entrypoint', 'sleep 86400'],
      ),
    start: ({ vmid: made }) => pct('start', made),
    stop: ({ vmid: made }) => pct('stop', made),
    remove: ({ vmid: made }) => pct('destroy', made, '--force', 1, '--purge', 1),
    forget: () => undefined,
  };
}

function ofCrisp({ call }) {
  let counter = 0;
  return {
    name: 'crisp',
    async prepare() {
      const name = `bench-${counter++}`;
      const config = {
        metadata: { name, uid: name, namespace: 'bench', attempt: 0 },
        hostname: name,
        log_directory: at('logs', name),
      };
      mkdirSync(at('logs', name), { recursive: true });
      const { pod_sandbox_id: pod } = await call('RunPodSandbox', { config, runtime_handler: 'lxc' });
      return { pod, config };
    },
    async create(ct) {
      const { container_id: id } = await call('CreateContainer', {
        pod_sandbox_id: ct.pod,
        sandbox_config: ct.config,
        config: {
          metadata: { name: 'main', attempt: 0 },
          image: { image, user_specified_image: image },
          command: ['sleep', '86400'],
          log_path: 'main.log',
        },
      });
      ct.id = id;
    },
    start: ({ id }) => call('StartContainer', { container_id: id }),
    stop: ({ id }) => call('StopContainer', { container_id: id, timeout: 0 }),
    remove: ({ id }) => call('RemoveContainer', { container_id: id }),
    async forget({ pod }) {
      await call('StopPodSandbox', { pod_sandbox_id: pod });
      await call('RemovePodSandbox', { pod_sandbox_id: pod });
    },
  };
}

// ------------------------------------------------------------------ the rounds

/** One life of so many CTs at once, step by step. */
async function life(who, width, isCounted = true) {
  const cts = [];
  for (const _ of counted(width)) cts.push(await who.prepare());
  const ms = {};
  for (const step of ['create', 'start', 'stop', 'remove']) {
    ms[step] = await lasted(() => Promise.all(cts.map((ct) => who[step](ct))));
    if (step === 'stop') await untilUnitsEnd();
  }
  for (const ct of cts) await who.forget(ct);
  if (!isCounted) return;
  const rows = { ...ms, 'create and start': ms.create + ms.start, 'stop and remove': ms.stop + ms.remove };
  for (const [step, value] of Object.entries(rows))
    note(width === 1 ? step : `${step}, ${width} at once`, who.name, value);
}

/** pct stop waits for the hooks of a CT, and StopContainer does not: the next step is measured without them. */
async function untilUnitsEnd() {
  const ofBench = `pve-container@${String(first).slice(0, 3)}*`;
  const states = '--state=active,activating,deactivating';
  const list = ['list-units', '--plain', '--no-legend', states, ofBench];
  while ((await runFile('systemctl', list)).stdout.trim()) await sleep(100);
}

async function main() {
  chmodSync(at(), 0o711); // root of an unprivileged CT has to reach its rootfs
  makeArchives();
  writeFileSync(at('empty.tar'), Buffer.alloc(10_240));
  const crisp = withCalls(
    await startCrisp({
      handlers: { lxc: { type: 'pct' } },
      lxc: { tag, vmid_range: { first, last: last - 500 } },
    }),
  );
  const both = [ofCrisp(crisp), bare()];
  for (const who of both) await life(who, 1, false); // a warm-up
  const repeat = async (rounds, width) => {
    for (const _ of counted(rounds)) {
      for (const who of both) await life(who, width);
      both.reverse();
      process.stderr.write('.');
    }
  };
  for (const [rounds, width] of [
    [values.rounds, 1],
    [values.masses, values.mass],
  ]) {
    await repeat(Number(rounds), Number(width));
    console.log(`\n${tableOf(['crisp', 'pct'])}`);
  }
  return true;
}

await run(main);
