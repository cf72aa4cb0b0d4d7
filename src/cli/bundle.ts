// `crisp bundle IMAGE DIR`: writes an image as an OCI bundle that crun and runc
// can run. `crisp bundle --validate DIR`: shows the problems of a bundle.
import { join, resolve } from 'node:path';
import { CrispError } from '../errors.js';
import { makeFolder, namesIn, remove } from '../host/files.js';
import { withUndo } from '../host/undo.js';
import type { Image } from '../shapes/image.js';
import { validateBundle, writeBundle } from '../oci/bundle.js';
import { containerSpec } from '../oci/container-spec.js';
import { withWorkingFolder } from '../oci/working-folder.js';
import { readHostFacts } from '../oci/host-facts.js';
import { inspectRootfs } from '../oci/inspect.js';
import { minimalSpec } from '../oci/minimal-spec.js';
import { ownSharedMemory } from '../oci/mounts.js';
import type { Spec } from '../shapes/spec.js';
import { containerConfig, sandboxConfig, type ContainerWish } from './container-config.js';
import { imageOf } from './image-of.js';
import { printJson } from './output.js';
import { UsageError } from './parse.js';
import { type Services, type PlaceFlags, withParts } from './services.js';
import { Signals } from './signals.js';
import { runTool } from './tool.js';

export interface BundleFlags extends PlaceFlags {
  readonly profile: string | undefined;
  readonly validate: boolean;
  readonly json: boolean;
}

const copyTimeoutMs = 600_000;

export async function bundleCommand(flags: BundleFlags, args: readonly string[]): Promise<number> {
  const [first = '', second] = args;
  if (flags.validate) {
    if (second !== undefined) throw new UsageError('with --validate, only DIR is given');
    return validate(resolve(first), flags.json);
  }
  if (second === undefined) throw new UsageError('DIR is missing');
  const profile = flags.profile ?? 'full';
  if (profile !== 'full' && profile !== 'minimal')
    throw new UsageError(`--profile must be full or minimal, not "${profile}"`);
  return withParts({ ...flags, makes: true }, async (services) => {
    await makeBundle(services, await imageOf(services, first, 'never'), resolve(second), profile);
    return 0;
  });
}

/** @returns 0 valid, 1 not */
async function validate(folder: string, json: boolean): Promise<number> {
  const issues = await validateBundle(folder);
  if (json) printJson(issues);
  else
    process.stdout.write(
      issues.length ? issues.map(({ path, message }) => `${path}: ${message}\n`).join('') : 'valid\n',
    );
  return issues.length ? 1 : 0;
}

/** Writes DIR/rootfs and DIR/config.json. @throws InvalidArgument if DIR is not empty */
async function makeBundle(
  services: Services,
  image: Image,
  folder: string,
  profile: 'full' | 'minimal',
): Promise<void> {
  if ((await namesIn(folder)).length > 0) {
    throw new CrispError('InvalidArgument', `${folder} is not empty`, { hint: 'give a new folder' });
  }
  const rootfs = join(folder, 'rootfs');
  const signals = new Signals();
  signals.hold();
  await withUndo('write bundle', async (undo) => {
    undo.push('bundle', () => Promise.all([remove(rootfs), remove(join(folder, 'config.json'))]));
    makeFolder(rootfs, 0o755);
    const view = `bundle-${process.pid}`;
    try {
      const source = await services.rootfs.mountImage(view, image);
      await runTool(['cp', '-a', '--reflink=auto', `${source}/.`, rootfs], {
        timeoutMs: copyTimeoutMs,
        stage: 'copy rootfs',
        errorId: 'StorageFailed',
      });
    } finally {
      await services.rootfs.unmountImage(view);
    }
    signals.check();
    writeBundle(
      folder,
      await withWorkingFolder(
        await (profile === 'full' ? fullSpec(services, image, rootfs) : smallSpec(image, rootfs)),
        rootfs,
      ),
    );
  }).finally(() => {
    signals.release();
  });
}

async function smallSpec(image: Image, rootfs: string): Promise<Spec> {
  const config = containerConfig(wishFor(image), image.config, false);
  return minimalSpec(
    image.config,
    (await inspectRootfs({ rootfs, config, imageMounts: new Map() })).accounts,
  );
}

/** The spec of a container without a pod: with new namespaces, its own /dev/shm, and no files of a pod. */
async function fullSpec(services: Services, image: Image, rootfs: string): Promise<Spec> {
  const host = readHostFacts(services.config);
  const wish = wishFor(image);
  const config = containerConfig(wish, image.config, host.seccompProfile !== undefined);
  const id = 'crisp';
  const pinned = { network: '/', ipc: '/', uts: '/' };
  const podFolder = '/nonexistent';
  const { spec } = containerSpec({
    config,
    sandbox: sandboxConfig(id, wish, id, ''),
    image: image.config,
    containerId: id,
    rootfs: 'rootfs',
    host,
    podFolder,
    sharedMemory: '/dev/shm',
    allowedAnnotations: [],
    volumes: [],
    facts: await inspectRootfs({ rootfs, config, imageMounts: new Map() }),
    plan: {
      id,
      name: id,
      namespace: '',
      uid: id,
      attempt: 0,
      labels: {},
      annotations: {},
      folder: podFolder,
      hostname: id,
      namespaces: pinned,
      cgroupParent: '',
    },
  });
  const { cgroupsPath: _, ...linux } = spec.linux;
  return {
    ...spec,
    hostname: id,
    annotations: { 'io.crisp.image': wish.image },
    mounts: spec.mounts
      .filter((mount) => !mount.source?.startsWith(podFolder))
      .map((mount) => (mount.destination === '/dev/shm' ? ownSharedMemory : mount)),
    linux: { ...linux, namespaces: linux.namespaces.map(({ type }) => ({ type })) },
  };
}

function wishFor(image: Image): ContainerWish {
  return {
    name: 'crisp',
    image: image.tags[0] ?? image.id,
    command: [],
    entrypoint: undefined,
    initProgram: undefined,
    env: [],
    volume: [],
    'read-only': false,
    'cap-add': [],
    'cap-drop': [],
    privileged: false,
    publish: [],
    label: [],
    annotation: [],
    workdir: undefined,
    memory: undefined,
    cpus: undefined,
    network: undefined,
    interactive: false,
    tty: false,
  };
}
