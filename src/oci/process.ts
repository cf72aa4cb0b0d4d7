// The process of a container: arguments, environment, working folder. Pure.
import type { ContainerConfig__Output } from '../cri/generated/runtime/v1/ContainerConfig.js';
import { CrispError } from '../errors.js';
import type { ImageConfig } from '../shapes/image-config.js';

const defaultPath = 'PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin';

/**
 * The request's command replaces the image's entrypoint and drops its Cmd;
 * args replace Cmd (Kubernetes, "Define a Command and Arguments").
 * @throws InvalidArgument if there is no command
 */
export function containerArgs(
  config: Pick<ContainerConfig__Output, 'command' | 'args'>,
  image: ImageConfig,
): string[] {
  const entrypoint = config.command.length ? config.command : (image.Entrypoint ?? []);
  const rest = config.args.length ? config.args : config.command.length ? [] : (image.Cmd ?? []);
  const args = [...entrypoint, ...rest];
  for (const arg of args) noNul(arg, 'command and args');
  if (args.length === 0)
    throw new CrispError('InvalidArgument', 'there is no command: neither the request nor the image has one');
  return args;
}

/**
 * The default variables, then the environment of the image, of the request
 * and of CDI devices (a device plugin depends on its own values, and
 * containerd and CRI-O apply CDI last); the last value of a name takes
 * precedence.
 * @throws InvalidArgument for an invalid name
 */
export function containerEnv(
  config: Pick<ContainerConfig__Output, 'envs' | 'tty'>,
  image: ImageConfig,
  given: { readonly hostname: string; readonly home: string; readonly devices?: readonly string[] },
): string[] {
  const values = new Map<string, string>();
  const set = (entry: string): void => {
    values.set(entry.split('=', 1)[0] ?? '', entry);
  };
  set(defaultPath);
  if (config.tty) set('TERM=xterm');
  set(`HOSTNAME=${given.hostname}`);
  set(`HOME=${given.home}`);
  for (const entry of image.Env ?? []) if (entry.indexOf('=') > 0) set(noNul(entry, 'Env of the image')); // a bare name sets nothing
  for (const [index, { key, value }] of config.envs.entries()) {
    if (!key || key.includes('='))
      throw new CrispError('InvalidArgument', `envs[${index}].key: "${key}" is not a valid name`);
    set(noNul(`${key}=${value.toString()}`, `envs[${index}]`));
  }
  for (const entry of given.devices ?? []) set(noNul(entry, 'env of a CDI device'));
  return [...values.values()];
}

/** @throws InvalidArgument for a relative path */
export function workingFolder(
  config: Pick<ContainerConfig__Output, 'working_dir'>,
  image: ImageConfig,
): string {
  const folder = config.working_dir || image.WorkingDir || '/';
  if (!folder.startsWith('/'))
    throw new CrispError('InvalidArgument', `working_dir: "${folder}" must be an absolute path`);
  return noNul(folder, 'working_dir');
}

/** execve(2) would truncate the string there. */
function noNul(text: string, field: string): string {
  if (text.includes('\0'))
    throw new CrispError('InvalidArgument', `${field}: a NUL byte cannot be passed to a process`);
  return text;
}
