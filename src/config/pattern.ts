// The patterns of routing rules and lists in the configuration.
//
//   kube-*      a glob: * is any text, ? is any character; it must match completely
//   /^v\d+$/    between slashes: a regular expression; it must match completely
//
// A regular expression has the syntax of RE2 and is matched in linear time: with a
// value of a pod (a label, an annotation) a backtracking engine could run for hours
// on a careless one and block the node.
import { RE2JS } from 're2js';

export type Pattern = (value: string) => boolean;

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
  try {
    const parsed = RE2JS.compile(text.slice(1, -1), RE2JS.DOTALL);
    return (value) => parsed.matches(value);
  } catch (error) {
    throw new SyntaxError(`Invalid regular expression: ${text}: ${(error as Error).message}`);
  }
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
