// The suite of cri-tools on crun and on runc, each of its specs a test here.
//
// It runs while this file is loaded; its results are then reported to jest, so
// that its specs are counted like all other tests.  With CONFORMANCE_REPORT=write
// the report in docs/architecture is written from it, else compared with it.
import { describe, expect, test } from '@jest/globals';
import { readFile, writeFile } from 'node:fs/promises';
import { outcomes, parseReport, renderReport, reportFile, specName } from './report.js';
import { crictl, critest, readSkips, runSuite, versionOf } from './suite.js';

const missing = [critest, crictl].filter((tool) => versionOf(tool) === undefined);
if (missing.length > 0) {
  const how = `critest: ${missing.join(' and ')} not found: get both from https://github.com/kubernetes-sigs/cri-tools/releases, and put them on PATH or name them in CRITEST and CRICTL`;
  process.stderr.write(`${how}\n`);
  if (process.env['CI'] === 'true')
    test('critest and crictl are installed', () => {
      throw new Error(how);
    });
  else test.skip('critest and crictl are not installed', () => undefined);
} else {
  process.stderr.write(`${versionOf(crictl)}; ${versionOf(critest)}\n`);
  const skips = await readSkips();
  const results = await runSuite(skips);
  for (const [pass, specs] of results) {
    describe(`critest on ${pass.name}`, () => {
      test('ran its specs', () => {
        expect(specs.filter(({ state }) => state === 'passed').length).toBeGreaterThan(0);
      });
      for (const { name, state, message } of specs) {
        const listed =
          state === 'skipped' &&
          skips.some((skip) => skip.pattern.test(name) && (skip.pass ?? pass.name) === pass.name);
        if (listed) test.skip(name, () => undefined);
        else
          test(name, () => {
            if (state !== 'passed')
              throw new Error(
                state === 'skipped'
                  ? `skipped, but not listed in skips.txt: ${message}`
                  : `${state}: ${message}`,
              );
          });
      }
    });
  }

  if (process.env['CONFORMANCE_REPORT'] === 'write')
    await writeFile(reportFile, renderReport(results, skips, versionOf(critest) ?? ''));
  const known = parseReport(await readFile(reportFile, 'utf8'));
  const found = outcomes(results, skips);
  if (known.critest === versionOf(critest))
    test('the report in docs/architecture is current', () => {
      expect(found).toEqual(known.outcomes);
    });
  // Another release of the suite has other specs, which are no reason to make the report anew on every machine.
  else
    test('the report in docs/architecture is current, if this release has the same specs', () => {
      const names = (rows: readonly string[]) => new Set(rows.map(specName));
      const both = (rows: readonly string[], others: readonly string[]) =>
        rows.filter((row) => names(others).has(specName(row)));
      expect(both(found, known.outcomes).length).toBeGreaterThan(0);
      expect(both(found, known.outcomes)).toEqual(both(known.outcomes, found));
    });
}
