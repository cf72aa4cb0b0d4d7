// Images made on the spot, so that tests need no registry: from Debian's
// busybox-static (makeImageArchive: imported by daemon.ts), or from any files,
// with as many layers and architectures as wanted (makeLayout: pushed to a real
// registry by the image tests).
import { execFile } from 'node:child_process';
import { createHash } from 'node:crypto';
import { copyFile, mkdir, mkdtemp, readFile, rm, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';

const run = promisify(execFile);
const busybox = '/bin/busybox';
/** The architecture of this machine, as images call it. */
export const architecture = process.arch === 'x64' ? 'amd64' : process.arch;

export interface ImageOptions {
  /** "config" of the OCI image configuration. */
  readonly config?: object;
  /** More files of its rootfs: path -> content. */
  readonly files?: Readonly<Record<string, string>>;
  /** More symlinks: path -> target. */
  readonly links?: Readonly<Record<string, string>>;
}

/** Makes an OCI archive at folder/NAME.tar; its path. */
export async function makeImageArchive(
  folder: string,
  name = 'busybox',
  { config = {}, files = {}, links = {} }: ImageOptions = {},
): Promise<string> {
  const work = await mkdtemp(join(folder, `${name}.image`));
  const rootfs = join(work, 'rootfs');
  for (const place of ['bin', 'dev', 'etc', 'home', 'proc', 'root', 'run', 'sys', 'tmp', 'var'])
    await mkdir(join(rootfs, place), { recursive: true });
  await copyFile(busybox, join(rootfs, 'bin/busybox'));
  const { stdout } = await run(busybox, ['--list']);
  for (const applet of stdout.trim().split('\n'))
    if (applet !== 'busybox') await symlink('busybox', join(rootfs, 'bin', applet));
  await symlink('../run', join(rootfs, 'var/run'));
  await writeFiles(rootfs, {
    'etc/passwd': 'root:x:0:0:root:/root:/bin/sh\nweb:x:1000:1000:web:/home:/bin/sh\n',
    'etc/group': 'root:x:0:\nweb:x:1000:\nstaff:x:50:web\n',
    ...files,
  });
  for (const [path, target] of Object.entries(links)) await symlink(target, join(rootfs, path));

  const layout = new Layout(join(work, 'oci'));
  await layout.finish(
    await layout.add({
      layers: [await tarOf(rootfs, work)],
      config: { Env: ['PATH=/bin'], Cmd: ['sh'], Labels: { name }, ...config },
    }),
  );
  const archive = await layout.archive(join(folder, `${name}.tar`));
  await rm(work, { recursive: true });
  return archive;
}

export interface SmallImage {
  /** One layer each, bottom first: path -> content, or the bytes of its archive. `DIR/.wh.NAME` takes NAME of the layers below away, `DIR/.wh..wh..opq` all of DIR. */
  readonly layers: readonly (Readonly<Record<string, string | Buffer>> | Buffer)[];
  readonly compression?: 'gzip' | 'zstd';
  readonly config?: object;
  /** Replaces the config blob, valid or not. */
  readonly configBlob?: string;
  /** Default: this machine's. */
  readonly architecture?: string;
}

/** The descriptor of a manifest or index. */
export interface Made {
  readonly digest: string;
  readonly layers: readonly string[];
}

/**
 * Makes an OCI layout of one image, or of an index of one per architecture.
 * `nested`: so many indexes more around it.
 * @returns the folder, and the digests of the image's manifest, or of the index and its manifests
 */
export async function makeLayout(
  folder: string,
  image: SmallImage | readonly SmallImage[],
  { nested = 0 }: { nested?: number } = {},
): Promise<{ path: string; digest: string; manifests: readonly Made[] }> {
  const work = await mkdtemp(join(folder, 'layout-'));
  const layout = new Layout(join(work, 'oci'));
  const manifests: (Made & { descriptor: object })[] = [];
  for (const { layers, config = {}, ...one } of 'layers' in image ? [image] : image) {
    const tars: Buffer[] = [];
    for (const [index, files] of layers.entries()) {
      if (Buffer.isBuffer(files)) {
        tars.push(files);
        continue;
      }
      const rootfs = join(work, `layer${index}`);
      await mkdir(rootfs, { recursive: true });
      await writeFiles(rootfs, files);
      tars.push(await tarOf(rootfs, work));
      await rm(rootfs, { recursive: true });
    }
    manifests.push(await layout.add({ ...one, config, layers: tars }));
  }
  let top: { digest: string; descriptor: object } =
    'layers' in image ? (manifests[0] as Made & { descriptor: object }) : await layout.addIndex(manifests);
  for (let count = 0; count < nested; count++) top = await layout.addIndex([top]);
  await layout.finish(top);
  return { path: layout.folder, digest: top.digest, manifests };
}

/** An OCI image layout (image-layout.md of the image-spec) that is being written. */
class Layout {
  constructor(readonly folder: string) {}

  async add({
    layers,
    compression,
    config,
    configBlob,
    architecture: of = architecture,
  }: {
    layers: readonly Buffer[];
    configBlob?: string;
    compression?: 'gzip' | 'zstd';
    config: object;
    architecture?: string;
  }): Promise<Made & { descriptor: object }> {
    const blobs = [];
    for (const tar of layers)
      blobs.push({
        mediaType: `application/vnd.oci.image.layer.v1.tar${compression ? `+${compression}` : ''}`,
        ...(await this.blob(compression ? await compressed(tar, compression) : tar)),
      });
    const whole = {
      architecture: of,
      os: 'linux',
      created: '1970-01-01T00:00:00Z',
      rootfs: { type: 'layers', diff_ids: layers.map(digestOf) },
      config,
    };
    const descriptor = await this.json('application/vnd.oci.image.manifest.v1+json', {
      schemaVersion: 2,
      mediaType: 'application/vnd.oci.image.manifest.v1+json',
      config: {
        mediaType: 'application/vnd.oci.image.config.v1+json',
        ...(await this.blob(Buffer.from(configBlob ?? JSON.stringify(whole)))),
      },
      layers: blobs,
    });
    return {
      digest: descriptor.digest,
      layers: blobs.map(({ digest }) => digest),
      descriptor: { ...descriptor, platform: { architecture: of, os: 'linux' } },
    };
  }

  async addIndex(
    manifests: readonly { descriptor: object }[],
  ): Promise<{ digest: string; descriptor: object }> {
    const mediaType = 'application/vnd.oci.image.index.v1+json';
    const descriptor = await this.json(mediaType, {
      schemaVersion: 2,
      mediaType,
      manifests: manifests.map((one) => one.descriptor),
    });
    return { digest: descriptor.digest, descriptor };
  }

  async finish({ descriptor }: { descriptor: object }): Promise<void> {
    await writeFiles(this.folder, {
      'oci-layout': JSON.stringify({ imageLayoutVersion: '1.0.0' }),
      'index.json': JSON.stringify({ schemaVersion: 2, manifests: [descriptor] }),
    });
  }

  async archive(path: string): Promise<string> {
    await run('tar', ['-C', this.folder, '-cf', path, '.']);
    return path;
  }

  private async json(
    mediaType: string,
    value: object,
  ): Promise<{ mediaType: string; digest: string; size: number }> {
    return { mediaType, ...(await this.blob(Buffer.from(JSON.stringify(value)))) };
  }

  private async blob(content: Buffer): Promise<{ digest: string; size: number }> {
    const digest = digestOf(content);
    await writeFiles(this.folder, { [`blobs/${digest.replace(':', '/')}`]: content });
    return { digest, size: content.length };
  }
}

/** An OCI archive of a layout, its image called `name` (org.opencontainers.image.ref.name) if one is given. */
export async function makeArchiveOf(layout: { path: string }, path: string, name?: string): Promise<string> {
  if (name !== undefined) {
    const index = JSON.parse(await readFile(join(layout.path, 'index.json'), 'utf8')) as {
      manifests: object[];
    };
    await writeFile(
      join(layout.path, 'index.json'),
      JSON.stringify({
        ...index,
        manifests: index.manifests.map((one) => ({
          ...one,
          annotations: { 'org.opencontainers.image.ref.name': name },
        })),
      }),
    );
  }
  return new Layout(layout.path).archive(path);
}

function digestOf(content: Buffer): string {
  return `sha256:${createHash('sha256').update(content).digest('hex')}`;
}

async function writeFiles(folder: string, files: Readonly<Record<string, string | Buffer>>): Promise<void> {
  for (const [path, content] of Object.entries(files)) {
    await mkdir(join(folder, path, '..'), { recursive: true });
    await writeFile(join(folder, path), content, {
      mode: content.toString().startsWith('#!') ? 0o755 : 0o644,
    });
  }
}

/** The same files give the same bytes, and so the same digest. */
async function tarOf(rootfs: string, work: string): Promise<Buffer> {
  const path = join(work, 'layer.tar');
  await run('tar', [
    '-C',
    rootfs,
    '--owner=0',
    '--group=0',
    '--numeric-owner',
    '--sort=name',
    '--mtime=@0',
    '-cf',
    path,
    '.',
  ]);
  return readFile(path);
}

async function compressed(tar: Buffer, compression: 'gzip' | 'zstd'): Promise<Buffer> {
  const running = run(compression, compression === 'gzip' ? ['-n'] : ['-q', '-c'], {
    encoding: 'buffer',
    maxBuffer: 256 << 20,
  });
  running.child.stdin?.end(tar);
  return (await running).stdout;
}
