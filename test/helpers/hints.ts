// The hints of errors, as the sources write them: NAME and VMID stand for a value.

/** Matches a message that has the hint. A test that calls it does next what the hint says (src/hints.test.ts). */
export function hintPattern(hint: string): RegExp {
  const text = hint.replace(/[.*+?^${}()|[\]\\]/g, '\\$&').replace(/NAME|VMID/g, '.+?');
  return new RegExp(`hint: ${text}`, 's');
}
