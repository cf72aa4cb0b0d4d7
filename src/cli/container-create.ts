// `crisp create` (and the first half of `crisp run`): a container that is a pod
// of its own, made by the same code as a pod's.
import { randomBytes } from 'node:crypto';
import { resolve } from 'node:path';
import { CrispError } from '../errors.js';
import { removePodCgroup } from '../host/cgroup.js';
import { exists, remove } from '../host/files.js';
import { withUndo } from '../host/undo.js';
import { stopSignal } from '../oci/signals.js';
import { prepareContainer, type ContainerSource } from '../pod/container.js';
import { planOf } from '../pod/plan.js';
import { makePod, releasePod, removePod, takeApart } from '../pod/pod.js';
import { bundleOf } from '../records/placed.js';
import { now } from '../records/records.js';
import { refOf, type StandaloneRecord } from '../records/standalone.js';
import type { Image } from '../shapes/image.js';
import type { SandboxPlan } from '../shapes/sandbox.js';
import { routeTo } from './backend.js';
import { containerConfig, pairs, sandboxConfig, type ContainerWish } from './container-config.js';
import { imageOf } from './image-of.js';
import { type Services, type PlaceFlags, withParts } from './services.js';
import { UsageError } from './parse.js';
import { Signals } from './signals.js';

export interface CreateFlags extends PlaceFlags {
  readonly name: string | undefined;
  readonly namespace: string | undefined;
  readonly handler: string | undefined;
  readonly rootfs: string | undefined;
  readonly pull: string | undefined;
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
 * Makes a container without starting it. Leaves nothing behind if this fails, or if a signal comes meanwhile.
 * @throws Cancelled, UsageError, ImageNotFound, NameInUse, HandlerNotReady and the errors of a refused spec
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

  // 1. Its image and its handler.
  const source = await sourceOf(services, flags, args);
  const wish: ContainerWish = { ...flags, name, image: source.name, command: source.command };
  const [labels, annotations] = [pairs(flags.label, '--label'), pairs(flags.annotation, '--annotation')];
  await services.makeFolders();
  signals.hold(); // the first choice of a handler runs a probe, which also makes a container
  const { backend, handler, rule, features } = await routeTo(services.config, services.state, {
    handler: flags.handler ?? '',
    namespace: flags.namespace ?? '',
    name,
    labels,
    annotations,
    ...(source.image ? { image: source.name } : {}),
  }).catch((error: unknown) => {
    signals.check();
    throw error;
  }); // a probe that was interrupted by a signal has no valid result
  signals.check();

  const { systemdCgroup } = services.host;
  const hostname = flags.network === 'host' ? '' : name.replace(/[^a-zA-Z0-9-]/g, '-').slice(0, 63);
  const sandbox = sandboxConfig(id, wish, hostname, systemdCgroup ? '/system.slice' : `/crisp-cli/${id}`);
  const plan: SandboxPlan = {
    ...planOf(services.state, id, sandbox, systemdCgroup),
    namespace: flags.namespace ?? '',
  };
  const folder = bundleOf(services.state, id);
  const record: StandaloneRecord = {
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
  return withUndo('create standalone container', async (undo) => {
    // 2. The intent, before anything that could be left behind.
    undo.push('record', (clean) => (clean ? services.records.delete(record) : undefined));
    await services.records.put(record); // before the name: `crisp gc` frees names without a record
    await services.records.takeName(name, id);

    // 3. Its pod.
    undo.push('cgroup', () => removeCgroupOf(plan));
    const pod = await makePod(undo, {
      config: sandbox,
      plan,
      backend,
      host: services.host,
      holderRuntimes: [],
      mayHaveOwnNetwork: flags.network === undefined,
    });

    // 4. Its bundle.
    const made = await prepareContainer(
      undo,
      services,
      {
        id,
        config: containerConfig(wish, services.host.seccompProfile !== undefined),
        sandbox: { config: sandbox, plan: pod.plan },
        source,
        handler,
        folder,
        logPath: record.logPath,
        stopSignal: record.stopSignal,
      },
      { backend, features, absentMountSources: 'refuse' },
    );

    // 5. The container.
    undo.push('log', () => remove(record.logPath));
    const backendState = await backend.create(made.plan);
    const done: StandaloneRecord = {
      ...record,
      complete: true,
      plan: pod.plan,
      podState: pod.backendState,
      notHonoured: [...made.notHonoured],
      backendState,
    };
    undo.push('container', () => backend.delete(refOf(done)));
    signals.check();
    return services.records.put(done);
  }).finally(() => backend.close());
}

interface Source extends ContainerSource {
  readonly image?: Image;
  readonly command: readonly string[];
}

/** An image of the store, an OCI archive or layout that is imported, or a folder. */
async function sourceOf(services: Services, flags: CreateFlags, args: readonly string[]): Promise<Source> {
  const user = flags.user === undefined ? {} : { User: flags.user };
  if (flags.rootfs !== undefined) {
    const folder = resolve(flags.rootfs);
    if (!(await exists(folder)))
      throw new CrispError('RootfsMissing', `--rootfs: ${folder} does not exist`, {
        hint: 'give a folder with a root filesystem',
      });
    if (args.length === 0) throw new UsageError('with --rootfs, COMMAND is missing');
    return { name: folder, folder, config: user, command: args };
  }
  const [text, ...command] = args;
  if (text === undefined) throw new UsageError('IMAGE is missing (or --rootfs DIR)');
  const image = await imageOf(services, text, flags.pull ?? 'missing');
  return {
    name: image.tags[0] ?? image.digests[0] ?? image.id,
    image,
    config: { ...image.config, ...user },
    command,
  };
}

/** Removes a container with everything that was made for it; every step is idempotent. */
export async function removeAll(services: Services, record: StandaloneRecord): Promise<void> {
  const { id, plan, podState } = record;
  const backend = services.backendOf(record);
  await backend.delete(refOf(record));
  await services.rootfs.unmount(id);
  await releasePod({ plan, backendState: podState }, backend);
  await removePod(plan.folder, undefined);
  await takeApart(record.folder, undefined); // in older versions it contained the pod
  await removeCgroupOf(plan);
  await remove(record.logPath);
  await services.records.delete(record);
}

/** The group that the runtime has made above the container's own; it contains no others. */
async function removeCgroupOf({ cgroupParent }: SandboxPlan): Promise<void> {
  if (!cgroupParent.endsWith('.slice')) await removePodCgroup(cgroupParent);
}
