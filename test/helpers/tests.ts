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

/** The text of each expectation of a test, and of each row of its tables, without the nodes that are left out. */
export function assertionsOf(test: ts.CallExpression, isLeftOut: (node: ts.Node) => boolean): string[] {
  const texts: string[] = [];
  const visit = (node: ts.Node): void => {
    if (isExpectation(node) || isRow(node, test)) texts.push(textWithout(node, isLeftOut));
    else ts.forEachChild(node, visit);
  };
  visit(test);
  return texts;
}

/** expect(…) with all that is called on it. */
function isExpectation(node: ts.Node): boolean {
  let at = node;
  while (ts.isCallExpression(at) || ts.isPropertyAccessExpression(at)) at = at.expression;
  return ts.isCallExpression(node) && /^expect(Soon)?$/.test(at.getText());
}

/** An element of an array that test.each() or a loop goes through. */
function isRow(node: ts.Node, test: ts.CallExpression): boolean {
  if (!ts.isArrayLiteralExpression(node.parent)) return false;
  let table: ts.Node = node.parent;
  while (ts.isAsExpression(table.parent)) table = table.parent;
  return (
    ts.isForOfStatement(table.parent) ||
    (ts.isCallExpression(table.parent) && table.parent === test.expression)
  );
}

function textWithout(node: ts.Node, isLeftOut: (node: ts.Node) => boolean): string {
  if (isLeftOut(node)) return '';
  const source = node.getSourceFile().text;
  let text = '';
  let from = node.getStart();
  node.forEachChild((child) => {
    text += source.slice(from, child.getStart()) + textWithout(child, isLeftOut);
    from = child.getEnd();
  });
  return text + source.slice(from, node.getEnd());
}

/** The titles of the tests of a file that run, and have this word in an expectation, or in a constant that one uses. */
export function testsThatSay(path: string, text: string, word: string): string[] {
  const source = ts.createSourceFile(path, text, ts.ScriptTarget.Latest, true);
  const tests: ts.CallExpression[] = [];
  const words = [word];
  const visit = (node: ts.Node): void => {
    if (isTest(node) && asserts(node)) tests.push(node);
    if (isLiteral(node) && hasWord(node.getText(), word)) words.push(...constantAround(node));
    ts.forEachChild(node, visit);
  };
  visit(source);
  return tests
    .filter((test) => assertionsOf(test, () => false).some((said) => words.some((one) => hasWord(said, one))))
    .map((test) => test.arguments[0]?.getText() ?? '');
}

function hasWord(text: string, word: string): boolean {
  return new RegExp(`\\b${word}\\b`).test(text);
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
