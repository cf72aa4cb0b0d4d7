// Parses the tests of a source file, for the tests that compare a table with tests: a
// word in a comment or in a skipped test is no proof.
import ts from 'typescript';

/** The call of test(), or of test.each(…)(), that this stands in; undefined: a helper, a table or a hook. */
export function testAround(node: ts.Node): ts.CallExpression | undefined {
  for (let at: ts.Node | undefined = node; at; at = at.parent) if (isTest(at)) return at;
  return undefined;
}

/** Whether a test runs on every machine, and expects something. */
export function asserts(test: ts.CallExpression): boolean {
  for (let at: ts.Node | undefined = test; at; at = at.parent)
    if (
      ts.isCallExpression(at) &&
      /^(test|describe)\.(skip|todo)\b|^x(test|describe)\b/.test(at.expression.getText())
    )
      return false;
  return /\bexpect(Soon|\.\w+)?\(/.test(test.getText());
}

/** The titles of the tests of a file that run, expect something, and have this word in a literal of theirs or of a constant that they use. */
export function testsThatSay(path: string, text: string, word: string): string[] {
  const source = ts.createSourceFile(path, text, ts.ScriptTarget.Latest, true);
  const tests = new Set<ts.CallExpression>();
  const saying = new Set<ts.CallExpression>();
  const constants: string[] = [];
  const visit = (node: ts.Node): void => {
    if (isTest(node) && asserts(node)) tests.add(node);
    if (isLiteral(node) && new RegExp(`\\b${word}\\b`).test(node.getText())) {
      const test = testAround(node);
      if (test) saying.add(test);
      else constants.push(...constantAround(node));
    }
    ts.forEachChild(node, visit);
  };
  visit(source);
  const uses = (test: ts.CallExpression): boolean =>
    constants.some((name) => new RegExp(`\\b${name}\\b`).test(test.getText()));
  return [...tests]
    .filter((test) => saying.has(test) || uses(test))
    .map((test) => test.arguments[0]?.getText() ?? '');
}

function isLiteral(node: ts.Node): boolean {
  return (
    ts.isStringLiteralLike(node) || ts.isRegularExpressionLiteral(node) || ts.isTemplateLiteralToken(node)
  );
}

function constantAround(node: ts.Node): string[] {
  for (let at: ts.Node | undefined = node; at; at = at.parent)
    if (ts.isVariableDeclaration(at)) return [at.name.getText()];
  return [];
}

function isTest(node: ts.Node): node is ts.CallExpression {
  return (
    ts.isCallExpression(node) &&
    /^(test|it)\b/.test(node.expression.getText()) &&
    ts.isStringLiteralLike(node.arguments[0] ?? node)
  );
}
