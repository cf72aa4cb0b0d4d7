// The benchmark: the same work in turns on crisp, on containerd with crun, and by
// bare commands.  Run by run.sh in a mount namespace of its own.
//
//   --rounds N      pods of each kind on each of them                (15)
//   --mass N        pods that are started at once, ten at a time     (30)
//   --scale N       running pods while lists and memory are measured (100)
//   --write-docs    writes the results into docs/performance.md and README.md
//   --containerd2 PATH, --crio PATH   newer versions, built from source
//   --peer-crun PATH                  the crun for those two         (/usr/bin/crun)
import { parseArgs } from 'node:util';
import { floorLife, prepareFloor } from './floor.mjs';
import { fullNode, historySize, massRounds, massStart } from './full-node.mjs';
import { makeArchives, median, run, startContainerd, startCrio, startCrisp } from './peers.mjs';
import { life, withCalls } from './pods.mjs';
import { layers, prepareImages, pulls } from './pulls.mjs';
import { tableOf, writeDocs } from './report.mjs';
import { samples } from './samples.mjs';

const { values } = parseArgs({
  options: {
    rounds: { type: 'string', default: '15' },
    mass: { type: 'string', default: '30' },
    scale: { type: 'string', default: '100' },
    'write-docs': { type: 'boolean', default: false },
    containerd2: { type: 'string' },
    crio: { type: 'string' },
    'peer-crun': { type: 'string', default: '/usr/bin/crun' },
  },
});
const rounds = Number(values.rounds);
const mass = Number(values.mass);
const scale = Number(values.scale);

/**
 * The targets: row, compared with (undefined: the value itself), maximum. docs/performance.md explains them.
 */
const bars = [
  ['pod up, CNI', 'floor', 1],
  ['pod up, host network', 'floor', 1],
  ['ExecSync', 'floor', 1.25],
  ['StopContainer', 'floor', 1.5],
  ['whole life, CNI', 'floor', 1],
  ['pod up, CNI', 'containerd', 0.5],
  ['pod up, host network', 'containerd', 0.35],
  ['ExecSync', 'containerd', 0.5],
  ['whole life, CNI', 'containerd', 0.5],
  ['many pods up, ten at a time', 'containerd', 0.5],
  ['ExecSync, eight at a time, each', 'containerd', 0.5],
  [`ListContainers of ${scale}`, 'containerd', 1],
  [`ListPodSandbox of ${scale}`, 'containerd', 1],
  [`ContainerStatus of ${scale}`, 'containerd', 1],
  [`PodSandboxStatus of ${scale}`, 'containerd', 1],
  [`ListContainerStats of ${scale}`, 'containerd', 0.1],
  ['pod up, CNI', 'CRI-O', 0.6],
  ['pod up, host network', 'CRI-O', 0.6],
  ['ExecSync', 'CRI-O', 0.6],
  ['many pods up, ten at a time', 'CRI-O', 0.6],
  ['ExecSync, eight at a time, each', 'CRI-O', 0.6],
  ['pull of 300 MB in 12 layers', 'floor', 1.1],
  ['longest Version call meanwhile', undefined, 50],
  ['pod up, 127 layers / 5 layers', undefined, 1.1],
  ['event-loop delay at p99 meanwhile', undefined, 20],
  ['daemon without pods, MiB', undefined, 55],
  ['each pod, MiB', undefined, 0.45],
  [`daemon with ${2 * scale} pods, MiB`, undefined, 65],
  [`daemon after ${2 * scale} more have gone, MiB`, undefined, 65],
  [`relists and stats of ${scale}, % of a core`, undefined, 2],
  [`no calls, ${scale} pods, % of a core`, undefined, 0.2],
  ['start to socket, no pods', undefined, 800],
  [`start to socket, ${2 * scale} pods`, undefined, 1_500],
  ...['ListContainers', 'ListPodSandbox', 'ListContainerStats'].map((method) => [
    `${method} of ${historySize}`,
    undefined,
    15,
  ]),
];

/** The rows of README.md. */
const shortRows = [
  'pod up, CNI',
  'pod up, host network',
  'whole life, CNI',
  'ExecSync',
  'many pods up, ten at a time',
  'pull of 300 MB in 12 layers',
  `ListContainers of ${scale}`,
  `ListContainerStats of ${scale}`,
  'daemon without pods, MiB',
  'each pod, MiB',
  `start to socket, ${scale} pods`,
];

/** Newer than Debian's: no row of theirs may be ahead of crisp's. */
const newestPeers = ['containerd 2', 'CRI-O'];

/** @returns for each target that was measured, its result in words, and whether it is met */
function judge() {
  const against = bars.flatMap(([what, other, most]) => {
    const value =
      other === undefined ? median(samples[what]?.crisp ?? []) : ratio(samples[what] ?? {}, other);
    if (value === undefined) return [];
    const words = other === undefined ? what : `${what}, against ${other}`;
    return [{ words: `${words}: ${value.toFixed(2)}, at most ${most}`, isMet: value <= most }];
  });
  const ahead = newestPeers.flatMap((peer) => {
    const ratios = Object.entries(samples).flatMap(([what, by]) => {
      const value = ratio(by, peer);
      return value === undefined ? [] : [{ what, value: value.toFixed(2) }];
    });
    if (ratios.length === 0) return [];
    const rows = ratios.filter(({ value }) => Number(value) > 1);
    const names = rows.map(({ what, value }) => `${what} (${value})`).join(', ') || 'none';
    return [{ words: `rows in which ${peer} is ahead: ${names}`, isMet: rows.length === 0 }];
  });
  return [...against, ...ahead];
}

/** The ratio of crisp's median to that of another; undefined unless both were measured. */
function ratio(by, other) {
  const [mine, theirs] = [median(by.crisp ?? []), median(by[other] ?? [])];
  return mine === undefined || theirs === undefined ? undefined : mine / theirs;
}

async function main() {
  makeArchives();
  await prepareImages();
  const crisp = withCalls(await startCrisp());
  const peers = [crisp, withCalls(await startContainerd())];
  if (values.containerd2)
    peers.push(withCalls(await startContainerd('containerd 2', values.containerd2, values['peer-crun'])));
  if (values.crio) peers.push(withCalls(await startCrio(values.crio, values['peer-crun'])));
  await prepareFloor(crisp);
  console.log(
    `${rounds} rounds, each on ${peers.map(({ name }) => name).join(', ')} and the floor in turns; ` +
      `${mass} pods at once; ${scale} pods for lists and memory`,
  );
  for (let round = -2; round < rounds; round++) {
    for (const host of [false, true]) {
      for (const who of peers) await life(who, host, round >= 0);
      await floorLife(host, round >= 0);
    }
  }
  for (let round = 0; round < massRounds; round++) for (const who of peers) await massStart(who, mass);
  await pulls(peers);
  await layers(crisp);
  await fullNode(peers, scale);
  const names = [...peers.map(({ name }) => name), 'floor'];
  console.log(`\n${tableOf(names)}\n`);
  const judged = judge();
  for (const { words, isMet } of judged) console.log(`${isMet ? 'met   ' : 'MISSED'} ${words}`);
  if (values['write-docs']) writeDocs(names, judged, rounds, shortRows);
  return judged.every(({ isMet }) => isMet);
}

await run(main);
