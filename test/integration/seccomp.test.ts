// RuntimeDefault on real containers: a program makes the dangerous system calls,
// through each system call interface of the machine, and reports the results.
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { execFile } from 'node:child_process';
import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import type { LinuxContainerSecurityContext } from '../../src/cri/generated/runtime/v1/LinuxContainerSecurityContext.js';
import type { Spec } from '../../src/shapes/spec.js';
import { startDaemon, type Daemon } from '../helpers/daemon.js';
import {
  containerConfig,
  removePod,
  runPod,
  startContainer,
  testImage,
  untilStopped,
} from '../helpers/requests.js';

const run = promisify(execFile);
const EPERM = 1,
  ENOSYS = 38;

/**
 * The arguments are such that the kernel complains of them before it looks at
 * rights, wherever it does so: what a filter lets pass then fails with another
 * error than EPERM.
 */
const source = `
#if FACE == 32
#include <asm/unistd_32.h>
#elif FACE == 33
#define __X32_SYSCALL_BIT 0x40000000
#include <asm/unistd_x32.h>
#else
#include <sys/syscall.h>
#endif
#include <stdio.h>

#if FACE == 32
static long call(long nr, long a, long b, long c, long d, long e) {
  long result;
  register long r8 __asm__("r8"), r9 __asm__("r9"), r10 __asm__("r10"), r11 __asm__("r11");
  __asm__ volatile("int $0x80" : "=a"(result), "=r"(r8), "=r"(r9), "=r"(r10), "=r"(r11)
                   : "0"(nr), "b"(a), "c"(b), "d"(c), "S"(d), "D"(e) : "memory");
  return (int)result;
}
#elif defined(__x86_64__)
static long call(long nr, long a, long b, long c, long d, long e) {
  long result;
  register long r10 __asm__("r10") = d, r8 __asm__("r8") = e;
  __asm__ volatile("syscall" : "=a"(result) : "0"(nr), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8) : "rcx", "r11", "memory");
  return result;
}
#else
#include <errno.h>
#include <unistd.h>
static long call(long nr, long a, long b, long c, long d, long e) {
  long result = syscall(nr, a, b, c, d, e);
  return result < 0 ? -errno : result;
}
#endif

static void say(const char *name, long result) {
  printf("%s %ld\\n", name, result < 0 ? -result : 0);
  fflush(stdout);
}
#define CALL(name, ...) say(#name, call(__NR_##name, __VA_ARGS__))
/* A child ends at once. */
static void clones(const char *name, long flags) {
  long result = call(__NR_clone, flags, 0, 0, 0, 0);
  if (result == 0) for (;;) call(__NR_exit, 0, 0, 0, 0, 0);
  say(name, result);
}

int main(void) {
  const long bad = 1, all = -1;
  CALL(unshare, 1, 0, 0, 0, 0);
  CALL(setns, -1, 0, 0, 0, 0);
  CALL(clone3, 0, 0, 0, 0, 0);
  CALL(mount, bad, bad, bad, 0, bad);
  CALL(umount2, bad, 0xff00, 0, 0, 0);
  CALL(open_tree, -1, bad, 0xfffff, 0, 0);
  CALL(mount_setattr, -1, bad, 0xfffff, 0, 0);
  CALL(keyctl, 9999, 0, 0, 0, 0);
  CALL(add_key, bad, bad, bad, 0, 0);
  CALL(request_key, bad, bad, bad, 0, 0);
  CALL(bpf, 0, bad, 1 << 20, 0, 0);
  CALL(perf_event_open, bad, 0, -1, -1, 0xffff);
  CALL(userfaultfd, 0xff7f, 0, 0, 0, 0);
  CALL(io_uring_setup, 1, bad, 0, 0, 0);
  CALL(io_uring_enter, -1, 0, 0, 0xffff, 0);
  CALL(pidfd_getfd, -1, 0, all, 0, 0);
  CALL(process_madvise, -1, bad, 1, 0, all);
  CALL(clock_settime, 0, bad, 0, 0, 0);
  CALL(set_mempolicy, 99, 0, 0, 0, 0);
  CALL(chroot, bad, 0, 0, 0, 0);
  CALL(fanotify_init, all, all, 0, 0, 0);
  CALL(quotactl, all, bad, 0, 0, 0);
#if defined(__x86_64__)
  CALL(iopl, 99, 0, 0, 0, 0);
#endif
  clones("clone CLONE_NEWUSER", 0x10000000 | 17);
  clones("clone CLONE_NEWNET", 0x40000000 | 17);
  clones("clone CLONE_NEWNS", 0x00020000 | 17);
  clones("clone", 17);
  say("socket AF_VSOCK", call(__NR_socket, 40, 99, 0, 0, 0));
  say("socket AF_ALG", call(__NR_socket, 38, 99, 0, 0, 0));
#if FACE == 64
  say("socket AF_VSOCK behind 32 bits", call(__NR_socket, 0x100000028, 99, 0, 0, 0));
#endif
  say("socket AF_UNIX", call(__NR_socket, 1, 1, 0, 0, 0));
  say("socket AF_INET6", call(__NR_socket, 10, 99, 0, 0, 0));
  say("personality", call(__NR_personality, 0xffffffff, 0, 0, 0, 0));
  say("a number of none", call(__NR_getpid + 5000, 0, 0, 0, 0, 0));
  return 0;
}
`;
const threads = `
#include <pthread.h>
#include <stdio.h>
static void *work(void *text) { puts(text); return 0; }
int main(void) {
  pthread_t thread;
  if (pthread_create(&thread, 0, work, "a thread")) return 1;
  return pthread_join(thread, 0);
}
`;
/** The faces of the machine by which a process can call the kernel. */
const faces = process.arch === 'x64' ? { x86_64: '64', i386: '32', x32: '33' } : { native: '64' };
const openToAll = ['clone', 'socket AF_UNIX', 'personality'];

let daemon: Daemon;
beforeAll(async () => {
  daemon = await startDaemon();
  await daemon.addImage(testImage);
  for (const [name, text] of [
    ['calls.c', source],
    ['threads.c', threads],
  ] as const)
    await writeFile(join(daemon.folder, name), text);
  const compile = (from: string, to: string, ...options: string[]) =>
    run('gcc', [
      '-static',
      '-O1',
      '-w',
      ...options,
      '-o',
      join(daemon.folder, to),
      join(daemon.folder, from),
    ]);
  await compile('threads.c', 'threads', '-pthread');
  for (const [face, number] of Object.entries(faces))
    await compile('calls.c', `calls-${face}`, `-DFACE=${number}`);
});
afterAll(() => daemon?.destroy());

const RuntimeDefault = { seccomp: { profile_type: 'RuntimeDefault' as const } };
const Unconfined = { seccomp: { profile_type: 'Unconfined' as const } };

/** Starts containers one after another in one pod. */
async function inPod(
  handler: string,
  work: (
    start: (security: LinuxContainerSecurityContext) => Promise<(...cmd: string[]) => Promise<string>>,
  ) => Promise<void>,
): Promise<void> {
  const pod = await runPod(daemon, {}, handler);
  let number = 0;
  await work(async (security_context) => {
    const id = await startContainer(
      daemon,
      pod,
      containerConfig(untilStopped(), {
        metadata: { name: `c${number++}`, attempt: 0 },
        mounts: [
          { host_path: daemon.folder, container_path: '/programs', readonly: true },
          { host_path: '/', container_path: '/host', readonly: true },
        ],
        linux: { security_context },
      }),
    );
    return async (...cmd) => {
      const { stdout, stderr, exit_code } = await daemon.client.runtime.ExecSync({
        container_id: id,
        cmd,
        timeout: '20',
      });
      return `${String(stdout)}${String(stderr)}${exit_code ? `exit ${exit_code}\n` : ''}`;
    };
  });
  await removePod(daemon, pod.id);
}
function answers(text: string): Record<string, number> {
  return Object.fromEntries(
    text
      .trim()
      .split('\n')
      .map((line) => [line.replace(/ \d+$/, ''), Number(/\d+$/.exec(line)?.[0])]),
  );
}

describe.each(['crun', 'runc'])('RuntimeDefault on %s', (handler) => {
  test('refuses each dangerous call on each architecture, and capabilities allow their calls', async () => {
    await inPod(handler, async (start) => {
      const [free, confined, admin, some] = [
        await start({ ...Unconfined, capabilities: { add_capabilities: ['ALL'] } }),
        await start({ ...RuntimeDefault, capabilities: { drop_capabilities: ['SYS_CHROOT'] } }),
        await start({ ...RuntimeDefault, capabilities: { add_capabilities: ['SYS_ADMIN'] } }),
        await start({
          ...RuntimeDefault,
          capabilities: { add_capabilities: ['BPF', 'PERFMON', 'SYS_NICE', 'SYS_PTRACE', 'SYS_TIME'] },
        }),
      ];
      for (const face of Object.keys(faces)) {
        const of = async (exec: typeof free) => answers(await exec(`/programs/calls-${face}`));
        const unfiltered = await of(free);
        const isReal = face !== 'x32' || unfiltered['clone'] !== ENOSYS; // most kernels have no x32
        if (isReal)
          for (const name of ['setns', 'mount', 'keyctl', 'add_key', 'io_uring_setup', 'bpf', 'unshare'])
            expect([face, name, unfiltered[name]]).not.toEqual([face, name, EPERM]); // else this test would see nothing

        const refused = await of(confined);
        const expected = Object.keys(refused)
          .filter((name) => !openToAll.includes(name) && name !== 'socket AF_INET6')
          .map((name) => [name, ['clone3', 'a number of none'].includes(name) ? ENOSYS : EPERM]);
        expect(Object.keys(unfiltered).sort()).toEqual(Object.keys(refused).sort());
        expect([face, refused]).toEqual([
          face,
          expect.objectContaining(Object.fromEntries(expected) as Record<string, number>),
        ]);
        if (!isReal) continue;
        for (const name of [...openToAll, 'socket AF_INET6'])
          expect([face, name, refused[name]]).toEqual([face, name, unfiltered[name]]);

        const open = (found: Record<string, number>) =>
          Object.keys(found).filter(
            (name) => found[name] === unfiltered[name] && refused[name] !== unfiltered[name],
          );
        expect([face, open(await of(admin))]).toEqual([
          face,
          expect.arrayContaining([
            'unshare',
            'setns',
            'clone3',
            'mount',
            'umount2',
            'open_tree',
            'mount_setattr',
            'bpf',
            'perf_event_open',
            'chroot',
            'fanotify_init',
            'clone CLONE_NEWUSER',
            'clone CLONE_NEWNET',
            'clone CLONE_NEWNS',
          ]),
        ]);
        const opened = open(await of(some));
        expect([face, opened]).toEqual([
          face,
          expect.arrayContaining([
            'bpf',
            'perf_event_open',
            'set_mempolicy',
            'pidfd_getfd',
            'process_madvise',
            'clock_settime',
          ]),
        ]);
        for (const name of [
          'unshare',
          'setns',
          'mount',
          'keyctl',
          'io_uring_setup',
          'userfaultfd',
          'socket AF_VSOCK',
        ])
          expect([face, opened]).toEqual([face, expect.not.arrayContaining([name])]);
      }
    });
  });

  test('no user of a pod becomes root in a new user namespace', async () => {
    await inPod(handler, async (start) => {
      const user = {
        run_as_user: { value: '1000' },
        no_new_privs: true,
        capabilities: { drop_capabilities: ['ALL'] },
      };
      const script = 'unshare -U -r id -u 2>&1; unshare -U -n true 2>&1';
      const exec = await start({ ...RuntimeDefault, ...user });
      expect(await exec('sh', '-c', script)).toMatch(/^(unshare: .*Operation not permitted\n){2}exit 1\n$/);
    });
  });

  test('programs work: glibc, Go with threads, busybox and a whole distribution', async () => {
    await inPod(handler, async (start) => {
      const exec = await start(RuntimeDefault);
      expect(await exec('/programs/threads')).toBe('a thread\n');
      // CNI's plugins are programs of Go.
      expect(
        await exec(
          'chroot',
          '/host',
          'sh',
          '-c',
          'PATH=/opt/cni/bin:/usr/lib/cni:$PATH; echo "{}" | CNI_COMMAND=VERSION bridge',
        ),
      ).toContain('supportedVersions');
      expect(
        await exec(
          'sh',
          '-c',
          'mkdir -p /tmp/a/b && touch /tmp/a/b/c && chmod 640 /tmp/a/b/c && chown 1:1 /tmp/a/b/c && tar -C /tmp -cf - a | tar -C /root -xf - && stat -c "%a %u" /root/a/b/c; mkfifo /tmp/f; (echo through >/tmp/f) & cat /tmp/f; su web -c "id -u"',
        ),
      ).toBe('640 1\nthrough\n1000\n');
      expect(
        await exec(
          'chroot',
          '/host',
          'bash',
          '-c',
          'perl -e "print qq(perl\\n)"; apt-config dump | grep -c "^APT::Architecture " ; dpkg-query -W -f "\\${Package}\\n" bash; sort <(echo b; echo a); date -d @0 -u +%Y',
        ),
      ).toBe('perl\n1\nbash\na\nb\n1970\n');
    });
  });
});

/** The test of compileSeccomp() is crun itself, which compiles the profile where no program comes with it. */
test('crun gets the filter program that it would compile, also for each exec', async () => {
  const pod = await runPod(daemon);
  const id = await startContainer(
    daemon,
    pod,
    containerConfig(untilStopped(), { linux: { security_context: RuntimeDefault } }),
  );
  const config = await readFile(
    daemon.machine.path(join(daemon.state, 'bundles', id, 'config.json')),
    'utf8',
  );
  const spec = JSON.parse(config) as Spec;
  const { 'run.oci.seccomp_bpf_data': program = '', ...annotations } = spec.annotations ?? {};
  expect(program).not.toBe('');

  const bundle = join(daemon.folder, 'uncompiled');
  await mkdir(bundle);
  const linux = { ...spec.linux, cgroupsPath: `${spec.linux.cgroupsPath}-2` };
  await writeFile(join(bundle, 'config.json'), JSON.stringify({ ...spec, annotations, linux }));
  const quiet = 'exec crun "$@" </dev/null >/dev/null 2>&1'; // its process would hold the pipes of the test
  const crun = (...args: string[]) =>
    daemon.machine.must(['sh', '-c', quiet, 'crun', `--root=${bundle}/root`, ...args]);
  await crun('create', '--bundle', bundle, 'uncompiled');
  try {
    const compiled = await readFile(join(bundle, 'root', 'uncompiled', 'seccomp.bpf'));
    expect(compiled.length).toBeGreaterThan(1000);
    expect(program).toBe(compiled.toString('base64'));
  } finally {
    await crun('delete', '--force', 'uncompiled');
  }

  const { stdout } = await daemon.client.runtime.ExecSync({
    container_id: id,
    cmd: ['sh', '-c', 'grep ^Seccomp: /proc/1/status /proc/self/status'],
    timeout: '20',
  });
  expect(String(stdout)).toBe('/proc/1/status:Seccomp:\t2\n/proc/self/status:Seccomp:\t2\n');
  await removePod(daemon, pod.id);
});
