// Seccomp filters, compiled by libseccomp.
//
// A runtime compiles the profile for every container again, which takes most of
// the time of its create: some 15 ms for the default profile with the 32-bit
// calls of x86. The filter depends only on the profile, so the daemon compiles
// each profile once, with the same calls as crun (libcrun_generate_seccomp).
import koffi from 'koffi';
import { closeSync, fstatSync, readSync } from 'node:fs';
import { setImmediate as nextTurn } from 'node:timers/promises';
import type { Seccomp } from '../shapes/spec.js';
import { memoryFile } from './syscalls.js';

type Rule = NonNullable<Seccomp['syscalls']>[number];

/** seccomp.h of libseccomp; an errno is added to actions that have one. */
const actions: Readonly<Record<string, number>> = {
  SCMP_ACT_KILL: 0,
  SCMP_ACT_KILL_THREAD: 0,
  SCMP_ACT_KILL_PROCESS: 0x8000_0000,
  SCMP_ACT_TRAP: 0x0003_0000,
  SCMP_ACT_ERRNO: 0x0005_0000,
  SCMP_ACT_TRACE: 0x7ff0_0000,
  SCMP_ACT_LOG: 0x7ffc_0000,
  SCMP_ACT_ALLOW: 0x7fff_0000,
};
const operators: Readonly<Record<string, number>> = {
  SCMP_CMP_NE: 1,
  SCMP_CMP_LT: 2,
  SCMP_CMP_LE: 3,
  SCMP_CMP_EQ: 4,
  SCMP_CMP_GE: 5,
  SCMP_CMP_GT: 6,
  SCMP_CMP_MASKED_EQ: 7,
};
const EPERM = 1;
const unknownCall = -1; // __NR_SCMP_ERROR

/** The number of names in all rules: the time grows with its square. The default profile has 445. */
const mostNames = 1024;
/** The number of names between two turns of the event loop: a millisecond. */
const namesAtOnce = 32;

/**
 * The filter of a profile, as an array of struct sock_filter.
 * @returns undefined if the runtime has to compile it: libseccomp is not installed, the profile is
 * unusually long, or it uses an unsupported feature (a listener, an action, several conditions on one
 * argument)
 */
export async function compileSeccomp(profile: Seccomp): Promise<Buffer | undefined> {
  const lib = library();
  const defaultAction = actionOf(profile.defaultAction, profile.defaultErrnoRet);
  const rules = (profile.syscalls ?? []).map((rule) => ({
    names: rule.names,
    action: actionOf(rule.action, rule.errnoRet),
    conditions: conditionsOf(rule),
    count: rule.args?.length ?? 0,
  }));
  const names = rules.reduce((sum, rule) => sum + rule.names.length, 0);
  if (!lib || profile.listenerPath || defaultAction === undefined || names > mostNames) return undefined;

  const context = lib.init(defaultAction) as unknown;
  if (!context) return undefined;
  try {
    for (const name of profile.architectures ?? []) {
      const architecture = lib.architecture(name.replace(/^SCMP_ARCH_/, '').toLowerCase()) as number;
      const result = architecture === 0 ? -1 : (lib.addArchitecture(context, architecture) as number);
      if (result < 0 && result !== alreadyThere) return undefined;
    }
    let added = 0;
    for (const { names, action, conditions, count } of rules) {
      if (action === undefined || conditions === undefined) return undefined;
      if (action === defaultAction) continue;
      for (const name of names) {
        if (++added % namesAtOnce === 0) await nextTurn();
        const call = lib.call(name) as number;
        if (call === unknownCall) continue; // newer than libseccomp: the default action applies
        if ((lib.addRule(context, action, call, count, conditions) as number) < 0) return undefined;
      }
    }
    return await exported(lib, context);
  } finally {
    lib.release(context);
  }
}
const alreadyThere = -17; // EEXIST: the native architecture is always present

function actionOf(name: string, errno = EPERM): number | undefined {
  const action = actions[name];
  return action !== undefined && ['SCMP_ACT_ERRNO', 'SCMP_ACT_TRACE'].includes(name)
    ? action + (errno & 0xffff)
    : action;
}

/** An array of struct scmp_arg_cmp; undefined: runtimes make several rules of the conditions. */
function conditionsOf({ args = [] }: Rule): Buffer | undefined {
  if (new Set(args.map(({ index }) => index)).size < args.length) return undefined;
  const bytes = Buffer.alloc(24 * args.length);
  for (const [index, { index: argument, op, value, valueTwo = 0 }] of args.entries()) {
    const operator = operators[op];
    if (operator === undefined) return undefined;
    bytes.writeUInt32LE(argument, 24 * index);
    bytes.writeUInt32LE(operator, 24 * index + 4);
    bytes.writeBigUInt64LE(BigInt(value), 24 * index + 8);
    bytes.writeBigUInt64LE(BigInt(valueTwo), 24 * index + 16);
  }
  return bytes;
}

/** On another thread: writing the filter takes as long as adding all rules. */
async function exported(lib: Library, context: unknown): Promise<Buffer | undefined> {
  const file = memoryFile('seccomp');
  try {
    const result = await new Promise<number>((resolve, reject) => {
      lib.export.async(context, file, (error: Error | null, value: number) =>
        error ? reject(error) : resolve(value),
      );
    });
    if (result < 0) return undefined;
    const program = Buffer.alloc(fstatSync(file).size);
    readSync(file, program, 0, program.length, 0);
    return program;
  } finally {
    closeSync(file);
  }
}

type Library = NonNullable<ReturnType<typeof load>>;
let loaded: Library | null | undefined;

function library(): Library | null {
  return (loaded ??= load());
}

function load() {
  try {
    const lib = koffi.load('libseccomp.so.2');
    return {
      init: lib.func('void *seccomp_init(uint32_t action)'),
      release: lib.func('void seccomp_release(void *context)'),
      architecture: lib.func('uint32_t seccomp_arch_resolve_name(const char *name)'),
      addArchitecture: lib.func('int seccomp_arch_add(void *context, uint32_t architecture)'),
      call: lib.func('int seccomp_syscall_resolve_name(const char *name)'),
      addRule: lib.func(
        'int seccomp_rule_add_array(void *context, uint32_t action, int call, unsigned int count, const void *conditions)',
      ),
      export: lib.func('int seccomp_export_bpf(const void *context, int fd)'),
    };
  } catch {
    return null; // not installed: a runtime without it refuses the profile itself
  }
}
