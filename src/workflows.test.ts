// The workflows under .github: their names, that none can pass by ignoring a failure,
// and that they run scripts of package.json.
import { expect, test } from '@jest/globals';
import { readdirSync, readFileSync } from 'node:fs';
import { parse } from 'yaml';
import { installed } from './installed.js';

interface Workflow {
  readonly name: string;
  readonly jobs: Readonly<Record<string, Job>>;
}
interface Job {
  readonly strategy?: { readonly matrix?: Readonly<Record<string, readonly unknown[]>> };
  readonly steps: readonly { readonly run?: string }[];
}

const folder = installed('.github/workflows');
const texts = new Map(readdirSync(folder).map((file) => [file, readFileSync(`${folder}/${file}`, 'utf8')]));
const workflows = new Map([...texts].map(([file, text]) => [file, parse(text) as Workflow]));
const scripts = (
  JSON.parse(readFileSync(installed('package.json'), 'utf8')) as { scripts: Record<string, string> }
).scripts;

test('all workflows are there, under their names', () => {
  expect([...workflows.values()].map(({ name }) => name).sort()).toEqual([
    'AMD64 Only',
    'Basic Test',
    'CI (CNCF)',
    'Documentation',
    'Proxmox E2E',
    'Release',
    'Security',
    'Simple CI',
  ]);
});

test.each([...texts])('%s cannot pass by ignoring a failure', (_file, text) => {
  expect(text).not.toMatch(/\|\|\s*(true|:|exit 0)|continue-on-error|set \+e/);
});

test.each([...workflows])('%s runs scripts that are in package.json', (_file, { jobs }) => {
  for (const { steps, strategy } of Object.values(jobs))
    for (const script of steps.flatMap(({ run = '' }) => scriptsOf(run, strategy?.matrix ?? {})))
      expect(Object.keys(scripts)).toContain(script);
});

/** The npm scripts that a step runs, with the values of the matrix in place of their names. */
function scriptsOf(run: string, matrix: Readonly<Record<string, readonly unknown[]>>): string[] {
  return [...run.matchAll(/npm run (?:\$\{\{ matrix\.(\w+) \}\}|([\w:-]+))/g)].flatMap(([, key, name]) =>
    key === undefined ? [name ?? ''] : (matrix[key] ?? []).map(String),
  );
}
