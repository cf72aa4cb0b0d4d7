// The results: the table, docs/performance.md and its plot, and the table of README.md.
import { execFileSync } from 'node:child_process';
import { readFileSync, writeFileSync } from 'node:fs';
import { cpus } from 'node:os';
import { median } from './peers.mjs';
import { samples } from './samples.mjs';

/** Medians, and the ratios of crisp to the others. */
export function tableOf(names) {
  const others = names.filter((name) => name !== 'crisp');
  const rows = Object.entries(samples).map(([what, by]) => [
    ...mediansOf(what, names),
    ...others.map((name) => ratio(median(by.crisp ?? []), median(by[name] ?? []))),
  ]);
  return markdown([firstHead, ...names, ...others.map((name) => `crisp / ${name}`)], rows);
}

const firstHead = 'p50, in ms unless stated otherwise';

/** A row: its name, and the medians. */
function mediansOf(what, names) {
  const values = names.map((name) => median(samples[what][name] ?? []));
  return [what, ...values.map((value) => value?.toFixed(value < 10 ? 2 : 0) ?? '')];
}

/** A table in the format of prettier. */
function markdown(head, rows) {
  const widths = head.map((word, column) => Math.max(word.length, ...rows.map((row) => row[column].length)));
  const line = (cells) =>
    `| ${cells.map((cell, index) => (index ? cell.padStart(widths[index]) : cell.padEnd(widths[index]))).join(' | ')} |`;
  const rule = `| ${widths.map((width, index) => (index ? `${'-'.repeat(width - 1)}:` : '-'.repeat(width))).join(' | ')} |`;
  return [line(head), rule, ...rows.map(line)].join('\n');
}

function ratio(mine, theirs) {
  return mine === undefined || theirs === undefined ? '' : (mine / theirs).toFixed(2);
}

/** The results in docs/performance.md, the plot beside it, and the table of README.md. */
export function writeDocs(names, judged, rounds, shortRows) {
  const bar = ({ words, isMet }) => `- ${isMet ? 'met' : 'missed'}: ${words}`;
  const commit = execFileSync('git', ['rev-parse', '--short', 'HEAD'], { encoding: 'utf8' }).trim();
  writePart('docs/performance.md', 'bench', [
    `One run of ${rounds} rounds on commit ${commit}, Node ${process.versions.node}, ${cpus().length} cores.\n`,
    tableOf(names),
    '\n![crisp against containerd and the bare commands](performance.svg)\n',
    ...judged.map(bar),
  ]);
  const peers = names.filter((name) => name !== 'floor');
  const day = new Date().toISOString().slice(0, 10);
  writePart('README.md', 'figures', [
    `One run on ${day}, side by side on ${cpus().length} cores; [docs/performance.md](docs/performance.md) has all rows, the ratios, and what is slower than it should be:\n`,
    markdown(
      [firstHead, ...peers],
      shortRows.map((what) => mediansOf(what, peers)),
    ),
  ]);
  writeFileSync(pathOf('docs/performance.svg'), plotOf());
}

/** Replaces the part of a document between its two marks. */
function writePart(document, name, lines) {
  const [begin, end] = [`<!-- ${name}: begin -->`, `<!-- ${name}: end -->`];
  const text = readFileSync(pathOf(document), 'utf8');
  const [before, after] = [text.indexOf(begin), text.indexOf(end)];
  if (before < 0 || after < before) throw new Error(`${document} has no marks ${begin} and ${end}`);
  writeFileSync(
    pathOf(document),
    [text.slice(0, before) + begin, '', ...lines, '', text.slice(after)].join('\n'),
  );
}

function pathOf(file) {
  return new URL(`../${file}`, import.meta.url).pathname;
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
