// Generic checks of every message of every call, in one place, before its
// function is called, based on the proto. Called by serve.ts.
//
// protobuf decodes any number for an enum and any length of a string or list, so
// the code could get values that its types do not allow.
import { CrispError } from '../errors.js';

/** The used part of a DescriptorProto (google/protobuf/descriptor.proto). */
export interface MessageType {
  readonly name: string;
  readonly field: readonly FieldType[];
  readonly nestedType: readonly MessageType[];
}
interface FieldType {
  readonly name: string;
  readonly label: string;
  readonly type: string;
  readonly typeName: string;
}

/** Entries of a list: a pod in a namespace of 5,000 services has 35,000 environment variables. */
const longestList = 65_536;
/**
 * Entries of a list of mounts, devices, ports and the like: each is checked on the host, which delays other
 * calls.
 */
const mostObjects = 4096;
/** Bytes of a path (PATH_MAX including the NUL byte, limits.h). */
const longestPath = 4095;
/** Bytes of one argument or environment variable (MAX_ARG_STRLEN including the NUL byte, linux/binfmts.h). */
const longestArgument = 131_071;
/**
 * Total bytes of the keys and values of a map (labels, annotations), and their number. They are
 * part of the answer to every list and of every event, and a client accepts 16 MiB for a whole
 * list. The API server accepts 256 KiB of annotations for a pod.
 */
const mostMapBytes = 512 << 10;
const mostMapEntries = 4096;
/** Bytes of anything else: names, ids, lists of CPUs. */
const longestWord = 4096;

const paths = /(?:_path|_dir|_directory|location|localhost_ref|cgroup_parent)$/;
const argumentFields = new Set([
  'args',
  'command',
  'cmd',
  'value',
  'password',
  'auth',
  'identity_token',
  'registry_token',
]);

type Check = (value: unknown, field: string) => void;

/** Builds the check of each message type on first use. */
export class RequestChecks {
  private readonly checks = new Map<string, Check>();

  /** @param typeOf a message of the package by its name, without the package */
  constructor(private readonly typeOf: (name: string) => MessageType) {}

  /**
   * @throws InvalidArgument naming the field: an unknown enum value, a NUL character, a value that is too
   * long
   */
  check(type: MessageType, request: unknown): void {
    this.of(type)(request, '');
  }

  private of(type: MessageType): Check {
    let known = this.checks.get(type.name);
    if (!known) {
      const fields = type.field.map((field): [string, Check] => [field.name, this.ofField(type, field)]);
      known = (value, path) => {
        for (const [name, check] of fields)
          check((value as Record<string, unknown>)[name], path ? `${path}.${name}` : name);
      };
      this.checks.set(type.name, known);
    }
    return known;
  }

  private ofField(parent: MessageType, field: FieldType): Check {
    const entry = parent.nestedType.find(({ name }) => name === lastName(field.typeName));
    if (entry) return ofMap(entry);
    const one = this.ofOne(field);
    if (field.label !== 'LABEL_REPEATED') return one;
    const most = field.type === 'TYPE_MESSAGE' && field.name !== 'envs' ? mostObjects : longestList;
    return (value, path) => {
      const items = value as readonly unknown[];
      if (items.length > most)
        throw invalid(path, `it has ${items.length} entries, and the maximum is ${most}`);
      items.forEach((item, index) => one(item, `${path}[${index}]`));
    };
  }

  private ofOne({ name, type, typeName }: FieldType): Check {
    if (type === 'TYPE_ENUM')
      return (value, path) => {
        if (typeof value !== 'string')
          throw invalid(path, `${String(value)} is not a value of ${lastName(typeName)}`);
      };
    if (type === 'TYPE_STRING') return ofText(longestOf(name));
    if (type === 'TYPE_BYTES')
      return (value, path) => {
        const bytes = value as Buffer;
        if (bytes.length > longestArgument)
          throw invalid(path, `it has ${bytes.length} bytes, and the maximum is ${longestArgument}`);
        if (bytes.includes(0))
          throw invalid(path, 'it contains a NUL byte, which ends every string in the kernel');
      };
    if (type === 'TYPE_MESSAGE')
      return (value, path) => {
        if (value) this.of(this.typeOf(lastName(typeName)))(value, path);
      };
    return () => undefined; // numbers and booleans are limited by their types
  }
}

/** Labels, annotations, sysctls and the like: all are maps of strings. */
function ofMap({ field }: MessageType): Check {
  const isText = field.some(({ name, type }) => name === 'value' && type === 'TYPE_STRING');
  const [key, text] = [ofText(longestWord), ofText(mostMapBytes)];
  return (value, path) => {
    const entries = Object.entries(value as Record<string, unknown>);
    if (entries.length > mostMapEntries)
      throw invalid(path, `it has ${entries.length} entries, and the maximum is ${mostMapEntries}`);
    let bytes = 0;
    for (const [name, item] of entries) {
      key(name, `a key of ${path}`);
      if (isText) text(item, `${path}["${name}"]`);
      bytes += Buffer.byteLength(name) + (isText ? Buffer.byteLength(item as string) : 0);
    }
    if (bytes > mostMapBytes)
      throw invalid(path, `it has ${bytes} bytes, and the maximum is ${mostMapBytes}`);
  };
}

function ofText(maxBytes: number): Check {
  return (value, path) => {
    const text = value as string;
    if (text.length * 3 > maxBytes && Buffer.byteLength(text) > maxBytes)
      throw invalid(path, `it has ${Buffer.byteLength(text)} bytes, and the maximum is ${maxBytes}`);
    if (text.includes('\0'))
      throw invalid(path, 'it contains a NUL character, which ends every string in the kernel');
  };
}

function longestOf(field: string): number {
  if (paths.test(field)) return longestPath;
  return argumentFields.has(field) ? longestArgument : longestWord;
}

function lastName(typeName: string): string {
  return typeName.slice(typeName.lastIndexOf('.') + 1);
}

function invalid(field: string, why: string): CrispError {
  return new CrispError('InvalidArgument', `${field}: ${why}`);
}
