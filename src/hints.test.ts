// The hints of errors and checks: commands of crisp are valid, programs are known, and
// named configuration keys and documents exist.
import { describe, expect, test } from '@jest/globals';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import ts from 'typescript';
import { commandNamed } from './cli/command.js';
import { configKeys } from './cli/config-keys.js';
import { parse } from './cli/parse.js';
import { commands, leftOut } from './cli/table.js';
import { catalogue } from './errors.js';

/** What stands for a value that is not known here. */
const value = 'NAME';

/** The texts in an expression: "a ${b} c" and both sides of a choice. */
function textsIn(node: ts.Node): string[] {
  if (ts.isStringLiteralLike(node)) return [node.text];
  if (ts.isTemplateExpression(node))
    return [node.head.text + node.templateSpans.map(({ literal }) => value + literal.text).join('')];
  const found: string[] = [];
  ts.forEachChild(node, (child) => {
    found.push(...textsIn(child));
  });
  return found;
}

/** The hints in a source: `hint: …`, `warning(…, THIS)`, `failure(…, THIS)`. */
function hintsIn(path: string): string[] {
  const found: string[] = [];
  const visit = (node: ts.Node): void => {
    if (ts.isPropertyAssignment(node) && node.name.getText(source) === 'hint')
      found.push(...textsIn(node.initializer));
    if (
      path.startsWith('src/cli/check/') &&
      ts.isCallExpression(node) &&
      /^(warning|failure)$/.test(node.expression.getText(source)) &&
      node.arguments[1]
    )
      found.push(...textsIn(node.arguments[1]));
    ts.forEachChild(node, visit);
  };
  const source = ts.createSourceFile(path, readFileSync(path, 'utf8'), ts.ScriptTarget.Latest);
  visit(source);
  return found;
}

const sources = readdirSync('src', { recursive: true, encoding: 'utf8' })
  .map((name) => `src/${name}`)
  .filter((path) => path.endsWith('.ts') && !path.endsWith('.test.ts') && !path.includes('/generated/'));
const hints = [
  ...new Set([
    ...sources.flatMap(hintsIn),
    ...Object.values(catalogue).map(({ hint }) => hint),
    ...Object.values(leftOut),
    ...commands.flatMap((command) => Object.values(command.leftOut ?? {})),
  ]),
].filter((hint) => hint !== '');

/** Programs of others that hints name. */
const programs = new Set(
  'apparmor_parser apt crictl df dmesg ha-manager ifreload kompose modprobe mount pvecm pveam pvesh pvesm skopeo su swapoff sysctl systemctl tar ulimit'.split(
    ' ',
  ),
);

test('the hints are found in the source', () => {
  expect(hints.length).toBeGreaterThan(100);
  expect(hints).toContain('see `crisp check` for the reason');
});

/** The commands in backticks, each as it would be typed. */
const quoted = hints.flatMap((hint) => [...hint.matchAll(/`([^`]+)`/g)].map(([, line = '']) => [line, hint]));
describe('a command in a hint is valid', () => {
  test.each(quoted)('%s', (line) => {
    const lines = line
      .replace(/"[^"]*"/g, 'WORD')
      .replace(/^sudo /, '')
      .split(/ \| |&& |; |\$\(|\)/)
      .map((part) => part.trim());
    for (const words of lines.filter(Boolean).map((part) => part.split(/\s+/))) {
      const [program = '', name = '', ...rest] = words;
      if (program !== 'crisp') {
        expect([program === 'jq' || programs.has(program), line]).toEqual([true, line]);
        continue;
      }
      const command = commandNamed(commands, name);
      expect([command?.name, line]).toEqual([expect.any(String), line]);
      if (!command) continue;
      const needed = command.arguments.filter((argument) => !argument.optional).length;
      const given = rest.filter((word) => !/^[…'"]/.test(word));
      // "`crisp check`" alone names the command; a whole line has its arguments too.
      if (given.length > 0) expect(() => parse(command, given)).not.toThrow();
      else expect(needed).toBeLessThanOrEqual(1);
    }
  });
});

const keys = new Set(configKeys().map(({ path }) => path.filter((part) => part !== '[]').join('.')));
const sections = new Set([...keys].filter((key) => key.includes('.')).map((key) => key.split('.')[0]));
test('a key in a hint is a key of the configuration', () => {
  const named = hints.flatMap((hint) =>
    [...hint.matchAll(/(?<![\w./-])([a-z_]+)((?:\.[a-z_]+)+)(?![\w/.]*\()/g)].flatMap(
      ([key, section = '']) => (sections.has(section) ? [key] : []),
    ),
  );
  expect(named.length).toBeGreaterThan(5);
  expect(named.filter((key) => !keys.has(key) && !/^handlers\.|NAME/.test(key))).toEqual([]);
});

test('a document in a hint exists', () => {
  const named = hints.flatMap((hint) => [...hint.matchAll(/docs\/[\w/.-]+\.md/g)].map(([path]) => path));
  expect(named.length).toBeGreaterThan(1);
  expect(named.filter((path) => !existsSync(path))).toEqual([]);
});
