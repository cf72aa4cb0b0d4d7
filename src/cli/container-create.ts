// `crisp create` (and the first half of `crisp run`): a container that is a pod
// of its own, made by the same code as a pod's.
import { randomBytes } from 'node:crypto';
import { resolve } from 'node:path';
import { CrispError } from '../errors.js';
import { exists, remove } from '../host/files.js';
import { findProgram } from '../host/programs.js';
import { Undo, withUndo } from '../host/undo.js';
import type { Network } from '../network/cni.js';
import { stopSignal } from '../oci/signals.js';
import { prepareContainer, type ContainerSource } from '../pod/container.js';
import { checkHostname, planOf } from '../pod/plan.js';
import { makePod } from '../pod/pod.js';
import { bundleOf } from '../records/placed.js';
import { now } from '../records/stored.js';
import { refOf, type StandaloneRecord } from '../records/standalone.js';
import type { Image } from '../shapes/image.js';
import type { SandboxPlan } from '../shapes/sandbox.js';
import { routeTo, type Routed } from './backend.js';
import { containerConfig, pairs, sandboxConfig, tmpfsMount, type ContainerWish } from './container-config.js';
import { environmentOf, type EnvironmentFlags } from './environment.js';
import { removeCgroupOf, removeEnded } from './container-remove.js';
import { inFlags } from './flag-errors.js';
import { imageOf } from './image-of.js';
import { type Services, type PlaceFlags, withParts } from './services.js';
import { UsageError } from './parse.js';
import { Signals } from './signals.js';

export interface CreateFlags extends PlaceFlags, EnvironmentFlags {
  readonly name: string | undefined;
  readonly namespace: string | undefined;
  readonly handler: string | undefined;
  readonly rootfs: string | undefined;
  readonly pull: string | undefined;
  readonly entrypoint: string | undefined;
  readonly init: boolean;
  readonly volume: readonly string[];
  readonly tmpfs: readonly string[];
  readonly 'read-only': boolean;
  readonly 'cap-add': readonly string[];
  readonly 'cap-drop': readonly string[];
  readonly privileged: boolean;
  readonly hostname: string | undefined;
  readonly publish: readonly string[];
  readonly restart: string | undefined;
  readonly label: readonly string[];
  readonly annotation: readonly string[];
  readonly user: string | undefined;
  readonly workdir: string | undefined;
  readonly memory: string | undefined;
  readonly cpus: string | undefined;
  readonly network: string | undefined;
  readonly interactive: boolean;
  readonly tty: boolean;
  readonly guest: boolean;
}

export async function createCommand(flags: CreateFlags, args: readonly string[]): Promise<number> {
  return withParts({ ...flags, makes: true }, async (services) => {
    const signals = new Signals();
    try {
      const made = flags.guest
        ? await createGuest(services, flags, args, signals, false)
        : (await createContainer(services, flags, args, signals)).id;
      process.stdout.write(`${made}\n`);
      return 0;
    } finally {
      signals.release();
    }
  });
}

/**
 * Makes a container without starting it. Undoes everything if this fails or is interrupted by a signal.
 * @throws Cancelled, UsageError, ImageNotFound, NameInUse, HandlerNotReady and the errors of a refused spec
 */
export async function createContainer(
  services: Services,
  flags: CreateFlags,
  args: readonly string[],
  signals: Signals,
): Promise<StandaloneRecord> {
  const begun = await begin(services, flags, args, signals);
  const { id, name, source, network, config, moreMounts, sandbox, plan, folder } = begun;
  const { backend, handler, rule, features } = begun;
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
    stdin: flags.interactive,
    plan,
    ...(flags.publish.length ? { ports: [...flags.publish] } : {}),
    notHonoured: [],
    backendState: undefined,
  };
  return withUndo('create standalone container', async (undo) => {
    // 1. The intent, before anything that could leak.
    undo.push('record', (clean) => (clean ? services.records.delete(record) : undefined));
    await services.records.put(record); // before the name: `crisp gc` frees names without a record
    await services.records.takeName(name, id);

    // 2. Its pod.
    undo.push('cgroup', () => removeCgroupOf(plan));
    const pod = await makePod(undo, {
      config: sandbox,
      plan,
      backend,
      host: services.host,
      holderRuntimes: [],
      mayHaveOwnNetwork: network === undefined,
      ...(network === 'cni' ? { network: await networkFor(services, flags) } : {}),
    });

    // 3. Its bundle.
    const made = await prepareContainer(
      undo,
      services,
      {
        id,
        config,
        sandbox: { config: sandbox, plan: pod.plan },
        source,
        handler,
        folder,
        logPath: record.logPath,
        stopSignal: record.stopSignal,
        moreMounts,
      },
      { backend, features, absentMountSources: 'refuse' },
    );

    // 4. The container.
    undo.push('log', () => remove(record.logPath));
    const backendState = await backend.create(made.plan);
    const done: StandaloneRecord = {
      ...record,
      complete: true,
      plan: pod.plan,
      podState: pod.backendState,
      ...(pod.attachment ? { addresses: [...pod.attachment.ips] } : {}),
      notHonoured: [...made.notHonoured],
      backendState,
    };
    undo.push('container', () => backend.delete(refOf(done)));
    signals.check();
    return services.records.put(done);
  })
    .catch((error: unknown) => {
      throw inFlags(error);
    })
    .finally(() => backend.close());
}

/**
 * Makes an ordinary guest of Proxmox; everything else that this makes is removed again.
 * @returns its VMID
 * @throws Unsupported for other handlers, and the errors of createContainer()
 */
export async function createGuest(
  services: Services,
  flags: CreateFlags,
  args: readonly string[],
  signals: Signals,
  starts: boolean,
): Promise<number> {
  const given = {
    rootfs: flags.rootfs !== undefined,
    volume: flags.volume.length > 0,
    tmpfs: flags.tmpfs.length > 0,
    publish: flags.publish.length > 0,
    'cap-add': flags['cap-add'].length > 0,
    'cap-drop': flags['cap-drop'].length > 0,
    privileged: flags.privileged,
    'read-only': flags['read-only'],
    init: flags.init,
    interactive: flags.interactive,
    tty: flags.tty,
  };
  for (const [name, isGiven] of Object.entries(given))
    if (isGiven) throw new UsageError(`--guest: a guest of Proxmox has no --${name}`);
  if (flags.network === 'host' || flags.network === 'cni')
    throw new UsageError('--guest: a guest has a network of its own, or none');
  const begun = await begin(services, flags, args, signals);
  const { id, source, config, backend, handler, features, sandbox, folder } = begun;
  const undo = new Undo('create guest');
  try {
    if (!backend.makeGuest)
      throw new CrispError('Unsupported', `--guest: the handler ${handler} makes no guests of Proxmox`);
    const plan = { ...begun.plan, ownNetwork: flags.network === undefined };
    const made = await prepareContainer(
      undo,
      services,
      {
        id,
        config,
        sandbox: { config: sandbox, plan },
        source,
        handler,
        folder,
        logPath: '',
        stopSignal: stopSignal('SIGNAL_RUNTIME_DEFAULT', source.config.StopSignal),
      },
      { backend, features, absentMountSources: 'refuse' },
    );
    signals.check();
    return await backend.makeGuest(made.plan, starts);
  } finally {
    await undo.run(); // the files are in the guest's volume
    await backend.close();
  }
}

interface Begun extends Routed {
  readonly id: string;
  readonly name: string;
  readonly source: Source;
  readonly network: string | undefined;
  readonly config: ReturnType<typeof containerConfig>;
  readonly moreMounts: ReturnType<typeof tmpfsMount>[];
  readonly sandbox: ReturnType<typeof sandboxConfig>;
  readonly plan: SandboxPlan;
  readonly folder: string;
}

/** Resolves the parts and the backend of a container. Makes only folders and, on first use, a probe. */
async function begin(
  services: Services,
  flags: CreateFlags,
  args: readonly string[],
  signals: Signals,
): Promise<Begun> {
  const id = randomBytes(32).toString('hex');
  const name = flags.name ?? id.slice(0, 12);
  if (!/^[a-zA-Z0-9][\w.-]{0,62}$/.test(name))
    throw new CrispError('InvalidArgument', `--name "${name}" must be made of letters, digits, _ . and -`);
  const network = networkOf(flags);
  checkRestart(flags);
  if (flags.hostname !== undefined) checkHostname(flags.hostname, '--hostname');

  const source = await sourceOf(services, flags, args);
  const wish: ContainerWish = {
    ...flags,
    name,
    image: source.name,
    command: source.command,
    env: await environmentOf(flags),
    network,
    initProgram: flags.init ? await initProgram() : undefined,
  };
  // Reports mistakes before anything is made.
  const hasSeccomp = !flags.guest && services.host.seccompProfile !== undefined;
  const config = containerConfig(wish, source.config, hasSeccomp);
  const moreMounts = flags.tmpfs.map(tmpfsMount);
  const [labels, annotations] = [pairs(flags.label, '--label'), pairs(flags.annotation, '--annotation')];
  await services.makeFolders();
  await removeEnded(services); // also frees their names
  signals.hold(); // choosing a handler may run a probe, which makes a container
  const routed = await routeTo(services.config, services.state, {
    handler: flags.handler ?? '',
    namespace: flags.namespace ?? '',
    name,
    labels,
    annotations,
    ...(source.image ? { image: source.name } : {}),
  }).catch((error: unknown) => {
    signals.check();
    throw error;
  }); // a probe that was interrupted by a signal has no meaning
  signals.check();

  const { systemdCgroup } = services.host;
  const hostname =
    network === 'host' ? '' : (flags.hostname ?? name.replace(/[^a-zA-Z0-9-]/g, '-').slice(0, 63));
  const sandbox = sandboxConfig(id, wish, hostname, systemdCgroup ? '/system.slice' : `/crisp-cli/${id}`);
  const plan: SandboxPlan = {
    ...planOf(services.state, id, sandbox, systemdCgroup),
    namespace: flags.namespace ?? '',
  };
  const folder = bundleOf(services.state, id);
  return { ...routed, id, name, source, network, config, moreMounts, sandbox, plan, folder };
}

/** @throws UsageError */
function networkOf({ network, publish }: CreateFlags): string | undefined {
  if (network !== undefined && !['none', 'host', 'cni'].includes(network))
    throw new UsageError(`--network must be none, host or cni, not "${network}"`);
  if (publish.length === 0) return network;
  if (network === undefined || network === 'cni') return 'cni';
  throw new UsageError(
    `--publish needs --network cni: a container of --network ${network} has no address of its own`,
  );
}

/** @throws UsageError */
function checkRestart({ restart }: CreateFlags): void {
  if (restart !== undefined && restart !== 'no')
    throw new UsageError(
      `--restart ${restart}: nothing watches single containers; run it as a pod, or as a systemd service with \`crisp run\` and Restart=`,
    );
}

async function initProgram(): Promise<string> {
  return findProgram('catatonit').catch(() => {
    throw new CrispError('ToolMissing', '--init needs catatonit, which is not installed', {
      tool: 'catatonit',
      hint: 'apt install catatonit',
    });
  });
}

/** @throws UnsupportedField */
async function networkFor(services: Services, { publish }: CreateFlags): Promise<Network> {
  const network = await services.network;
  if (publish.length > 0 && network.status().ready && !network.mapsPorts)
    throw new CrispError('UnsupportedField', '--publish: no plugin of the pod network maps ports', {
      hint: `add {"type": "portmap", "capabilities": {"portMappings": true}} to the plugins of the conflist in ${services.config.network.conf_dir}`,
    });
  return network;
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
