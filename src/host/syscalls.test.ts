// What the calls do in the kernel, seen by Node or by other programs.
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import {
  closeSync,
  existsSync,
  fstatSync,
  openSync,
  readFileSync,
  readlinkSync,
  readSync,
  writeSync,
} from 'node:fs';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { constants, getPriority, setPriority, tmpdir } from 'node:os';
import { join } from 'node:path';
import { until } from '../../test/helpers/wait.js';
import { inNamespaces } from './enter.js';
import {
  attachMount,
  bytesWaiting,
  close,
  duplicateFrom,
  endOf,
  memoryFile,
  openProcess,
  openSocket,
  pipe,
  preferThread,
  reap,
  replaceDescriptor,
  sendDatagram,
  setInterfaceUp,
  setNamespace,
  signalDescriptor,
  spawnProcess,
  SystemError,
  unmountLazily,
  wordsOfErrno,
  type Exit,
} from './syscalls.js';

let folder: string;
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'crisp-calls-'));
});
afterEach(() => rm(folder, { recursive: true }));

const isOpen = (fd: number): boolean => {
  try {
    fstatSync(fd);
    return true;
  } catch {
    return false;
  }
};
const flagsOf = (fd: number): number =>
  parseInt(/^flags:\s*(\d+)/m.exec(readFileSync(`/proc/self/fdinfo/${fd}`, 'utf8'))?.[1] ?? '', 8);
/** FD_CLOEXEC: no program gets the descriptor. */
const closesOnExec = (fd: number): boolean => (flagsOf(fd) & 0o2000000) !== 0;

describe('an error', () => {
  test('has the name and the words of its errno, and what it was about', () => {
    const error = new SystemError('mount', constants.errno.ENOENT, '/target');
    expect(error).toMatchObject({
      code: 'ENOENT',
      syscall: 'mount',
      message: 'mount /target: No such file or directory',
    });
    expect(new SystemError('mount', 9_999)).toMatchObject({ code: 'errno 9999' });
    expect(wordsOfErrno(constants.errno.ECONNREFUSED)).toBe('Connection refused');
  });

  test('is that of the call that failed', () => {
    expect(() => duplicateFrom(-1, 0)).toThrow(expect.objectContaining({ syscall: 'fcntl', code: 'EBADF' }));
    expect(() => openProcess(2 ** 22 + 1)).toThrow(expect.objectContaining({ code: 'ESRCH' }));
    expect(() => setInterfaceUp('none')).toThrow(expect.objectContaining({ code: 'ENODEV' }));
    expect(() => sendDatagram(join(folder, 'none'), '')).toThrow(expect.objectContaining({ code: 'ENOENT' }));
  });
});

describe('a descriptor', () => {
  test('of a pipe reaches no program; its bytes are counted, and it is closed', () => {
    const { read, write } = pipe();
    expect([closesOnExec(read), closesOnExec(write)]).toEqual([true, true]);
    writeSync(write, 'seven b');
    expect(bytesWaiting(read)).toBe(7);
    const buffer = Buffer.alloc(3);
    readSync(read, buffer);
    expect([buffer.toString(), bytesWaiting(read)]).toEqual(['sev', 4]);
    close(read);
    close(write);
    expect([isOpen(read), isOpen(write)]).toEqual([false, false]);
  });

  test('is duplicated above a number, and replaced under its own', async () => {
    await writeFile(join(folder, 'a'), '');
    await writeFile(join(folder, 'b'), '');
    const [a, b] = [openSync(join(folder, 'a'), 'r'), openSync(join(folder, 'b'), 'r')];
    const copy = duplicateFrom(a, 100);
    expect(copy).toBeGreaterThanOrEqual(100);
    expect([readlinkSync(`/proc/self/fd/${copy}`), closesOnExec(copy)]).toEqual([join(folder, 'a'), true]);
    replaceDescriptor(b, copy);
    expect([readlinkSync(`/proc/self/fd/${copy}`), closesOnExec(copy)]).toEqual([join(folder, 'b'), true]);
    for (const fd of [a, b, copy]) closeSync(fd);
  });

  test('of a file in memory is a file with its name', () => {
    const fd = memoryFile('test');
    writeSync(fd, 'content');
    expect(readlinkSync(`/proc/self/fd/${fd}`)).toMatch(/^\/memfd:test/);
    expect([fstatSync(fd).size, closesOnExec(fd)]).toEqual([7, true]);
    closeSync(fd);
  });

  test('of a socket does not block, and reaches no program', () => {
    for (const [family, type] of [
      ['inet', 'stream'],
      ['inet6', 'stream'],
      ['unix', 'datagram'],
    ] as const) {
      const fd = openSocket(family, type);
      expect(readlinkSync(`/proc/self/fd/${fd}`)).toMatch(/^socket:/);
      expect(flagsOf(fd) & 0o2004000).toBe(0o2004000); // O_CLOEXEC, O_NONBLOCK
      close(fd);
    }
  });
});

describe('a process', () => {
  const ended = async (pid: number): Promise<Exit> => {
    let exit: Exit | undefined;
    await until(() => (exit = endOf(pid)) !== undefined);
    expect(endOf(pid)).toEqual(exit); // as long as it is a zombie
    reap(pid);
    await until(() => !existsSync(`/proc/${pid}`));
    return exit as Exit;
  };
  const start = (script: string, more: Partial<Parameters<typeof spawnProcess>[0]> = {}): Promise<number> =>
    spawnProcess({
      path: '/bin/sh',
      argv: ['sh', '-c', script],
      env: ['A=b'],
      cwd: undefined,
      descriptors: [undefined, undefined, undefined],
      session: false,
      ...more,
    });

  test('has the code or the signal of its end, once', async () => {
    expect(await ended(await start('exit 7'))).toEqual({ code: 7 });
    expect(await ended(await start('kill -USR1 $$'))).toEqual({ signal: 10 });
    const pid = await start('exec sleep 1000');
    expect(endOf(pid)).toBeUndefined();
    const descriptor = openProcess(pid);
    signalDescriptor(descriptor, 9);
    expect(await ended(pid)).toEqual({ signal: 9 });
    expect(() => signalDescriptor(descriptor, 9)).toThrow(expect.objectContaining({ code: 'ESRCH' }));
    expect(() => endOf(pid)).toThrow(expect.objectContaining({ code: 'ECHILD' }));
    close(descriptor);
  });

  test('has its arguments, environment, folder and descriptors', async () => {
    const file = join(folder, 'out');
    const fd = openSync(file, 'w');
    const script = 'echo "$0" "$A"; pwd; readlink /proc/$$/fd/0 /proc/$$/fd/2';
    const pid = await start(script, {
      argv: ['sh', '-c', script, 'name'],
      cwd: folder,
      descriptors: [undefined, fd, undefined, fd],
    });
    closeSync(fd);
    expect(await ended(pid)).toEqual({ code: 0 });
    expect((await readFile(file, 'utf8')).split('\n').slice(0, 4)).toEqual([
      'name b',
      folder,
      '/dev/null',
      '/dev/null',
    ]);
  });

  test('gets descriptors in any order, also those with numbers of each other', async () => {
    const [first, second] = [pipe(), pipe()];
    const low = [first.write, second.write].sort((a, b) => a - b);
    const padding = Array.from({ length: Math.max(...low) - 2 }, () => undefined);
    const pid = await start(`echo one >/proc/self/fd/${low[0]}; echo two >/proc/self/fd/${low[1]}`, {
      descriptors: [undefined, undefined, undefined, ...padding].map((_, index) =>
        index === low[0] ? low[1] : index === low[1] ? low[0] : undefined,
      ),
    });
    expect(await ended(pid)).toEqual({ code: 0 });
    const read = (fd: number): string => {
      expect(bytesWaiting(fd)).toBe(4); // otherwise it would block
      const buffer = Buffer.alloc(4);
      readSync(fd, buffer);
      return buffer.toString();
    };
    const [ofLow, ofHigh] = low[0] === first.write ? [first, second] : [second, first];
    expect([read(ofLow.read), read(ofHigh.read)]).toEqual(['two\n', 'one\n']);
    for (const fd of [first.read, first.write, second.read, second.write]) close(fd);
  });

  test.each([false, true])('leads a session of its own: %p', async (session) => {
    const file = join(folder, 'session');
    const pid = await start(`ps -o sid= -p $$ >${file}`, { session, env: ['PATH=/usr/bin:/bin'] });
    await ended(pid);
    expect(Number(await readFile(file, 'utf8')) === pid).toBe(session);
  });

  test.each([
    [{ path: '/no/such/program' }, 'ENOENT'],
    [{ cwd: '/no/such/folder' }, 'ENOENT'],
    [{ env: ['A=b\0c'] }, 'EINVAL'],
    [{ cwd: '/tmp\0x' }, 'EINVAL'],
  ])('that cannot be started is an error: %j', async (change, code) => {
    await expect(start('exit 0', change)).rejects.toMatchObject({ code });
  });
});

test('a datagram reaches the socket at a path, and one without a path', async () => {
  const abstract = `@crisp-calls-${process.pid}`;
  const script = (name: string): string =>
    `use Socket; socket(my $s, AF_UNIX, SOCK_DGRAM, 0); bind($s, pack_sockaddr_un("${name}")) or die; syswrite(STDOUT, "up"); recv($s, my $m, 100, 0); print $m`;
  for (const [path, name] of [
    [join(folder, 'socket'), join(folder, 'socket')],
    [abstract, `\\0${abstract.slice(1)}`],
  ] as const) {
    const receiver = spawn('perl', ['-e', script(name)], { stdio: ['ignore', 'pipe', 'inherit'] });
    await once(receiver.stdout, 'data');
    sendDatagram(path, 'READY=1');
    expect(String((await once(receiver.stdout, 'data'))[0])).toBe('READY=1');
  }
});

test('the priority of the thread is raised, but not that of its children', () => {
  const before = getPriority();
  try {
    preferThread(-3);
    expect(getPriority()).toBe(-3);
    expect(execFileSync('nice', { encoding: 'utf8' })).toBe('0\n');
  } finally {
    setPriority(before);
  }
});

test.each([
  ['umount2 /no/such: ', () => unmountLazily('/no/such')],
  ['move_mount /no/such: ', () => attachMount(-1, '/no/such')],
  ['setns: ', () => setNamespace(-1)],
])('an error names the call and the path: %s', (words, call) => {
  expect(call).toThrow(expect.objectContaining({ message: expect.stringMatching(`^${words}`) }));
});

test('an interface that is set up keeps its other flags, and the others are left alone', async () => {
  const script = 'ip link add v0 type veth peer name v1 && echo made && exec sleep 1000';
  const holder = spawn('unshare', ['--net', 'sh', '-c', script], { stdio: ['ignore', 'pipe', 'ignore'] });
  try {
    await once(holder.stdout, 'data');
    inNamespaces({ network: `/proc/${holder.pid}/ns/net` }, () => {
      for (const name of ['lo', 'v1']) setInterfaceUp(name);
    });
    const links = execFileSync('nsenter', ['-t', String(holder.pid), '-n', 'ip', '-o', 'link'], {
      encoding: 'utf8',
    });
    expect(links).toMatch(/ lo: <LOOPBACK,UP,LOWER_UP>/);
    expect(links).toMatch(/ v1@v0: <.*BROADCAST,MULTICAST,UP/);
    expect(links.match(/\bUP\b/g)).toHaveLength(2);
  } finally {
    holder.kill('SIGKILL');
    await once(holder, 'exit');
  }
});
