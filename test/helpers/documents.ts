// The commands of the documents: each fenced `sh` block of README.md, CONTRIBUTING.md
// and docs/ has a mark in a comment before it, which says how it is tested:
//
//   <!-- run -->               test/integration/documents.test.ts runs it as it stands
//   <!-- tested by FILE -->    FILE, a test, runs these commands
//   <!-- not run: REASON -->   nothing here can run it
import { readdirSync, readFileSync } from 'node:fs';

export interface Block {
  readonly document: string;
  /** Of the fence. */
  readonly line: number;
  readonly language: string;
  readonly text: string;
  /** undefined: no mark. */
  readonly mark: string | undefined;
}

/** Documents that people write; those made from tables in the code have tests of their own. */
export function documents(): string[] {
  const generated = /^docs\/(CLI_REFERENCE|architecture\/CONFORMANCE_REPORT)\.md$/;
  return ['README.md', 'CONTRIBUTING.md', 'SECURITY.md']
    .concat(
      readdirSync('docs', { recursive: true, encoding: 'utf8' })
        .filter((name) => name.endsWith('.md'))
        .map((name) => `docs/${name}`),
    )
    .filter((name) => !generated.test(name))
    .sort();
}

/** The fenced blocks of a document, from its top. */
export function blocksOf(document: string): Block[] {
  const blocks: Block[] = [];
  let before = '';
  let open:
    { line: number; indent: string; language: string; mark: string | undefined; text: string[] } | undefined;
  readFileSync(document, 'utf8')
    .split('\n')
    .forEach((line, index) => {
      const fence = /^( *)```(\S*)/.exec(line);
      if (open && fence) {
        blocks.push({ document, ...open, text: open.text.join('\n') });
        open = undefined;
        before = '';
      } else if (open) open.text.push(line.slice(open.indent.length));
      else if (fence)
        open = {
          line: index + 1,
          indent: fence[1] ?? '',
          language: fence[2] ?? '',
          mark: /^<!-- (.*) -->$/.exec(before)?.[1],
          text: [],
        };
      else if (line.trim() !== '') before = line.trim();
    });
  return blocks;
}
