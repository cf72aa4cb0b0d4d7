// `crisp top CONTAINER`: the processes of a standalone container, as the host sees them.
import { CrispError, cut, escapeControls } from '../errors.js';
import { cgroupProcesses } from '../host/cgroup.js';
import { isAbsent, readText } from '../host/files.js';
import { refOf } from '../records/standalone.js';
import { stateOf } from './container-state.js';
import { printJson, table } from './output.js';
import type { Services } from './services.js';

interface Process {
  /** As seen on the host, like the parent and the uid. */
  readonly pid: number;
  readonly parent: number;
  readonly uid: number;
  readonly cpuSeconds: number;
  readonly command: string;
}

/** USER_HZ, the unit of times in /proc/PID/stat (proc(5)): 100 on all architectures that Node runs on. */
const ticksPerSecond = 100;
const maxCommandBytes = 4096;
/** Above the maximum size of a process's arguments (execve(2): three quarters of 8 MiB). */
const maxFileBytes = 8 << 20;

/** @throws ContainerNotFound, WrongContainerState */
export async function showProcesses(services: Services, id: string, json: boolean): Promise<void> {
  const record = await services.records.find(id);
  const { status } = await stateOf(services, record);
  if (status !== 'running')
    throw new CrispError(
      'WrongContainerState',
      `container ${record.name} has no processes: it is ${status}`,
      { hint: '`crisp list` shows which ones run' },
    );
  const pids = await cgroupProcesses(services.backendOf(record).cgroup(refOf(record)));
  const found = (await Promise.all(pids.map(processOf))).flatMap((one) => one ?? []);
  if (json) printJson(found);
  else
    process.stdout.write(
      table(
        ['PID', 'PARENT', 'UID', 'CPU', 'COMMAND'],
        found.map(({ pid, parent, uid, cpuSeconds, command }) => [
          ...[pid, parent, uid].map(String),
          `${cpuSeconds.toFixed(2)} s`,
          command,
        ]),
      ),
    );
}

/** undefined: it has ended meanwhile. */
async function processOf(pid: number): Promise<Process | undefined> {
  try {
    const read = (file: string): Promise<string> =>
      readText(`/proc/${pid}/${file}`, { maxBytes: maxFileBytes });
    const [stat, status, words] = await Promise.all(['stat', 'status', 'cmdline'].map(read));
    const name = /\((.*)\)/s.exec(stat ?? '')?.[1] ?? '';
    const fields = (stat ?? '')
      .slice((stat ?? '').lastIndexOf(')') + 2)
      .split(' ')
      .map(Number);
    return {
      pid,
      parent: fields[1] ?? 0,
      uid: Number(/^Uid:\t(\d+)/m.exec(status ?? '')?.[1]),
      cpuSeconds: ((fields[11] ?? 0) + (fields[12] ?? 0)) / ticksPerSecond,
      command: cut(
        escapeControls(words?.replace(/\0$/, '').replaceAll('\0', ' ') || `[${name}]`),
        maxCommandBytes,
      ),
    };
  } catch (error) {
    if (isAbsent(error) || (error as NodeJS.ErrnoException).code === 'ESRCH') return undefined;
    throw error;
  }
}
