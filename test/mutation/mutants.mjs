// Makes the mutants of a source file: small faults of the kinds that programmers make.
// All of them are compiled into one text, each behind a switch, so that a file is
// transformed once and not once per mutant: `a < b` becomes
// `(globalThis.mutant(7) ? a <= b : a < b)`.
import ts from 'typescript';

/**
 * @typedef {object} Mutant
 * @property {number} id what globalThis.mutant() is asked with
 * @property {string} file
 * @property {number} line from 1
 * @property {string} where the name of the function around it, or "module"
 * @property {string} before
 * @property {string} after
 */

const comparisons = { '<': '<=', '<=': '<', '>': '>=', '>=': '>', '===': '!==', '!==': '===' };
const operators = {
  ...comparisons,
  '&&': '||',
  '||': '&&',
  '+': '-',
  '-': '+',
  '*': '/',
  '/': '*',
  '%': '*',
  '<<': '>>',
  '|': '&',
  '&': '|',
  '+=': '-=',
  '-=': '+=',
};
/** In a longer table only the first and the last string get a mutant: all rows are of one kind. */
const longTable = 8;

/** What mutate() asks for the types of `files`: a fault that the compiler or the linter sees needs no test. */
export function programOf(files) {
  const { config } = ts.readConfigFile('tsconfig.json', ts.sys.readFile);
  const { options } = ts.convertCompilerOptionsFromJson(config.compilerOptions, '.');
  return ts.createProgram(files, options);
}

/**
 * @param {ts.Program} program
 * @param {string} file one of the program's
 * @param {number} firstId
 * @returns {{ mutants: Mutant[], text: string }} the mutants, and the text with all of them in it
 */
export function mutate(program, file, firstId) {
  const checker = program.getTypeChecker();
  const source = program.getSourceFile(file);
  const { text } = source;
  const mutants = [];
  /** @type {Map<ts.Node, { id: number, text: string }[]>} */
  const alternatives = new Map();
  /** @type {Map<ts.Node, number>} */
  const dropped = new Map();
  const textOf = (node) => node.getText(source);

  function add(node, before, after) {
    const id = firstId + mutants.length;
    const line = source.getLineAndCharacterOfPosition(node.getStart(source)).line + 1;
    const short = (code) => code.replaceAll(/\s+/g, ' ');
    mutants.push({ id, file, line, where: functionAround(node), before: short(before), after: short(after) });
    return id;
  }
  const put = (node, id, code) =>
    alternatives.set(node, [...(alternatives.get(node) ?? []), { id, text: code }]);
  /** Shown within `context`, where the node alone says nothing. */
  const replace = (node, code, context = node) => {
    const before = textOf(context);
    const at = node.getStart(source) - context.getStart(source);
    const after = before.slice(0, at) + code + before.slice(at + textOf(node).length);
    put(node, add(node, ...around(before, after)), code);
  };
  const swap = (first, second, before, after) => {
    const id = add(first, before, after);
    put(first, id, textOf(second));
    put(second, id, textOf(first));
  };

  function visit(node) {
    if (isNoCode(node) || isLogging(node)) return;
    if (ts.isCallExpression(node) && textOf(node.expression) === 'withLogContext') {
      visit(node.arguments[1]);
      return;
    }
    if (isPartOfChain(node)) {
      ts.forEachChild(node, visit);
      return;
    }
    if (ts.isExpressionStatement(node)) {
      if (isEffect(node.expression)) dropped.set(node, add(node, textOf(node), '(nothing)'));
    } else if (ts.isIfStatement(node) && onlyLogs(node)) {
      ts.forEachChild(node.expression, visit);
      return;
    } else if (ts.isIfStatement(node)) {
      if (!node.elseStatement && leaves(node.thenStatement))
        put(node.expression, add(node, brief(textOf(node)), '(nothing)'), 'false');
      else if (!negatesItself(node.expression)) negate(node.expression);
    } else if (ts.isConditionalExpression(node)) {
      if (!negatesItself(node.condition)) negate(node.condition);
    } else if ((ts.isWhileStatement(node) || ts.isDoStatement(node)) && !isTrue(node.expression)) {
      replace(node.expression, 'false');
    } else if (ts.isForStatement(node) && node.condition) {
      put(node.condition, add(node.condition, textOf(node.condition), 'false'), 'false');
    } else if (ts.isBinaryExpression(node)) {
      mutateOperator(node);
    } else if (ts.isPrefixUnaryExpression(node) && node.operator === ts.SyntaxKind.ExclamationToken) {
      replace(node, textOf(node.operand));
    } else if (ts.isAwaitExpression(node)) {
      // Elsewhere the compiler sees it, and without `void` the linter does.
      if (ts.isExpressionStatement(node.parent)) replace(node, `void ${textOf(node.expression)}`);
      else if (ts.isReturnStatement(node.parent)) replace(node, textOf(node.expression));
    } else if (ts.isCallExpression(node) || ts.isNewExpression(node)) {
      // As if nobody had thought of the lock.
      if (/\blocks\.with$/.test(textOf(node.expression))) replace(node, `(${textOf(node.arguments[1])})()`);
      if (!isSymmetric(node)) swapNeighbours(node.arguments ?? [], brief(textOf(node)));
    } else if (ts.isObjectLiteralExpression(node)) {
      swapProperties(node);
    } else if (ts.isArrayLiteralExpression(node)) {
      if (node.elements.length > 0 && !isPattern(node) && !isPart(node) && !isTuple(node))
        put(node, add(node, brief(textOf(node)), '[]'), '[]');
    } else mutateLiteral(node);
    ts.forEachChild(node, visit);
  }

  function negate(condition) {
    put(condition, add(condition, textOf(condition), `!(${textOf(condition)})`), `!(${textOf(condition)})`);
  }

  function mutateOperator(node) {
    const operator = textOf(node.operatorToken);
    const [left, right] = [textOf(node.left), textOf(node.right)];
    if (operator === '??') {
      const wanted = checker.getContextualType(node);
      const given = checker.getTypeAtLocation(node.left);
      if (!wanted || checker.isTypeAssignableTo(given, wanted)) replace(node, left);
    } else if (
      operators[operator] &&
      !(operator.startsWith('+') && (isText(node.left) || isText(node.right)))
    )
      replace(node, `${left} ${operators[operator]} ${right}`);
  }

  /** Whether the order of the arguments has no effect. */
  function isSymmetric({ expression }) {
    return /^(Math\.(max|min)|isDeepStrictEqual)$/.test(textOf(expression));
  }

  /** Two arguments side by side that could be mistaken for each other. */
  function swapNeighbours(args, before) {
    for (const [index, first] of args.entries()) {
      const second = args[index + 1];
      if (!second || !isName(first) || !isName(second) || textOf(first) === textOf(second)) continue;
      if (!interchangeable(first, second)) continue;
      swap(first, second, before, `(${textOf(first)} and ${textOf(second)} swapped)`);
    }
  }

  function swapProperties(object) {
    for (const [index, first] of object.properties.entries()) {
      const second = object.properties[index + 1];
      if (!second || !ts.isPropertyAssignment(first) || !ts.isPropertyAssignment(second)) continue;
      const [a, b] = [first.initializer, second.initializer];
      if (a.kind !== b.kind || !(isName(a) || ts.isCallExpression(a)) || textOf(a) === textOf(b)) continue;
      if (ts.isCallExpression(a) && textOf(a.expression) !== textOf(b.expression)) continue;
      if (!interchangeable(a, b)) continue;
      swap(a, b, brief(`${textOf(first)}, ${textOf(second)}`), '(values swapped)');
    }
  }

  function interchangeable(...nodes) {
    const [a, b] = nodes.map((node) => checker.getBaseTypeOfLiteralType(checker.getTypeAtLocation(node)));
    return checker.isTypeAssignableTo(a, b) && checker.isTypeAssignableTo(b, a);
  }

  /** Whether any string may stand there: a member of a union of literals may not be another text. */
  function takesAnyString(node) {
    const type = ts.isCaseClause(node.parent)
      ? checker.getTypeAtLocation(node.parent.parent.parent.expression)
      : checker.getContextualType(node);
    return type === undefined || checker.isTypeAssignableTo(checker.getStringType(), type);
  }

  /** The compiler refuses an empty array there. */
  function isTuple(node) {
    const type = checker.getContextualType(node);
    return type !== undefined && checker.isTupleType(type) && type.target.minLength > 0;
  }

  function mutateLiteral(node) {
    const { parent } = node;
    // A comparison has mutants enough.
    if (parent && ts.isBinaryExpression(parent) && comparisons[textOf(parent.operatorToken)]) return;
    if (ts.isNumericLiteral(node) && !isKey(node)) replace(node, otherNumber(textOf(node)), lineOf(node));
    else if (ts.isBigIntLiteral(node))
      replace(node, `${BigInt(textOf(node).slice(0, -1).replaceAll('_', '')) + 1n}n`, lineOf(node));
    else if (node.kind === ts.SyntaxKind.TrueKeyword) replace(node, 'false', lineOf(node));
    else if (node.kind === ts.SyntaxKind.FalseKeyword) replace(node, 'true', lineOf(node));
    else if (ts.isStringLiteralLike(node) || ts.isTemplateExpression(node)) {
      // Text with a space is for people; its wording is nobody's contract.
      if (textOf(node).includes(' ') || isKey(node) || isMessage(node)) return;
      if (ts.isArrayLiteralExpression(parent) && parent.elements.length > longTable) {
        if (node !== parent.elements[0] && node !== parent.elements.at(-1)) return;
      }
      const matters =
        ts.isArrayLiteralExpression(parent) ||
        ts.isCaseClause(parent) ||
        ts.isPropertyAssignment(parent) ||
        ts.isCallExpression(parent) ||
        ts.isConditionalExpression(parent) ||
        ts.isReturnStatement(parent) ||
        (ts.isBinaryExpression(parent) && parent.operatorToken.kind === ts.SyntaxKind.QuestionQuestionToken);
      if (matters && takesAnyString(node))
        replace(node, textOf(node).length > 2 ? "''" : "'mutant'", lineOf(node));
    }
  }

  /** What a literal is shown in: alone it says nothing. */
  function lineOf(node) {
    let around = node.parent;
    while (around.parent && textOf(around).length < 12 && !ts.isStatement(around)) around = around.parent;
    return around;
  }

  function render(node) {
    let out = '';
    let at = node.getStart(source);
    for (const child of childrenOf(node)) {
      const start = child.getStart(source);
      out += text.slice(at, start) + render(child);
      at = child.end;
    }
    out += text.slice(at, node.end);
    const id = dropped.get(node);
    if (id !== undefined) out = `{ if (!globalThis.mutant(${id})) ${out} }`;
    const others = alternatives.get(node);
    if (!others) return out;
    return `(${others.map((other) => `globalThis.mutant(${other.id}) ? ${other.text} : `).join('')}${out})`;
  }

  ts.forEachChild(source, visit);
  return { mutants, text: text.slice(0, source.getStart(source)) + render(source) };

  function functionAround(node) {
    for (let at = node.parent; at; at = at.parent) {
      if ((ts.isFunctionLike(at) || ts.isClassLike(at)) && at.name) return textOf(at.name);
      if (ts.isConstructorDeclaration(at))
        return `${at.parent.name ? textOf(at.parent.name) : ''}.constructor`;
      if (ts.isVariableDeclaration(at) && ts.isSourceFile(at.parent.parent.parent)) return textOf(at.name);
    }
    return 'module';
  }

  function isEffect(expression) {
    const inner =
      ts.isAwaitExpression(expression) || ts.isVoidExpression(expression)
        ? expression.expression
        : expression;
    if (ts.isCallExpression(inner)) return !isLogging(inner) && textOf(inner.expression) !== 'super';
    if (ts.isDeleteExpression(inner)) return true;
    return ts.isBinaryExpression(inner) && ts.isAssignmentOperator(inner.operatorToken.kind);
  }

  /** Whether it is the name of a step or a repair, or the stage or hint of an error. */
  function isMessage({ parent }) {
    if (ts.isPropertyAssignment(parent)) return ['stage', 'hint'].includes(textOf(parent.name));
    return (
      ts.isCallExpression(parent) && /^undo\.push$|^(step|withUndo|repaired)$/.test(textOf(parent.expression))
    );
  }

  /** Whether a condition decides only about a line of the log. */
  function onlyLogs({ thenStatement, elseStatement }) {
    const [only, ...more] = ts.isBlock(thenStatement) ? thenStatement.statements : [thenStatement];
    return (
      !elseStatement &&
      more.length === 0 &&
      only !== undefined &&
      ts.isExpressionStatement(only) &&
      isLogging(only.expression)
    );
  }

  /** Nothing in a line of the log is tried. */
  function isLogging(node) {
    return ts.isCallExpression(node) && /^(log|this\.log)\.|^addLogContext$/.test(textOf(node.expression));
  }
}

function brief(code) {
  const short = code.replaceAll(/\s+/g, ' ');
  return short.length > 100 ? `${short.slice(0, 97)}...` : short;
}

/** Both texts, cut to the place where they differ. */
function around(before, after) {
  const [a, b] = [before, after].map((code) => code.replaceAll(/\s+/g, ' '));
  if (a.length <= 100) return [a, b];
  let at = 0;
  while (a[at] === b[at]) at++;
  const from = Math.max(0, at - 40);
  const cut = (code) =>
    (from > 0 ? '...' : '') + code.slice(from, from + 90) + (code.length > from + 90 ? '...' : '');
  return [cut(a), cut(b)];
}

function childrenOf(node) {
  const children = [];
  if (!isNoCode(node)) ts.forEachChild(node, (child) => void children.push(child));
  return children.sort((a, b) => a.pos - b.pos);
}

function isNoCode(node) {
  return ts.isTypeNode(node) || ts.isImportDeclaration(node) || ts.isExportDeclaration(node) ||
    ts.isInterfaceDeclaration(node) || ts.isTypeAliasDeclaration(node); // prettier-ignore
}

/** `a?.f(x, y).g` ends as a whole where a is undefined, so nothing within it can be put in parentheses. */
function isPartOfChain(node) {
  const { parent } = node;
  return (
    parent !== undefined && (parent.flags & ts.NodeFlags.OptionalChain) !== 0 && parent.expression === node
  );
}

function isName(node) {
  return ts.isIdentifier(node) || ts.isPropertyAccessExpression(node);
}

function isText(node) {
  return ts.isStringLiteralLike(node) || ts.isTemplateExpression(node);
}

function isTrue(node) {
  return node.kind === ts.SyntaxKind.TrueKeyword;
}

/** Of an array of arrays. */
function isPart(node) {
  return ts.isArrayLiteralExpression(node.parent);
}

function isPattern(node) {
  const { parent } = node;
  return (ts.isBinaryExpression(parent) && parent.left === node) || ts.isForOfStatement(parent);
}

function isKey(node) {
  const { parent } = node;
  return (
    ((ts.isPropertyAssignment(parent) || ts.isPropertyDeclaration(parent)) && parent.name === node) ||
    ts.isComputedPropertyName(parent) ||
    (ts.isCallExpression(parent) && parent.expression.kind === ts.SyntaxKind.ImportKeyword)
  );
}

/** A condition that has mutants of its own which are harder to notice than its negation. */
function negatesItself(node) {
  if (ts.isPrefixUnaryExpression(node)) return node.operator === ts.SyntaxKind.ExclamationToken;
  return ts.isBinaryExpression(node) && operators[node.operatorToken.getText()] !== undefined;
}

/** Whether it only leaves: return, throw, continue, break. */
function leaves(node) {
  const [only, ...more] = ts.isBlock(node) ? node.statements : [node];
  return (
    only !== undefined &&
    more.length === 0 &&
    (ts.isReturnStatement(only) ||
      ts.isThrowStatement(only) ||
      ts.isContinueStatement(only) ||
      ts.isBreakStatement(only))
  );
}

/** Modes are opened, large numbers doubled, small ones one more. */
function otherNumber(code) {
  const value = Number(code.replaceAll('_', ''));
  if (/^0o/i.test(code)) {
    const opened = value | 0o666;
    return `0o${(opened === value ? value & 0o700 : opened).toString(8)}`;
  }
  if (value === 1) return '0';
  return String(value >= 100 ? value * 2 : value + 1);
}
