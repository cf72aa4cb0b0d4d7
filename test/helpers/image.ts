// An image made on the spot from Debian's busybox-static, so that tests need no
// registry.  Imported by daemon.ts, pushed to a registry by the image tests.
import { execFile } from 'node:child_process';
import { createHash } from 'node:crypto';
import { copyFile, mkdir, readFile, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';

const run = promisify(execFile);
const busybox = '/bin/busybox';

export interface ImageOptions {
  /** What stands under "config" of the OCI image configuration. */
  readonly config?: object;
  /** More files of its rootfs: path -> content. */
  readonly files?: Readonly<Record<string, string>>;
  /** More symlinks: path -> what it points to. */
  readonly links?: Readonly<Record<string, string>>;
}

/** Makes an OCI archive at folder/NAME.tar; its path. */
export async function makeImageArchive(folder: string, name = 'busybox', { config = {}, files = {}, links = {} }: ImageOptions = {}): Promise<string> {
  const work = join(folder, `${name}.image`);
  const rootfs = join(work, 'rootfs');
  const blobs = join(work, 'oci', 'blobs', 'sha256');
  await mkdir(blobs, { recursive: true });
  for (const place of ['bin', 'dev', 'etc', 'home', 'proc', 'root', 'run', 'sys', 'tmp', 'var']) await mkdir(join(rootfs, place), { recursive: true });
  await copyFile(busybox, join(rootfs, 'bin/busybox'));
  const { stdout } = await run(busybox, ['--list']);
  for (const applet of stdout.trim().split('\n')) if (applet !== 'busybox') await symlink('busybox', join(rootfs, 'bin', applet));
  await symlink('../run', join(rootfs, 'var/run'));
  const all = { 'etc/passwd': 'root:x:0:0:root:/root:/bin/sh\nweb:x:1000:1000:web:/home:/bin/sh\n', 'etc/group': 'root:x:0:\nweb:x:1000:\nstaff:x:50:web\n', ...files };
  for (const [path, content] of Object.entries(all)) {
    await mkdir(join(rootfs, path, '..'), { recursive: true });
    await writeFile(join(rootfs, path), content);
  }
  for (const [path, target] of Object.entries(links)) await symlink(target, join(rootfs, path));

  const layerFile = join(work, 'layer.tar');
  await run('tar', ['-C', rootfs, '--owner=0', '--group=0', '--numeric-owner', '--sort=name', '--mtime=@0', '-cf', layerFile, '.']);
  const add = async (content: Buffer): Promise<{ digest: string; size: number }> => {
    const hex = createHash('sha256').update(content).digest('hex');
    await writeFile(join(blobs, hex), content);
    return { digest: `sha256:${hex}`, size: content.length };
  };
  const addJson = (value: object) => add(Buffer.from(JSON.stringify(value)));
  const architecture = process.arch === 'x64' ? 'amd64' : process.arch;
  const layer = await add(await readFile(layerFile));
  const configBlob = await addJson({
    architecture, os: 'linux', created: '1970-01-01T00:00:00Z', rootfs: { type: 'layers', diff_ids: [layer.digest] },
    config: { Env: ['PATH=/bin'], Cmd: ['sh'], Labels: { name }, ...config },
  });
  const manifest = await addJson({
    schemaVersion: 2, mediaType: 'application/vnd.oci.image.manifest.v1+json',
    config: { mediaType: 'application/vnd.oci.image.config.v1+json', ...configBlob },
    layers: [{ mediaType: 'application/vnd.oci.image.layer.v1.tar', ...layer }],
  });
  await writeFile(join(work, 'oci/oci-layout'), JSON.stringify({ imageLayoutVersion: '1.0.0' }));
  await writeFile(join(work, 'oci/index.json'), JSON.stringify({ schemaVersion: 2, manifests: [{ mediaType: 'application/vnd.oci.image.manifest.v1+json', ...manifest }] }));
  const archive = join(folder, `${name}.tar`);
  await run('tar', ['-C', join(work, 'oci'), '-cf', archive, '.']);
  await run('rm', ['-rf', work]);
  return archive;
}
