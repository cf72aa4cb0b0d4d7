// What no text of a request may hold, whatever it is for. Called by serve.ts
// before a story gets its request.
import { CrispError } from '../errors.js';

/**
 * A NUL byte ends a text in every path, argument, environment entry and file name
 * (open(2), execve(2)), so what is behind it would be checked here and not be
 * there for the kernel. Texts in fields of type bytes are checked where they are used.
 * @throws InvalidArgument naming the field
 */
export function refuseNul(value: unknown, field = ''): void {
  if (typeof value === 'string') {
    if (value.includes('\0')) throw new CrispError('InvalidArgument', `${field} has a NUL byte in it`);
  } else if (typeof value === 'object' && value !== null && !ArrayBuffer.isView(value)) {
    for (const [key, inner] of Object.entries(value)) {
      const name = Array.isArray(value) ? `${field}[${key}]` : field ? `${field}.${key}` : key;
      if (key.includes('\0'))
        throw new CrispError('InvalidArgument', `${field} has a key with a NUL byte in it`);
      refuseNul(inner, name);
    }
  }
}
