// The output of commands: JSON for machines, aligned columns for people.
import type { Probe } from '../backends/backend.js';

export function printJson(value: unknown): void {
  process.stdout.write(`${JSON.stringify(value, undefined, process.stdout.isTTY ? 2 : undefined)}\n`);
}

/** Columns as wide as their widest cell; the last column is not padded. */
export function table(head: readonly string[], rows: readonly (readonly string[])[]): string {
  const widths = head.map((title, column) =>
    Math.max(title.length, ...rows.map((row) => (row[column] ?? '').length)),
  );
  return [head, ...rows]
    .map(
      (row) =>
        `${row.map((cell, column) => (column === row.length - 1 ? cell : cell.padEnd(widths[column] ?? 0))).join('  ')}\n`,
    )
    .join('');
}

/** Lines of "name: value", the values aligned; undefined values are left out. */
export function facts(rows: readonly (readonly [string, string | undefined])[]): string {
  const width = Math.max(...rows.map(([name]) => name.length)) + 1;
  return rows
    .filter(([, value]) => value !== undefined)
    .map(([name, value]) => `${`${name}:`.padEnd(width)} ${value}\n`)
    .join('');
}

/** The missing features of a handler, each with the reason. */
export function lacking(lacks: Probe['lacks']): string[] {
  const names = { userNamespaces: 'user namespaces', recursiveReadOnlyMounts: 'recursive read-only mounts' };
  return Object.entries(names).flatMap(([feature, name]) => {
    const why = lacks[feature as keyof typeof names];
    return why === undefined ? [] : [`no ${name}: ${why}`];
  });
}

/** "5 s ago", "3 h ago". */
export function ago(nanoseconds: string): string {
  const seconds = Math.max(0, Math.floor((Date.now() - Number(BigInt(nanoseconds) / 1_000_000n)) / 1000));
  const [count, unit] =
    seconds < 120
      ? [seconds, 's']
      : seconds < 7200
        ? [Math.floor(seconds / 60), 'min']
        : seconds < 172_800
          ? [Math.floor(seconds / 3600), 'h']
          : [Math.floor(seconds / 86_400), 'd'];
  return `${count} ${unit} ago`;
}

/** "512 B", "1.2 MB": powers of 1000, as registries and podman count. */
export function bytes(count: number): string {
  const units = ['B', 'kB', 'MB', 'GB', 'TB'];
  const power = Math.min(Math.floor(Math.log10(Math.max(count, 1)) / 3), units.length - 1);
  return `${power === 0 ? count : (count / 1000 ** power).toFixed(1)} ${units[power]}`;
}

/** RFC 3339 with milliseconds. */
export function time(nanoseconds: string): string {
  return new Date(Number(BigInt(nanoseconds) / 1_000_000n)).toISOString();
}

/** "12.3 MiB" */
export function size(bytes: number): string {
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];
  const power = Math.min(bytes < 1 ? 0 : Math.floor(Math.log2(bytes) / 10), units.length - 1);
  return `${(bytes / 1024 ** power).toFixed(power === 0 ? 0 : 1)} ${units[power]}`;
}

/** Breaks a text between words into lines of at most `width` characters. */
export function wrap(text: string, width: number): string[] {
  const lines: string[] = [];
  for (const word of text.split(' ')) {
    const last = lines.at(-1);
    if (last !== undefined && last.length + 1 + word.length <= width)
      lines[lines.length - 1] = `${last} ${word}`;
    else lines.push(word);
  }
  return lines;
}
