// A reporter of jest: one line per file as it ends, on descriptor 3, where run.sh has its own output.
import { writeSync } from 'node:fs';
import { relative } from 'node:path';

export default class Progress {
  onTestResult(test, result, { numTotalTestSuites: total, ...counts }) {
    const done = counts.numPassedTestSuites + counts.numFailedTestSuites + counts.numPendingTestSuites;
    const seconds = Math.round((result.perfStats.end - result.perfStats.start) / 1000);
    const failed = result.numFailingTests || (result.testExecError ? 1 : 0);
    const what = failed ? `${failed} FAILED` : 'ok';
    writeSync(3, `  ${done}/${total} ${relative(process.cwd(), test.path)} ${what}, ${seconds} s\n`);
  }
}
