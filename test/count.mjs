// Reads jest's JSON report for run.sh.
//   count.mjs REPORT              "passed failed skipped"
//   count.mjs --failures REPORT   what failed, and why
//   count.mjs --skipped REPORT    what was skipped, by the group that it is of; the names say why
import { readFileSync } from 'node:fs';

const [, , mode] = process.argv;
const report = JSON.parse(readFileSync(process.argv.at(-1), 'utf8'));
const tests = report.testResults.flatMap((file) => file.assertionResults);

if (mode === '--skipped') {
  const groups = new Map();
  for (const { status, ancestorTitles, title } of tests)
    if (['pending', 'skipped', 'todo', 'disabled'].includes(status))
      groups.set(ancestorTitles.join(' ') || title, (groups.get(ancestorTitles.join(' ') || title) ?? 0) + 1);
  for (const [name, number] of groups) console.log(`  ${number} ${name}`);
} else if (mode === '--failures') {
  for (const file of report.testResults) {
    if (file.assertionResults.length === 0 && file.status === 'failed')
      console.log(`\n✕ ${file.name}\n${indent(file.message)}`);
    for (const test of file.assertionResults)
      if (test.status === 'failed') {
        const message = test.failureMessages.join('\n');
        console.log(`\n✕ ${test.fullName}\n${statement(message)}${indent(message)}`);
      }
  }
} else {
  const count = (...states) => tests.filter(({ status }) => states.includes(status)).length;
  // A file that could not be loaded has no tests, and is one failure.
  const broken = report.testResults.filter(
    (file) => file.assertionResults.length === 0 && file.status === 'failed',
  ).length;
  console.log(count('passed'), count('failed') + broken, count('pending', 'skipped', 'todo', 'disabled'));
}

/** The line of the source that failed: jest leaves it out of its report. */
function statement(message) {
  const [, file, line] = /\(?(\/[^\s()]+\.test\.ts):(\d+):\d+\)?/.exec(message) ?? [];
  if (!file) return '';
  return `  > ${readFileSync(file, 'utf8').split('\n')[line - 1]?.trim()}\n`;
}

function indent(text) {
  return text
    .replaceAll(/\u001b\[[0-9;]*m/g, '')
    .split('\n')
    .filter((line) => !line.includes('/node_modules/'))
    .slice(0, 25)
    .map((line) => `  ${line}`)
    .join('\n');
}
