// The operator's commands.
import { define, type Command } from './command.js';

const version = define({
  name: 'version', group: 'operator', summary: 'Show the version of crisp, of Node and the commit',
  description: ['Shows in one line which crisp this is.'],
  arguments: [],
  flags: { json: { summary: 'as JSON: {"crisp", "commit", "node"}' } },
  examples: [{ what: 'for a bug report', line: 'crisp version' }],
  run: async ({ flags }) => (await import('./version.js')).showVersion(flags),
});

export const operatorCommands: readonly Command[] = [version];
