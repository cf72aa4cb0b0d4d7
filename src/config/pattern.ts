// The patterns of routing rules and lists in the configuration.
//
//   kube-*      a glob: * is any text, ? is any character; it must match completely
//   /^v\d+$/    between slashes: a regular expression; it must match completely
//
// JavaScript's regular expressions backtrack: with a value of a pod (a label, an
// annotation) a careless one could run for hours and block the node. So each match
// runs in a context of node:vm, which can be stopped.
import { createContext, Script } from 'node:vm';
import { CrispError } from '../errors.js';

/** @throws RuleTimeout */
export type Pattern = (value: string) => boolean;

/** How long one match may take; usual expressions need microseconds. */
const timeLimitMs = 50;

const compiled = new Map<string, Pattern>();

/** @throws SyntaxError for a malformed regular expression */
export function pattern(text: string): Pattern {
  let known = compiled.get(text);
  if (!known) {
    if (/^\/.+\/[gimsuvy]+$/.test(text))
      throw new SyntaxError(
        `Invalid regular expression: ${text} has flags, which are not supported; use a character class such as [aA] instead of the flag i`,
      );
    known = isExpression(text) ? expression(text) : (value) => matchesGlob(text, value);
    compiled.set(text, known);
  }
  return known;
}

function isExpression(text: string): boolean {
  return text.length > 2 && text.startsWith('/') && text.endsWith('/');
}

function expression(text: string): Pattern {
  const { source } = new RegExp(text.slice(1, -1), 'su'); // compiled alone first: "a)|(b" would break the anchors
  const sandbox = createContext({ expression: new RegExp(`^(?:${source})$`, 'su'), value: '' });
  const script = new Script('expression.test(value)');
  return (value) => {
    sandbox['value'] = value;
    const begun = process.cpuUsage();
    for (;;) {
      try {
        return script.runInContext(sandbox, { timeout: timeLimitMs }) as boolean;
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code !== 'ERR_SCRIPT_EXECUTION_TIMEOUT') throw error;
        const { user, system } = process.cpuUsage(begun);
        if ((user + system) / 1000 < timeLimitMs / 2) continue; // the time passed on a busy node, not in the match
        throw new CrispError(
          'RuleTimeout',
          `the regular expression ${text} took longer than ${timeLimitMs} ms on a value of ${value.length} characters`,
        );
      }
    }
  };
}

/** Linear time for each star: only the last one is backtracked. */
function matchesGlob(glob: string, value: string): boolean {
  let at = 0;
  let star = -1;
  let resumeAt = 0;
  for (let index = 0; index < value.length;) {
    if (glob[at] === '*') {
      star = at++;
      resumeAt = index;
    } else if (glob[at] === '?' || (at < glob.length && glob[at] === value[index])) {
      at++;
      index++;
    } else if (star >= 0) {
      at = star + 1;
      index = ++resumeAt;
    } else return false;
  }
  while (glob[at] === '*') at++;
  return at === glob.length;
}
