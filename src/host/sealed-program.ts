// A program that runs from a sealed copy in memory.
//
// A container can open the file of the runtime, which runs in it for a moment, by /proc/PID/exe. So that it
// cannot write there (CVE-2019-5736), crun runs itself again from a read-only mount, which takes as long as
// the rest of its start, and changes the host's table of mounts twice. It does not if it already runs from a
// sealed file in memory (its cloned_binary.c, from runc): one copy is enough for all of its starts.
//
// Every container can reach the copy, by the entrypoint /proc/self/exe. One with the mode 0 would end all
// starts on the node, so it is immutable as well; its owner could make all starts wait by a lease
// (F_SETLEASE of fcntl(2)), so that is an id without processes.
import { closeSync, constants, fchownSync, readFileSync, statSync, writeSync } from 'node:fs';
import { basename } from 'node:path';
import { log } from '../log.js';
import { programFile, seal } from './syscalls.js';

/** crun has half a MiB; the memory is kept as long as crisp or a monitor with the descriptor runs. */
const mostBytes = 4 << 20;
const elfMagic = Buffer.from('\x7fELF');
/** The last uid and gid; Kubernetes allows none above 2^31 - 1. */
const unusedId = 0xffff_fffe;
/** The variable that such a program sets before it runs itself again. */
const runsItselfAgain = '_LIBCONTAINER_CLONED_BINARY';

/**
 * Copies a program.
 * @returns a descriptor of the copy; undefined: the program does not run itself again, is large, a script or
 * not executable, or the kernel does not run or protect files in memory
 */
export function sealedProgram(path: string): number | undefined {
  let file: number | undefined;
  try {
    const found = statSync(path);
    if ((found.mode & constants.S_IXUSR) === 0 || found.size > mostBytes) return undefined;
    const bytes = readFileSync(path);
    if (!bytes.subarray(0, elfMagic.length).equals(elfMagic) || !bytes.includes(runsItselfAgain))
      return undefined;
    file = programFile(basename(path));
    for (let written = 0; written < bytes.length;) written += writeSync(file, bytes, written);
    fchownSync(file, unusedId, unusedId);
    seal(file);
    return file;
  } catch (error) {
    log.info({ err: error, path }, 'no copy of a program in memory: the program is run from its file');
    if (file !== undefined) closeSync(file);
    return undefined;
  }
}
