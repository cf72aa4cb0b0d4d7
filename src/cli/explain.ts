// `crisp explain FILE...`: a dry run of a pod or a container on this node: the
// backend and the rule that chose it, the commands, config.json, and the
// fields that are not honoured. Only reads; runs nothing and changes nothing.
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import type { SandboxPlan } from '../shapes/sandbox.js';
import { loadConfig, type Config } from '../config/config.js';
import type { ContainerConfig__Output } from '../cri/generated/runtime/v1/ContainerConfig.js';
import type { PodSandboxConfig__Output } from '../cri/generated/runtime/v1/PodSandboxConfig.js';
import { toCrispError } from '../errors.js';
import { cgroupDriver } from '../host/cgroup.js';
import { shown } from '../host/run.js';
import { mountedRootfs } from '../images/rootfs.js';
import { Images, imagesOptionsOf } from '../images/store.js';
import { templateOf } from '../images/templates.js';
import { checkPodSysctls } from '../pod/namespaces.js';
import { assembleContainer } from '../pod/container.js';
import { expectedPlan, planOf } from '../pod/plan.js';
import { bundleOf } from '../records/placed.js';
import { readHostFacts } from '../oci/host-facts.js';
import { inspectRootfs } from '../oci/inspect.js';
import { userMappings } from '../oci/namespaces.js';
import { stopSignal } from '../oci/signals.js';
import type { Spec } from '../shapes/spec.js';
import { conditions, route, withFallbacks, type Route } from '../config/router.js';
import { explanationOf, userNamespaceOf, type Explanation } from './backend.js';
import { CriJson } from './cri-json.js';
import { printJson } from './output.js';
import { readPods, type PodOfFile } from './pod-files.js';

export interface ExplainFlags {
  readonly config: string | undefined;
  readonly handler: string | undefined;
  readonly json: boolean;
  readonly full: boolean;
}

interface ContainerExplained {
  readonly name: string;
  readonly image: string;
  /** The reason why it would be refused; there is no spec then. */
  readonly refused?: string;
  readonly commands: Explanation['commands'];
  /** Other files that the backend writes beside config.json. */
  readonly files: Explanation['files'];
  readonly spec?: Spec;
  readonly notHonoured: readonly string[];
}

interface Explained extends Route {
  readonly pod: string;
  /** The reason why the pod itself would be refused. */
  readonly refused?: string;
  /** The fallbacks, in order: each is used while the probe of the one before fails. */
  readonly fallbacks: readonly string[];
  readonly containers: readonly ContainerExplained[];
  readonly unknownFields: readonly string[];
  readonly notes: readonly string[];
}

/** @returns 0, or 1 if something would be refused */
export async function explainCommand(flags: ExplainFlags, files: readonly string[]): Promise<number> {
  const config = loadConfig(flags.config);
  const pods = readPods(files);
  const explained: Explained[] = [];
  for (const pod of pods) explained.push(await explainOrRefuse(config, pod, flags.handler));
  if (flags.json) printJson(explained.length === 1 ? explained[0] : explained);
  else process.stdout.write(explained.map((pod) => inWords(pod, flags.full)).join('\n'));
  return explained.some((pod) => pod.refused ?? pod.containers.some((container) => container.refused))
    ? 1
    : 0;
}

/** A pod that cannot be explained does not hide the others. */
async function explainOrRefuse(config: Config, pod: PodOfFile, handler?: string): Promise<Explained> {
  const refused = (why: string): Explained => ({
    pod: pod.title,
    refused: why,
    handler: '',
    rule: '',
    fallbacks: [],
    containers: [],
    unknownFields: pod.unknownFields,
    notes: pod.notes,
  });
  if (pod.mistakes.length > 0) return refused(pod.mistakes.join('; '));
  try {
    return await explain(config, { ...pod, handler: handler ?? pod.handler });
  } catch (error) {
    return refused(toCrispError(error).report);
  }
}

async function explain(config: Config, pod: PodOfFile): Promise<Explained> {
  const json = new CriJson();
  const sandbox = json.sandbox(pod.sandbox, 'pod');
  const { name = '', namespace = '' } = sandbox.metadata ?? {};
  const routed = route(config, {
    handler: pod.handler,
    namespace,
    name,
    labels: sandbox.labels,
    annotations: sandbox.annotations,
  });
  const notes = [...pod.notes, ...skippedImageRules(config, pod.handler)];
  const containers: ContainerExplained[] = [];
  for (const { name: own, config: partial } of pod.containers) {
    containers.push(
      await explainContainer(
        config,
        routed.handler,
        sandbox,
        json.container(partial, `container ${own}`),
        notes,
      ),
    );
  }
  const refused = refusal(sandbox);
  return {
    pod: `${namespace}/${name}`,
    ...(refused ? { refused } : {}),
    ...routed,
    fallbacks: pod.handler ? [] : withFallbacks(config, routed.handler).slice(1),
    containers,
    unknownFields: [...pod.unknownFields, ...json.unknown],
    notes,
  };
}

function refusal({ linux }: PodSandboxConfig__Output): string | undefined {
  const options = linux?.security_context?.namespace_options;
  try {
    checkPodSysctls(linux?.sysctls ?? {}, {
      hostNetwork: options?.network === 'NODE',
      hostIpc: options?.ipc === 'NODE',
    });
    userMappings(options?.userns_options);
    return undefined;
  } catch (error) {
    return toCrispError(error).report;
  }
}

/** Notes about rules that never apply to a pod. */
function skippedImageRules(config: Config, handler: string): string[] {
  if (handler) return [];
  return config.routing.rules.flatMap((rule, index) =>
    rule.image === undefined
      ? []
      : [
          `routing.rules[${index}] (${conditions(rule)}) does not apply: a pod is routed before its images are known`,
        ],
  );
}

async function explainContainer(
  config: Config,
  handler: string,
  sandbox: PodSandboxConfig__Output,
  container: ContainerConfig__Output,
  notes: string[],
): Promise<ContainerExplained> {
  const name = container.metadata?.name ?? '';
  const id = `ID-OF-${name}`;
  const image = container.image?.image ?? '';
  const common = { name, image };
  try {
    const found = await lookUp(config, image);
    if (!found.present)
      notes.push(
        `container ${name}: the image ${image} is not on this node, so its command, environment and users are not known`,
      );
    // Mounts are used as written: their sources may exist only when the pod runs.
    const facts = {
      ...(await inspectRootfs({
        rootfs: found.accounts,
        config: { ...container, mounts: [] },
        imageMounts: new Map(),
      })),
      mounts: container.mounts.map((mount) => ({
        target: mount.container_path,
        source: mount.image?.image ? `IMAGE ${mount.image.image}` : mount.host_path,
        propagation: 'shared' as const,
      })),
    };
    const { plan, notHonoured } = assembleContainer(
      config,
      {
        id,
        config:
          found.present || container.command.length + container.args.length > 0
            ? container
            : { ...container, command: ['COMMAND OF THE IMAGE'] },
        sandbox: { config: sandbox, plan: podPlan(config, handler, sandbox) },
        source: { name: image, config: found.config, image: found },
        handler,
        folder: bundleOf(config.state, id),
        logPath: container.log_path ? join(sandbox.log_directory, container.log_path) : '',
        stopSignal: stopSignal(container.stop_signal, found.config.StopSignal),
        targetPid: 0,
      },
      {
        rootfs: mountedRootfs(config.state, id),
        isView: false,
        facts,
        volumes:
          config.runtime.image_volumes === 'bind'
            ? Object.keys(found.config.Volumes ?? {}).map((target, index) => ({
                target,
                source: join(config.root, 'containers', id, 'volumes', String(index)),
              }))
            : [],
        host: readHostFacts(config),
      },
    );
    const how = await explanationOf(config, config.state, handler, plan);
    return {
      ...common,
      commands: how.commands,
      files: how.files,
      spec: plan.spec,
      notHonoured: [...notHonoured, ...how.notHonoured],
    };
  } catch (error) {
    return { ...common, refused: toCrispError(error).report, commands: [], files: [], notHonoured: [] };
  }
}

/** The image's config, and the layer with its passwd file. */
async function lookUp(config: Config, reference: string) {
  const images = new Images(imagesOptionsOf(config));
  const image = reference ? await images.find(reference) : undefined;
  if (!image)
    return {
      present: false,
      id: 'IMAGE-ID',
      template: templateOf(reference),
      config: {},
      accounts: '/nonexistent',
    };
  const layers = await images.layers(image);
  return {
    present: true,
    id: image.id,
    template: image.template,
    config: image.config,
    accounts: layers.find((layer) => existsSync(join(layer, 'etc/passwd'))) ?? layers[0] ?? '/nonexistent',
  };
}

function podPlan(config: Config, handler: string, sandbox: PodSandboxConfig__Output): SandboxPlan {
  const plan = planOf(
    config.state,
    'POD-ID',
    sandbox,
    cgroupDriver(config.runtime.cgroup_driver) === 'systemd',
  );
  return expectedPlan(plan, sandbox, userNamespaceOf(config, config.state, handler, plan));
}

/** A summary; with `full` also the commands and the files that they read. */
function inWords(pod: Explained, inFull: boolean): string {
  const lines = [
    `pod ${pod.pod}`,
    ...(pod.refused ? [`  would be refused: ${pod.refused}`] : []),
    ...(pod.handler ? [`  handler: ${pod.handler}`, `  decided by: ${pod.rule}`] : []),
    ...(pod.fallbacks.length ? [`  while its probe fails: ${pod.fallbacks.join(', then ')}`] : []),
    ...pod.unknownFields.map((field) => `  unknown field: ${field}`),
    ...pod.containers.flatMap((container) => [
      `  container ${container.name} (${container.image})`,
      container.refused
        ? `    would be refused: ${container.refused}`
        : `    not honoured: ${container.notHonoured.join(', ') || 'nothing'}`,
    ]),
    ...pod.notes.map((note) => `  note: ${note}`),
    ...(inFull ? pod.containers.flatMap(details) : []),
  ];
  return `${lines.join('\n')}\n`;
}

function details(container: ContainerExplained): string[] {
  const files = [
    ...(container.spec
      ? [{ path: 'config.json', text: JSON.stringify(shortened(container.spec), undefined, 2) }]
      : []),
    ...container.files,
  ];
  return [
    '',
    `container ${container.name} (${container.image})`,
    ...container.commands.map(({ what, argv }) => `  ${what}: ${shown(argv)}`),
    ...files.flatMap(({ path, text }) => [
      `  ${path}:`,
      ...text
        .trimEnd()
        .split('\n')
        .map((line) => `    ${line}`),
    ]),
  ];
}

/** Without the system calls of the seccomp profile; --json has them. */
function shortened(spec: Spec): object {
  const { seccomp, ...linux } = spec.linux;
  return {
    ...spec,
    linux: {
      ...linux,
      ...(seccomp ? { seccomp: `${seccomp.defaultAction}, ${seccomp.syscalls?.length ?? 0} rules` } : {}),
    },
  };
}
