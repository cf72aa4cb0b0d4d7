// The results: the table, docs/performance.md and its plot.
import { execFileSync } from 'node:child_process';
import { readFileSync, writeFileSync } from 'node:fs';
import { cpus } from 'node:os';
import { median } from './peers.mjs';
import { samples } from './samples.mjs';

/** Medians, and the ratios of crisp to the others. As Markdown in the format of prettier. */
export function tableOf(names) {
  const others = names.filter((name) => name !== 'crisp');
  const rows = Object.entries(samples).map(([what, by]) => {
    const values = names.map((name) => median(by[name] ?? []));
    const shares = others.map((name) => ratio(values[0], median(by[name] ?? [])));
    return [what, ...values.map((value) => value?.toFixed(value < 10 ? 2 : 0) ?? ''), ...shares];
  });
  const head = ['p50, in ms unless stated otherwise', ...names, ...others.map((name) => `crisp / ${name}`)];
  const widths = head.map((word, column) => Math.max(word.length, ...rows.map((row) => row[column].length)));
  const line = (cells) =>
    `| ${cells.map((cell, index) => (index ? cell.padStart(widths[index]) : cell.padEnd(widths[index]))).join(' | ')} |`;
  const rule = `| ${widths.map((width, index) => (index ? `${'-'.repeat(width - 1)}:` : '-'.repeat(width))).join(' | ')} |`;
  return [line(head), rule, ...rows.map(line)].join('\n');
}

function ratio(mine, theirs) {
  return mine === undefined || theirs === undefined ? '' : (mine / theirs).toFixed(2);
}

/** The part of docs/performance.md between its two marks, and the plot beside it. */
export function writeDocs(table, judged, rounds) {
  const [page, plot] = ['performance.md', 'performance.svg'].map(
    (name) => new URL(`../docs/${name}`, import.meta.url).pathname,
  );
  const [begin, end] = ['<!-- bench: begin -->', '<!-- bench: end -->'];
  const text = readFileSync(page, 'utf8');
  const bar = ({ words, isMet }) => `- ${isMet ? 'met' : 'missed'}: ${words}`;
  const commit = execFileSync('git', ['rev-parse', '--short', 'HEAD'], { encoding: 'utf8' }).trim();
  const block = [
    begin,
    `\nOne run of ${rounds} rounds on commit ${commit}, Node ${process.versions.node}, ${cpus().length} cores.\n`,
    table,
    '\n![crisp against containerd and the bare commands](performance.svg)\n',
    ...judged.map(bar),
    `\n${end}`,
  ].join('\n');
  writeFileSync(
    page,
    text.slice(0, text.indexOf(begin)) + block + text.slice(text.indexOf(end) + end.length),
  );
  writeFileSync(plot, plotOf());
}

/** The ratio of crisp to containerd in each row, as bars; the line is containerd. */
function plotOf() {
  const rows = Object.entries(samples).flatMap(([what, { crisp, containerd }]) =>
    crisp && containerd ? [[what, median(crisp) / median(containerd)]] : [],
  );
  const [left, width, height] = [260, 360, 22];
  const x = (share) => left + Math.min(share, 1.5) * (width / 1.5);
  const drawn = rows.map(([what, share], index) => {
    const y = index * height + 8;
    return [
      `<text x="${left - 8}" y="${y + 12}" text-anchor="end">${what}</text>`,
      `<rect x="${left}" y="${y}" width="${(x(share) - left).toFixed(1)}" height="14" fill="${share <= 1 ? '#4a7' : '#c54'}"/>`,
      `<text x="${(x(share) + 4).toFixed(1)}" y="${y + 12}">${share.toFixed(2)}</text>`,
    ].join('\n');
  });
  const bottom = rows.length * height + 12;
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${left + width + 60} ${bottom + 20}" font-family="sans-serif" font-size="12">
<rect width="100%" height="100%" fill="white"/>
${drawn.join('\n')}
<line x1="${x(1)}" y1="0" x2="${x(1)}" y2="${bottom}" stroke="black"/>
<text x="${x(1)}" y="${bottom + 14}" text-anchor="middle">containerd = 1</text>
</svg>
`;
}
