// The program `crisp`: finds and runs the command, and maps its result to an
// exit code. It loads only the modules that the command needs, so that `crisp
// version` and completions are fast.
import { commandNamed } from './cli/command.js';
import { helpOf, overview } from './cli/help.js';
import { meant } from './cli/meant.js';
import { parse, UsageError } from './cli/parse.js';
import { commands, leftOut } from './cli/table.js';

/** The exit codes of every command; run, exec and start --attach exit with the container's own code. */
const failed = 1;
const wrongUsage = 2;

async function main(argv: readonly string[]): Promise<number> {
  const [word, ...rest] = argv;
  if (word === undefined) {
    process.stderr.write(overview(commands));
    return wrongUsage;
  }
  if (word === 'help' || word === '--help' || word === '-h') return help(rest[0]);
  if (word === '--version') return main(['version', ...rest]);
  const command = commandNamed(commands, word);
  if (!command) return unknown(word);
  try {
    const call = parse(command, rest);
    if (call === 'help') return help(command.name);
    // The log is for the daemon; commands do not log unless this is requested.
    if (command.name !== 'serve') process.env['CRISP_LOG_LEVEL'] ??= 'silent';
    return await command.run(call);
  } catch (error) {
    if (error instanceof UsageError)
      return complain(`${error.message}; see \`crisp ${command.name} --help\``, command.name);
    const { toCrispError } = await import('./errors.js');
    const known = toCrispError(error);
    process.stderr.write(`crisp ${command.name}: ${known.report}\n`);
    if (known.id === 'Internal' && error instanceof Error) process.stderr.write(`${error.stack}\n`);
    return known.id === 'InvalidConfigFile' ? wrongUsage : (command.ownFailure ?? failed);
  }
}

function help(name: string | undefined): number {
  const command = name === undefined ? undefined : commandNamed(commands, name);
  if (name !== undefined && !command && !/^(help|--help|-h)$/.test(name)) return unknown(name);
  process.stdout.write(command ? helpOf(command) : overview(commands));
  return 0;
}

function unknown(word: string): number {
  const instead = Object.hasOwn(leftOut, word) ? leftOut[word] : undefined;
  if (instead) return complain(`there is no command "${word}" on purpose: ${instead}`);
  const names = [...commands.flatMap(({ name, aliases }) => [name, ...(aliases ?? [])]), 'help'];
  return complain(`unknown command "${word}"${meant(word, names)}; see \`crisp help\``);
}

function complain(message: string, command?: string): number {
  process.stderr.write(`crisp${command ? ` ${command}` : ''}: ${message}\n`);
  return wrongUsage;
}

// A reader that closes early (`crisp list | head -1`) is not an error; a full disk is, and the output is lost.
let outputLost = false;
for (const stream of [process.stdout, process.stderr])
  stream.on('error', ({ code, message }: NodeJS.ErrnoException) => {
    if (code === 'EPIPE' || outputLost) return;
    outputLost = true;
    process.exitCode = failed;
    if (stream === process.stdout) process.stderr.write(`crisp: the output cannot be written: ${message}\n`);
  });
const exitCode = await main(process.argv.slice(2));
process.exitCode ??= exitCode;
