// The table and the plot of the load test in docs/reliability.md.
import { execFileSync } from 'node:child_process';
import { readFileSync, writeFileSync } from 'node:fs';
import { cpus } from 'node:os';
import { fileURLToPath } from 'node:url';

/** What the daemon needs at one moment. */
export interface Sample {
  /** Since the start of the test. */
  readonly minute: number;
  /** Open files of the daemon. */
  readonly files: number;
  /** Anonymous memory of the daemon. */
  readonly memoryMiB: number;
  /** Rules of iptables in the nat table. */
  readonly rules: number;
  /** Delay of the event loop, p99 since the sample before. */
  readonly delayMs: number;
}

export interface Report {
  readonly pods: number;
  readonly minutes: number;
  readonly calls: number;
  readonly failed: number;
  /** The largest of the samples. */
  readonly delayMs: number;
  /** At rest, after the warm-up and at the end; the memory is the median of the time before. */
  readonly before: Sample;
  readonly after: Sample;
  readonly samples: readonly Sample[];
}

/** Writes the part of docs/reliability.md between its two marks, and the plot beside it. */
export function writeReport(report: Report): void {
  const [page, plot] = ['reliability.md', 'load.svg'].map((name) =>
    fileURLToPath(new URL(`../../docs/${name}`, import.meta.url)),
  ) as [string, string];
  const [begin, end] = ['<!-- load: begin -->', '<!-- load: end -->'];
  const text = readFileSync(page, 'utf8');
  writeFileSync(
    page,
    `${text.slice(0, text.indexOf(begin) + begin.length)}\n\n${tableOf(report)}\n\n${text.slice(text.indexOf(end))}`,
  );
  writeFileSync(plot, plotOf(report.samples));
}

function tableOf({ pods, minutes, calls, failed, delayMs, before, after }: Report): string {
  const commit = execFileSync('git', ['rev-parse', '--short', 'HEAD'], { encoding: 'utf8' }).trim();
  const row = (what: string, key: 'files' | 'memoryMiB' | 'rules'): string => {
    const [first, last] = [before[key], after[key]];
    return `| ${what} | ${first.toFixed(0)} | ${last.toFixed(0)} | ${((last / first - 1) * 100).toFixed(1)} % |`;
  };
  return [
    `One run of ${minutes} minutes beside ${pods} pods on commit ${commit}, Node ${process.versions.node}, ${cpus().length} cores: ${calls} calls, ${failed} failed; event-loop delay at p99 at most ${delayMs.toFixed(0)} ms in any part of the run.`,
    '',
    '| | After the warm-up | At the end | Growth |',
    '|---|---:|---:|---:|',
    row('open files of the daemon, at rest', 'files'),
    row('memory of the daemon, anonymous, median in MiB', 'memoryMiB'),
    row('rules of iptables (nat), at rest', 'rules'),
    '',
    '![Open files, memory, rules and event-loop delay during the run](load.svg)',
  ].join('\n');
}

/** One curve below the other, each from 0 to its own maximum. */
export function plotOf(samples: readonly Sample[]): string {
  const curves = [
    ['open files', 'files'],
    ['memory (anonymous), MiB', 'memoryMiB'],
    ['rules of iptables', 'rules'],
    ['event-loop delay at p99, ms', 'delayMs'],
  ] as const;
  const [left, width, height, gap] = [50, 600, 90, 34];
  const last = Math.max(...samples.map(({ minute }) => minute));
  const drawn = curves.map(([words, key], index) => {
    const top = index * (height + gap) + gap;
    const most = Math.max(...samples.map((sample) => sample[key]));
    const points = samples.map((sample) => {
      const x = left + (sample.minute / last) * width;
      const y = top + height - (sample[key] / most) * height;
      return `${x.toFixed(1)},${y.toFixed(1)}`;
    });
    return [
      `<text x="${left}" y="${top - 8}">${words}</text>`,
      `<text x="${left - 6}" y="${top + 10}" text-anchor="end">${most.toFixed(0)}</text>`,
      `<text x="${left - 6}" y="${top + height}" text-anchor="end">0</text>`,
      `<path d="M${left} ${top}v${height}h${width}" fill="none" stroke="black"/>`,
      `<polyline points="${points.join(' ')}" fill="none" stroke="#47a"/>`,
    ].join('\n');
  });
  const bottom = curves.length * (height + gap) + gap;
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${left + width + 20} ${bottom + 10}" font-family="sans-serif" font-size="12">
<rect width="100%" height="100%" fill="white"/>
${drawn.join('\n')}
<text x="${left + width}" y="${bottom - 16}" text-anchor="end">minute ${last.toFixed(0)}</text>
</svg>
`;
}
