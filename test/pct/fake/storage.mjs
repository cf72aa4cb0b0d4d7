// The storages of the fake node: folders, with templates and the volumes of CTs.
//
//   NODE/pve/storage.cfg, STORAGE/template/cache/NAME, STORAGE/images/VMID/subvol-VMID-disk-0.subvol
import { spawnSync } from 'node:child_process';
import {
  chmodSync,
  chownSync,
  existsSync,
  lchownSync,
  lstatSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  rmdirSync,
  rmSync,
} from 'node:fs';
import { dirname, join } from 'node:path';
import { at, die } from './place.mjs';

/** "dir: NAME", then indented "key value" lines. */
export function storages() {
  const found = {};
  let current;
  for (const line of (existsSync(at('pve/storage.cfg'))
    ? readFileSync(at('pve/storage.cfg'), 'utf8')
    : ''
  ).split('\n')) {
    const [, name] = /^dir: (\S+)$/.exec(line) ?? [];
    const [, key, value] = /^\s+(\S+) (.*)$/.exec(line) ?? [];
    if (name) current = found[name] = { path: '', content: [] };
    else if (key && current) current[key] = key === 'content' ? value.split(',') : value;
  }
  return found;
}

function storageOf(name) {
  return storages()[name] ?? die(`storage '${name}' does not exist`);
}

/** The path of a volume id. */
export function pathOf(volume) {
  const [, name, type, rest] =
    /^([^:]+):(?:(vztmpl)\/)?(.+)$/.exec(volume) ?? die(`unable to parse volume ID '${volume}'`);
  return join(storageOf(name).path, type ? 'template/cache' : 'images', rest);
}

/** The archive that `pct create` is told to unpack. @returns its path; it may be missing, which pct finds out late */
export function templatePath(text) {
  if (!/\.tar(\.(gz|xz|zst|bz2))?$/.test(text)) die(`unable to create CT - unsupported archive '${text}'`);
  if (text.startsWith('/')) return text;
  const [, name, type = ''] = /^([^:]+):(\w+)\//.exec(text) ?? [];
  if (!name) die(`400 Parameter verification failed.\nostemplate: unable to parse volume ID '${text}'`);
  storageOf(name);
  if (type !== 'vztmpl') die(`unable to use volume ${text} - content type needs to be 'vztmpl'`);
  return pathOf(text);
}

/** @param disk its number among those of the CT @returns the value for the configuration, the folder, and whether it is ours to remove */
export function allocate(vmid, rootfs, owner, disk = 0) {
  if (rootfs.startsWith('/')) return { value: rootfs, folder: rootfs, isOurs: false, undo: () => undefined };
  const [, name = 'local', size] =
    /^(?:([^:\s]+):)?(\d+(?:\.\d+)?)$/.exec(rootfs) ??
    die(`400 Parameter verification failed.\nrootfs: invalid format - unable to parse volume`);
  const storage = storageOf(name);
  if (!storage.content.includes('rootdir'))
    die(
      `400 Parameter verification failed.\nstorage: storage '${name}' does not support container directories`,
    );
  const value = `${name}:${vmid}/subvol-${vmid}-disk-${disk}.subvol`;
  const folder = pathOf(value);
  mkdirSync(folder, { recursive: true, mode: 0o755 });
  chownSync(folder, owner, owner);
  return {
    value: `${value},size=${Number(size) === 0 ? '0T' : `${size}G`}`,
    folder,
    isOurs: true,
    undo: () => free(value),
  };
}

/** Removes a volume; a folder that was only bound stays. */
export function free(rootfs) {
  const [volume] = rootfs.split(',');
  if (volume.startsWith('/')) return;
  rmSync(pathOf(volume), { recursive: true, force: true });
  try {
    rmdirSync(dirname(pathOf(volume)));
  } catch {
    /* others are in it */
  }
}

/** All that any storage has of a CT (--destroy-unreferenced-disks). */
export function freeAll(vmid) {
  for (const { path } of Object.values(storages()))
    rmSync(join(path, 'images', vmid), { recursive: true, force: true });
}

export function folderOf(rootfs) {
  const [volume] = rootfs.split(',');
  return volume.startsWith('/') ? volume : pathOf(volume);
}

/** What is there already stays (tar --skip-old-files). @param owner root of the CT, for a folder that was empty */
export function unpack(archive, folder, owner, shown) {
  if (!existsSync(archive)) die(`volume '${shown}' does not exist`);
  process.stdout.write(`extracting archive '${archive}'\n`);
  const decompress =
    { gz: ['--gzip'], xz: ['--xz'], zst: ['--zstd'], bz2: ['--bzip2'] }[archive.split('.').pop()] ?? [];
  const tar = [
    'tar',
    '--extract',
    ...decompress,
    '--preserve-permissions',
    '--numeric-owner',
    '--totals',
    '--skip-old-files',
    '--exclude',
    './dev/*',
    '--directory',
    folder,
  ];
  const { status, stderr } = spawnSync(tar[0], tar.slice(1), {
    stdio: [openSync(archive, 'r'), 'ignore', 'pipe'],
    encoding: 'utf8',
  });
  process.stdout.write(stderr); // "Total bytes read: ..."
  if (status !== 0) die(`unable to create CT - command '${tar.join(' ')}' failed: exit code ${status}`);
  if (owner > 0) shift(folder, owner);
}

/** pct runs tar in the user namespace of the CT; without entries in /etc/subuid the outcome is made afterwards. */
function shift(path, by) {
  const { uid, gid, mode } = lstatSync(path);
  if (uid < by) lchownSync(path, uid + by, gid + by);
  if ((mode & 0o170000) === 0o040000) for (const name of readdirSync(path)) shift(join(path, name), by);
  if (mode & 0o6000) chmodSync(path, mode & 0o7777); // a change of owner takes them away
}
