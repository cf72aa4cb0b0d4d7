// `crisp create` (and the first half of `crisp run`): a container that is a pod
// of its own, made of the same parts as a pod's.
import { randomBytes } from 'node:crypto';
import { join, resolve } from 'node:path';
import type { SandboxPlan } from '../shapes/sandbox.js';
import { CrispError } from '../errors.js';
import { exists, makeClosedFolder, remove } from '../host/files.js';
import { shiftOf } from '../images/rootfs.js';
import type { Image } from '../shapes/image.js';
import { makeVolumes } from '../images/volumes.js';
import { bringLoopbackUp, pinNamespaces } from '../pod/namespaces.js';
import { writeBundle } from '../oci/bundle.js';
import { containerSpec } from '../oci/container-spec.js';
import { withWorkingFolder } from '../oci/working-folder.js';
import { readHostFacts } from '../oci/host-facts.js';
import type { ImageConfig } from '../shapes/image-config.js';
import { inspectRootfs } from '../oci/inspect.js';
import { rootGroupOf } from '../oci/namespaces.js';
import { podFilesOf } from '../pod/files.js';
import { mountPodMemory, podMemory, sharedMemory } from '../pod/memory.js';
import { signalNumber, stopSignal } from '../oci/signals.js';
import { now } from '../records/records.js';
import { takeApart } from '../pod/pod.js';
import { refOf, type StandaloneRecord } from '../records/standalone.js';
import { routeTo } from './backend.js';
import { containerConfig, pairs, sandboxConfig, type ContainerWish } from './container-config.js';
import { type Services, type PlaceFlags, withParts } from './services.js';
import { UsageError } from './parse.js';
import { Signals } from './signals.js';

export interface CreateFlags extends PlaceFlags {
  readonly name: string | undefined;
  readonly namespace: string | undefined;
  readonly handler: string | undefined;
  readonly rootfs: string | undefined;
  readonly env: readonly string[];
  readonly volume: readonly string[];
  readonly label: readonly string[];
  readonly annotation: readonly string[];
  readonly user: string | undefined;
  readonly workdir: string | undefined;
  readonly memory: string | undefined;
  readonly cpus: string | undefined;
  readonly network: string | undefined;
  readonly interactive: boolean;
  readonly tty: boolean;
}

export async function createCommand(flags: CreateFlags, args: readonly string[]): Promise<number> {
  return withParts(flags, async (services) => {
    const signals = new Signals();
    try {
      const record = await createContainer(services, flags, args, signals);
      process.stdout.write(`${record.id}\n`);
      return 0;
    } finally {
      signals.release();
    }
  });
}

/**
 * Makes a container, not yet running. Nothing is left of it when this fails, or when a signal comes meanwhile.
 * @throws Cancelled, UsageError, ImageNotFound, NameInUse, HandlerNotReady and what a spec can be refused for
 */
export async function createContainer(
  services: Services,
  flags: CreateFlags,
  args: readonly string[],
  signals: Signals,
): Promise<StandaloneRecord> {
  const id = randomBytes(32).toString('hex');
  const name = flags.name ?? id.slice(0, 12);
  if (!/^[a-zA-Z0-9][\w.-]{0,62}$/.test(name))
    throw new CrispError('InvalidArgument', `--name "${name}" must be made of letters, digits, _ . and -`);
  if (flags.network !== undefined && flags.network !== 'none' && flags.network !== 'host')
    throw new UsageError(`--network must be none or host, not "${flags.network}"`);

  // 1. What it is made of, and who runs it.
  const source = await sourceOf(services, flags, args);
  const wish: ContainerWish = { ...flags, name, image: source.name, command: source.command };
  const [labels, annotations] = [pairs(flags.label, '--label'), pairs(flags.annotation, '--annotation')];
  await services.makeFolders();
  signals.hold(); // the first choice of a handler is a probe, which makes a container as well
  const { backend, handler, rule } = await routeTo(services.config, services.state, {
    handler: flags.handler ?? '',
    namespace: flags.namespace ?? '',
    name,
    labels,
    annotations,
    ...(source.image ? { image: source.name } : {}),
  }).catch((error: unknown) => {
    signals.check();
    throw error;
  }); // a probe that a signal has spoilt proves nothing
  signals.check();

  // 2. The intent, before anything that could leak.
  const host = readHostFacts(services.config);
  const folder = join(services.state, 'bundles', id);
  const hostname = flags.network === 'host' ? '' : name.replace(/[^a-zA-Z0-9-]/g, '-').slice(0, 63);
  const cgroupParent = host.systemdCgroup ? '/system.slice' : `/crisp-cli/${id}`;
  const plan: SandboxPlan = {
    id,
    name,
    namespace: flags.namespace ?? '',
    uid: id,
    attempt: 0,
    labels,
    annotations,
    folder: join(folder, 'pod'),
    hostname: hostname || undefined,
    namespaces: {},
    cgroupParent,
  };
  let record: StandaloneRecord = {
    version: 1,
    id,
    name,
    image: source.name,
    imageId: source.image?.id ?? '',
    handler,
    rule,
    complete: false,
    createdAt: now(),
    folder,
    logPath: services.records.logOf(id),
    stopSignal: stopSignal('SIGNAL_RUNTIME_DEFAULT', source.config.StopSignal),
    terminal: flags.tty,
    plan,
    notHonoured: [],
    backendState: undefined,
  };
  try {
    await services.records.put(record); // before the name: `crisp gc` frees those of no record
    await services.records.takeName(name, id);

    // 3. Its pod: files, namespaces, shared memory.
    const onHost = flags.network === 'host';
    const idMaps = onHost ? undefined : backend.userNamespace?.(plan);
    makeClosedFolder(folder, rootGroupOf(idMaps));
    makeClosedFolder(plan.folder, rootGroupOf(idMaps));
    const config = containerConfig(wish, host.seccompProfile !== undefined);
    const sandbox = sandboxConfig(id, wish, hostname, cgroupParent);
    await mountPodMemory(plan.folder, await podFilesOf(sandbox));
    const ownNetwork = flags.network === undefined && (backend.ownNetwork?.(plan) ?? false);
    const namespaces = await pinNamespaces(
      join(plan.folder, 'ns'),
      { network: !onHost && !ownNetwork, ipc: true, uts: !onHost, user: idMaps },
      { hostname, sysctls: {} },
    );
    if (namespaces.network) await bringLoopbackUp(namespaces.network);
    const pinned: SandboxPlan = { ...plan, namespaces, ownNetwork, ...(idMaps ? { idMaps } : {}) };

    // 4. The rootfs, the spec, the container.
    const form = backend.rootfs(pinned, source.image?.template);
    if (!source.image && (form.kind === 'own' || idMaps))
      throw new CrispError(
        'Unsupported',
        `handler ${handler} runs no folder as it is: its containers have a copy, or other ids`,
        { hint: 'make an OCI image of the folder, or choose another handler' },
      );
    const rootfs = source.image
      ? await services.rootfs.provide(form, id, source.image, pinned)
      : (source.folder ?? '');
    const facts = await inspectRootfs({ rootfs, config, imageMounts: new Map() });
    const isView = form.kind === 'own';
    const volumes = await makeVolumes({
      mode: source.image ? services.config.runtime.image_volumes : 'ignore',
      image: source.config,
      rootfs,
      isView,
      shift: isView ? undefined : shiftOf(pinned),
      taken: facts.mounts.map(({ target }) => target),
      folder: services.rootfs.volumes(id),
    });
    const { spec: made, notHonoured: left } = containerSpec({
      config,
      sandbox,
      image: source.config,
      plan: pinned,
      containerId: id,
      rootfs,
      facts,
      volumes,
      host,
      podFolder: podMemory(plan.folder),
      sharedMemory: sharedMemory(plan.folder),
      allowedAnnotations: services.config.handlers[handler]?.allowed_annotations ?? [],
    });
    const spec = await withWorkingFolder(made, rootfs);
    const notHonoured = [...left, ...(backend.notHonoured?.(spec) ?? [])];
    writeBundle(folder, spec);
    const backendState = await backend.create({
      id,
      name,
      attempt: 0,
      image: source.name,
      imageId: source.image?.id ?? '',
      template: source.image?.template,
      sandbox: pinned,
      folder,
      spec,
      ...(isView ? {} : { shiftedSources: volumes.map(({ source: from }) => from) }),
      logPath: record.logPath,
      stdin: flags.interactive,
      stdinOnce: flags.interactive,
      stopSignal: String(signalNumber(record.stopSignal)),
    });
    signals.check();
    record = await services.records.put({
      ...record,
      complete: true,
      plan: pinned,
      notHonoured,
      backendState,
    });
    return record;
  } catch (error) {
    await removeAll(services, record);
    throw error;
  } finally {
    await backend.close();
  }
}

interface Source {
  readonly name: string;
  /** undefined: a folder. */
  readonly image: Image | undefined;
  readonly folder: string | undefined;
  readonly config: ImageConfig;
  readonly command: readonly string[];
}

/** An image of the store, an OCI archive or layout that is imported, or a folder. */
async function sourceOf(services: Services, flags: CreateFlags, args: readonly string[]): Promise<Source> {
  const user = flags.user === undefined ? {} : { User: flags.user };
  if (flags.rootfs !== undefined) {
    const folder = resolve(flags.rootfs);
    if (!(await exists(folder)))
      throw new CrispError('RootfsMissing', `--rootfs: ${folder} does not exist`, {
        hint: 'name a folder that holds a root filesystem',
      });
    if (args.length === 0) throw new UsageError('with --rootfs, COMMAND is missing');
    return { name: folder, image: undefined, folder, config: user, command: args };
  }
  const [text, ...command] = args;
  if (text === undefined) throw new UsageError('IMAGE is missing (or --rootfs DIR)');
  const image = await imageOf(services, text);
  return {
    name: image.tags[0] ?? image.digests[0] ?? image.id,
    image,
    folder: undefined,
    config: { ...image.config, ...user },
    command,
  };
}

/** @throws ImageNotFound */
export async function imageOf(services: Pick<Services, 'images'>, text: string): Promise<Image> {
  if (/^\.{0,2}\//.test(text)) {
    const path = resolve(text);
    if (!(await exists(path)))
      throw new CrispError('ImageNotFound', `${path} does not exist`, {
        hint: 'name an OCI archive (.tar), an OCI layout folder, or an image of `crictl images`',
      });
    return services.images.importArchive(
      path,
      `localhost/${path
        .replace(/^.*\//, '')
        .replace(/\.tar$/, '')
        .toLowerCase()
        .replace(/[^a-z0-9]+/g, '-')
        .replace(/^-|-$/g, '')}:latest`,
    );
  }
  const image = (await services.images.find(text)) ?? (await services.images.findTemplate(text));
  if (!image)
    throw new CrispError('ImageNotFound', `image ${text} is not on this node`, {
      hint: `pull it with \`crictl pull ${text}\`, or name an OCI archive: ./FILE.tar`,
    });
  return image;
}

/** Removes a container with all that was made for it; every step may find its work done. */
export async function removeAll(services: Services, record: StandaloneRecord): Promise<void> {
  await services.backendOf(record).delete(refOf(record));
  await services.rootfs.unmount(record.id);
  await takeApart(
    record.folder,
    record.plan.cgroupParent.endsWith('.slice') ? undefined : record.plan.cgroupParent,
  );
  await remove(record.logPath);
  await services.records.delete(record);
}
