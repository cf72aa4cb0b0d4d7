// The hints of errors and checks: commands of crisp are valid, programs are known, and
// named configuration keys and documents exist.
import { describe, expect, test } from '@jest/globals';
import { execFileSync } from 'node:child_process';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import ts from 'typescript';
import { commandNamed } from './cli/command.js';
import { configKeys } from './cli/config-keys.js';
import { parse } from './cli/parse.js';
import { commands, leftOut } from './cli/table.js';
import { catalogue } from './errors.js';

/** What stands for a value that is not known here. */
const value = 'NAME';

/** The texts in an expression: "a ${b} c" and both sides of a choice. */
function textsIn(node: ts.Node): string[] {
  if (ts.isStringLiteralLike(node)) return [node.text];
  if (ts.isTemplateExpression(node))
    return [node.head.text + node.templateSpans.map(({ literal }) => value + literal.text).join('')];
  const found: string[] = [];
  ts.forEachChild(node, (child) => {
    found.push(...textsIn(child));
  });
  return found;
}

/** The texts that an expression may give: both sides of a choice, but not its condition. */
function resultsOf(node: ts.Node): string[] {
  if (ts.isConditionalExpression(node)) return [...resultsOf(node.whenTrue), ...resultsOf(node.whenFalse)];
  if (ts.isBinaryExpression(node)) return [...resultsOf(node.left), ...resultsOf(node.right)];
  if (ts.isParenthesizedExpression(node)) return resultsOf(node.expression);
  return ts.isStringLiteralLike(node) || ts.isTemplateExpression(node) ? textsIn(node) : [];
}

/** The nodes of a source, with a part for each that `take` gives. */
function inSource<T>(path: string, take: (node: ts.Node, source: ts.SourceFile) => readonly T[]): T[] {
  const source = ts.createSourceFile(path, readFileSync(path, 'utf8'), ts.ScriptTarget.Latest);
  const found: T[] = [];
  const visit = (node: ts.Node): void => {
    found.push(...take(node, source));
    ts.forEachChild(node, visit);
  };
  visit(source);
  return found;
}

/** What an error says to do: `hint: …`, a row [PATTERN, 'ErrorId', THIS] of a table, `refuse(…, THIS)`. */
function hintsIn(path: string): string[] {
  return inSource(path, (node, source) => {
    if (ts.isPropertyAssignment(node) && node.name.getText(source) === 'hint')
      return resultsOf(node.initializer);
    if (ts.isArrayLiteralExpression(node)) {
      const [, id, hint] = node.elements;
      if (id && hint && ts.isStringLiteral(id) && Object.hasOwn(catalogue, id.text)) return resultsOf(hint);
    }
    if (ts.isCallExpression(node) && node.expression.getText(source) === 'refuse' && node.arguments[1])
      return resultsOf(node.arguments[1]);
    return [];
  });
}

/** What a check says to do: `warning(…, THIS)`, `failure(…, THIS)`. */
function hintsOfChecks(path: string): string[] {
  return inSource(path, (node, source) =>
    path.startsWith('src/cli/check/') &&
    ts.isCallExpression(node) &&
    /^(warning|failure)$/.test(node.expression.getText(source)) &&
    node.arguments[1]
      ? textsIn(node.arguments[1])
      : [],
  );
}

const sources = readdirSync('src', { recursive: true, encoding: 'utf8' })
  .map((name) => `src/${name}`)
  .filter((path) => path.endsWith('.ts') && !path.endsWith('.test.ts') && !path.includes('/generated/'));
const ofErrors = [
  ...new Set([...sources.flatMap(hintsIn), ...Object.values(catalogue).map(({ hint }) => hint)]),
].filter((hint) => hint !== '');
const hints = [
  ...new Set([
    ...ofErrors,
    ...sources.flatMap(hintsOfChecks),
    ...Object.values(leftOut),
    ...commands.flatMap((command) => Object.values(command.leftOut ?? {})),
  ]),
].filter((hint) => hint !== '');

/** Programs of others that hints name. */
const programs = new Set(
  'apparmor_parser apt crictl df dmesg findmnt ha-manager ifreload journalctl kompose modprobe mount pct pvecm pveam pvesh pvesm skopeo su swapoff sysctl systemctl tar ulimit'.split(
    ' ',
  ),
);

test('the hints are found in the source', () => {
  expect(hints.length).toBeGreaterThan(100);
  expect(hints).toContain('see `crisp check` for the reason');
});

/** The commands in backticks, each as it would be typed. */
const quoted = hints.flatMap((hint) => [...hint.matchAll(/`([^`]+)`/g)].map(([, line = '']) => [line, hint]));
describe('a command in a hint is valid', () => {
  test.each(quoted)('%s', (line) => {
    const lines = line
      .replace(/"[^"]*"/g, 'WORD')
      .replace(/^sudo /, '')
      .split(/ \| |&& |; |\$\(|\)/)
      .map((part) => part.trim());
    for (const words of lines.filter(Boolean).map((part) => part.split(/\s+/))) {
      const [program = '', name = '', ...rest] = words;
      if (program !== 'crisp') {
        expect([program === 'jq' || programs.has(program), line]).toEqual([true, line]);
        continue;
      }
      const command = commandNamed(commands, name);
      expect([command?.name, line]).toEqual([expect.any(String), line]);
      if (!command) continue;
      const needed = command.arguments.filter((argument) => !argument.optional).length;
      const given = rest.filter((word) => !/^[…'"]/.test(word));
      // "`crisp check`" alone names the command; a whole line has its arguments too.
      if (given.length > 0) expect(() => parse(command, given)).not.toThrow();
      else expect(needed).toBeLessThanOrEqual(1);
    }
  });
});

const keys = new Set(configKeys().map(({ path }) => path.filter((part) => part !== '[]').join('.')));
const sections = new Set([...keys].filter((key) => key.includes('.')).map((key) => key.split('.')[0]));
test('a key in a hint is a key of the configuration', () => {
  const named = hints.flatMap((hint) =>
    [...hint.matchAll(/(?<![\w./-])([a-z_]+)((?:\.[a-z_]+)+)(?![\w/.]*\()/g)].flatMap(
      ([key, section = '']) => (sections.has(section) ? [key] : []),
    ),
  );
  expect(named.length).toBeGreaterThan(5);
  expect(named.filter((key) => !keys.has(key) && !/^handlers\.|NAME/.test(key))).toEqual([]);
});

test('a document in a hint exists', () => {
  const named = hints.flatMap((hint) => [...hint.matchAll(/docs\/[\w/.-]+\.md/g)].map(([path]) => path));
  expect(named.length).toBeGreaterThan(1);
  expect(named.filter((path) => !existsSync(path))).toEqual([]);
});

/** The hints that tests follow: `hint: THIS` in their tables, and hintPattern(THIS). */
const followed = new Set(
  readdirSync('test', { recursive: true, encoding: 'utf8' })
    .filter((name) => name.endsWith('.test.ts'))
    .flatMap((name) =>
      inSource(`test/${name}`, (node, source) => {
        if (/(^|\/)hints[\w-]*\.test\.ts$/.test(name) && ts.isPropertyAssignment(node))
          return node.name.getText(source) === 'hint' ? resultsOf(node.initializer) : [];
        if (ts.isCallExpression(node) && node.expression.getText(source) === 'hintPattern')
          return node.arguments.flatMap(resultsOf);
        return [];
      }),
    ),
);

/** Why no test follows a hint -> the hints. */
const notFollowed: Readonly<Record<string, readonly string[]>> = {
  'it states a fact of the object, and asks for nothing': [
    'the pod can be reached at its own address',
    "such sysctls are set in the pod's network before a container runs",
    'a container that ends meanwhile refuses the connection',
    'this build of the runtime lacks the command',
    'the CT is not running',
    'the CT is still running',
    'the CT is already running',
    'the CT has ended',
    'the CT is not locked',
    'the CT does not react to its stop signal',
    'Proxmox does not know the distribution of this template',
    'Proxmox cannot do this with such a CT: see the details',
    'the running CT did not accept the change: the message names the option and the reason',
    'this version of pct does not accept an option of crisp: see the details',
  ],
  'it asks to repeat what an interruption or a race has ended, which the tests of both do': [
    'repeat the call',
    'run it again',
    'try again later',
    'try again in a minute',
    'pull it again',
    'pull it again: finished layers are kept for half an hour',
    'attach again; the missed output is in the log of the container',
    'connect again: the current state comes first',
    'end one of them first',
    'another guest took the id at the same time; repeat the call',
  ],
  'it names a document or a log, which another test finds': [
    'docs/cri-coverage.md lists the supported fields of each backend',
    'see the log for the cause',
    'see `crisp status`',
    'please report it with the log lines of this request id',
    'see `crisp dump` for what the daemon holds; the limits are TasksMax and LimitNOFILE of the service, kernel.pid_max and fs.file-max',
  ],
  'it is for a broken kernel, disk or machine, which no test may break': [
    'its process is stuck in the kernel: see /proc/PID/stack and the kernel log',
    'the filesystem is mounted read-only, as the kernel does after an error of the disk: see `dmesg`',
    'see the detail; EMFILE and ENOSPC are limits of inotify: raise fs.inotify.max_user_instances or max_user_watches',
    'free space on the filesystem of the path that the message names: see `df -h`',
    'raise the limit of the pod, or free memory on the node',
    'check the kernel limits in /proc/sys/user',
    'the memory limit is too small to start the container',
    'this crun cannot use cgroup v1 with an additional v2 tree: boot with systemd.unified_cgroup_hierarchy=1, or use runc',
    'use recursiveReadOnly: IfPossible',
    'load it with apparmor_parser',
    'run crisp as root with the capabilities that `crisp check` lists',
    'containers are mounted below it; or move the state folder',
    'the server of a filesystem on this path does not answer: see `findmnt --target PATH`',
  ],
  'it needs systemd as the first process (the tests in virtual machines have it)': [
    'configure the same cgroup driver for the kubelet and crisp',
    'systemd does not answer: if it is not running, set runtime.cgroup_driver to cgroupfs',
    'restart crisp: containers keep running',
  ],
  'it names a package of Debian, which apt-get finds (below); a test must not install it': [
    'apt install catatonit',
    'apt install crun (or runc)',
    'install it (Debian: containernetworking-plugins)',
    'install criu',
  ],
  'the data of a registry, a record or an image is damaged, and the same test repairs it (images-failures, rootfs, records)':
    [
      'remove the image and pull it again',
      'pull the image again to repair it',
      'correct the file that the message names; if it belongs to an image, use another image',
      'configure its handler again, or end the container of process NAME',
    ],
  'the request that it asks for is the one that the tests beside it send': [
    'remove the field, or run the pod where it is supported',
    'check that a container listens on this port, on localhost or on all addresses',
    'make an OCI image of the folder, or choose another handler',
    'check the command, the user and the working folder',
    'the program is for another architecture, or a script without #!',
    '--annotation NAMEstorage=NAME, or lxc.rootfs.storage',
    'put it into a script of the image',
    'use an absolute path without ".."',
  ],
  'it needs a node of Proxmox: a newer version, its web, its services or its cluster': [
    'pve-container 6.0.15 (Proxmox VE 9.1) and newer support it',
    'pve-container 6.0.15 (Proxmox VE 9.1) and newer have them',
    'make the bridge in /etc/network/interfaces and run `ifreload -a`',
    '`pveam list STORAGE` lists the templates of a storage, `pveam download` gets one',
    '`pveam list STORAGE` lists the templates of a storage',
    'the CT was turned into a template: remove the pod',
    'the CT is protected: `pct set VMID --protection 0`',
    'the folder is not mounted any more: remove the pod',
    'the CT is managed by the HA manager: `ha-manager remove ct:VMID`',
    'make the pool that lxc.pool names: `pvesh create /pools --poolid NAME`',
    'put root:100000:65536 into /etc/subuid and /etc/subgid',
    'the reason is in the details; also see `journalctl -u pve-container@VMID`',
    'give a storage the content rootdir (`pvesm set`), or set lxc.unprivileged: false',
    'lxc-monitord must run: `systemctl status lxc-monitord`',
  ],
};

describe('each hint of an error is followed by a test, or is listed here with the reason why none can', () => {
  const listed = Object.values(notFollowed).flat();
  test('none is forgotten', () => {
    expect(ofErrors.filter((hint) => !followed.has(hint) && !listed.includes(hint))).toEqual([]);
  });
  test('none is listed that is followed, or that is gone', () => {
    expect(listed.filter((hint) => followed.has(hint) || !ofErrors.includes(hint))).toEqual([]);
    expect([...followed].filter((hint) => !ofErrors.includes(hint))).toEqual([]);
  });
});

describe('a package that a hint names is one of Debian', () => {
  const named = [
    ...new Set(
      hints.flatMap((hint) =>
        [
          ...hint.matchAll(/(?:apt install(?: --reinstall)?|Debian:) ([a-z][\w.+-]+)|^install ([a-z]+)$/g),
        ].map(([, one, other]) => one ?? other ?? ''),
      ),
    ),
  ];
  test.each(named)('%s', (name) => {
    // It resolves the dependencies as a real installation does, and changes nothing.
    expect(() => execFileSync('apt-get', ['install', '-s', name], { stdio: 'pipe' })).not.toThrow();
  });
  test('they are found', () => expect(named).toContain('containernetworking-plugins'));
});
