// The floor: the commands that a pod needs, one after the other, without a daemon.
import { execFile, execFileSync, spawn } from 'node:child_process';
import { cpSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { at, conflist, sleep } from './peers.mjs';
import { execs, noteLife, podDown, podUp } from './pods.mjs';
import { note } from './samples.mjs';

const runFile = promisify(execFile);
let counter = 0;

export async function floorLife(host, counted) {
  const id = `floor-${counter++}`;
  const folder = at('floor', id);
  const pin = (name) => join(folder, name);
  const tool = (file, args, options = {}) => runFile(file, args, options);
  mkdirSync(join(folder, 'bundle', 'rootfs'), { recursive: true });
  for (const name of ['diff', 'work']) mkdirSync(pin(name));
  for (const name of ['net', 'ipc', 'uts']) writeFileSync(pin(name), '');
  writeFileSync(join(folder, 'bundle', 'config.json'), JSON.stringify(floorSpec(host, id, folder)));
  const start = performance.now();
  await tool(
    'unshare',
    host
      ? [`--ipc=${pin('ipc')}`, 'true']
      : [`--net=${pin('net')}`, `--ipc=${pin('ipc')}`, `--uts=${pin('uts')}`, 'hostname', id],
  );
  let result;
  if (!host)
    for (const plugin of conflist('floor').plugins) result = await cni('ADD', id, pin('net'), plugin, result);
  await tool('mount', [
    '-t',
    'overlay',
    'overlay',
    '-o',
    `lowerdir=${at('floor-rootfs')},upperdir=${pin('diff')},workdir=${pin('work')}`,
    join(folder, 'bundle', 'rootfs'),
  ]);
  await conmon(id, join(folder, 'bundle'));
  const crun = (...args) => tool('crun', [`--root=${at('floor-crun')}`, ...args]);
  await crun('start', id);
  const up = performance.now() - start;
  const exec = await execs(() => crun('exec', '--process', at('floor-process.json'), id));
  const downStart = performance.now();
  await crun('kill', id, 'KILL');
  while (!readdirSync(at('floor-exits')).includes(id)) await sleep(1);
  const stop = performance.now() - downStart;
  await crun('delete', id);
  await tool('umount', [join(folder, 'bundle', 'rootfs')]);
  if (!host)
    for (const plugin of conflist('floor').plugins.reverse())
      await cni('DEL', id, pin('net'), plugin, result);
  await tool('umount', host ? [pin('ipc')] : [pin('net'), pin('ipc'), pin('uts')]);
  if (counted) {
    noteLife('floor', host, { up, exec, down: performance.now() - downStart });
    note('StopContainer', 'floor', stop);
  }
  rmSync(folder, { recursive: true });
}

function cni(verb, id, netns, plugin, prevResult) {
  const child = spawn(`/usr/lib/cni/${plugin.type}`, {
    env: {
      PATH: '/usr/sbin:/usr/bin:/sbin:/bin',
      CNI_COMMAND: verb,
      CNI_CONTAINERID: id,
      CNI_NETNS: netns,
      CNI_IFNAME: 'eth0',
      CNI_PATH: '/usr/lib/cni',
    },
    stdio: ['pipe', 'pipe', 'ignore'],
  });
  child.stdin.end(
    JSON.stringify({ cniVersion: '1.0.0', name: 'floor', ...plugin, ...(prevResult ? { prevResult } : {}) }),
  );
  return new Promise((resolve, reject) => {
    let output = '';
    child.stdout.on('data', (chunk) => {
      output += chunk;
    });
    child.once('close', (code) =>
      code === 0
        ? resolve(output ? JSON.parse(output) : prevResult)
        : reject(new Error(`${plugin.type} ${verb}: ${output}`)),
    );
  });
}

function conmon(id, bundle) {
  const child = spawn(
    'conmon',
    [
      '--cid',
      id,
      '--cuuid',
      id,
      '--name',
      id,
      '--runtime',
      '/usr/bin/crun',
      '--runtime-arg',
      `--root=${at('floor-crun')}`,
      '--bundle',
      bundle,
      '--persist-dir',
      bundle,
      '--container-pidfile',
      join(bundle, 'pid'),
      '--exit-dir',
      at('floor-exits'),
      '--log-path',
      `k8s-file:${bundle}/log`,
      '--full-attach',
      '--no-sync-log',
    ],
    { env: { PATH: process.env.PATH, _OCI_SYNCPIPE: '3' }, stdio: ['ignore', 'ignore', 'ignore', 'pipe'] },
  );
  return new Promise((resolve, reject) => {
    child.stdio[3].once('data', (line) => {
      child.stdio[3].destroy();
      if (JSON.parse(line).pid > 0) resolve();
      else reject(new Error(String(line)));
    });
  });
}

/** The same container as crisp's, without the pod's files: so the bare commands do the same work. */
function floorSpec(host, id, folder) {
  return {
    ...pattern,
    root: { path: 'rootfs' },
    mounts: pattern.mounts.filter(({ type }) => type !== 'bind'),
    linux: {
      ...pattern.linux,
      cgroupsPath: `/crisp-bench/${id}`,
      namespaces: [
        { type: 'pid' },
        { type: 'mount' },
        { type: 'ipc', path: join(folder, 'ipc') },
        ...(host
          ? []
          : [
              { type: 'network', path: join(folder, 'net') },
              { type: 'uts', path: join(folder, 'uts') },
            ]),
      ],
    },
  };
}
let pattern;
/** Prepares the floor: its root filesystem, and the configuration of a container of crisp as a pattern. */
export async function prepareFloor(crisp) {
  for (const name of ['floor-exits', 'floor-rootfs']) mkdirSync(at(name));
  cpSync('/bin/busybox', at('floor-rootfs', 'bin', 'busybox'), { recursive: true });
  for (const name of ['sh', 'sleep', 'true'])
    execFileSync('ln', ['-s', 'busybox', at('floor-rootfs', 'bin', name)]);
  for (const name of ['proc', 'dev', 'sys']) mkdirSync(at('floor-rootfs', name));
  const made = await podUp(crisp, false);
  pattern = JSON.parse(readFileSync(at('crisp-state', 'bundles', made.id, 'config.json'), 'utf8'));
  await podDown(crisp, made);
  writeFileSync(
    at('floor-process.json'),
    JSON.stringify({ ...pattern.process, args: ['true'], terminal: false }),
  );
}
