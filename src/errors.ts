// All errors that a caller can get, in one catalogue.
//
// An error is made where it is detected (a CrispError with its catalogue id)
// and becomes a gRPC status in one place, toStatus(), which cri/serve.ts calls.
// All details (id, stage, tool, the tail of its stderr, hint) are in the status
// message, because `kubectl describe pod` shows nothing else.
// Only this file of the package: the whole of it takes a tenth of a second to load, and most commands use no gRPC.
import { Status as Code } from '@grpc/grpc-js/build/src/constants.js';

/** The core errors and their gRPC status codes. */
export const coreErrors = {
  InvalidInput: Code.INVALID_ARGUMENT,
  InvalidConfig: Code.FAILED_PRECONDITION,
  WrongState: Code.FAILED_PRECONDITION,
  RootfsNotFound: Code.FAILED_PRECONDITION,
  NotFound: Code.NOT_FOUND,
  AlreadyExists: Code.ALREADY_EXISTS,
  PermissionDenied: Code.PERMISSION_DENIED,
  Timeout: Code.DEADLINE_EXCEEDED,
  Cancelled: Code.CANCELLED,
  NetworkError: Code.UNAVAILABLE,
  Locked: Code.UNAVAILABLE,
  OutOfMemory: Code.RESOURCE_EXHAUSTED,
  DiskFull: Code.RESOURCE_EXHAUSTED,
  StorageError: Code.INTERNAL,
  UnsupportedOperation: Code.UNIMPLEMENTED,
  RuntimeError: Code.INTERNAL,
} as const;
export type CoreError = keyof typeof coreErrors;

interface CatalogueEntry {
  /** The core error it belongs to, which decides the gRPC status. */
  readonly core: CoreError;
  /** The meaning, for docs/errors.md. */
  readonly meaning: string;
  /** How to fix it; the default hint of such an error. Empty: the message is enough. */
  readonly hint: string;
}

/**
 * id -> entry.  The ids are part of the interface: they are in messages, logs
 * and docs/errors.md (generated from this table), so they are never renamed.
 */
export const catalogue = {
  InvalidArgument: {
    core: 'InvalidInput',
    meaning: 'A field of the request is missing, malformed or out of range.',
    hint: '',
  },
  UnsupportedField: {
    core: 'InvalidInput',
    meaning:
      'The request asks for something that this host or backend cannot do, and ignoring it would be unsafe.',
    hint: 'remove the field, or run the pod where it is supported',
  },
  UnknownHandler: {
    core: 'InvalidInput',
    meaning: 'The runtime handler (RuntimeClass) of the pod is not configured here.',
    hint: 'use a handler that is there, or add one of this name to handlers in the configuration',
  },
  HandlerNotReady: {
    core: 'WrongState',
    meaning: 'The runtime handler is configured but its probe failed.',
    hint: 'see `crisp check` for the reason',
  },
  DaemonUnreachable: {
    core: 'NetworkError',
    meaning: 'A command could not reach the daemon over its socket.',
    hint: 'start it (`systemctl start crisp`), or name its socket with --listen',
  },
  DaemonRunning: {
    core: 'WrongState',
    meaning: 'Another crisp runs with the same state folder.',
    hint: 'stop it first (`systemctl stop crisp`), or give this one a socket, a root and a state folder of its own',
  },
  InvalidConfigFile: {
    core: 'InvalidConfig',
    meaning: 'The configuration has an unknown key or a value of a wrong type.',
    hint: 'see docs/configuration.md, or `crisp config --default`',
  },
  SandboxNotFound: {
    core: 'NotFound',
    meaning: 'No pod sandbox has this id.',
    hint: 'list them with `crictl pods`',
  },
  ContainerNotFound: {
    core: 'NotFound',
    meaning: 'No container has this id.',
    hint: 'list them with `crictl ps -a`',
  },
  ImageNotFound: {
    core: 'NotFound',
    meaning: 'The image is not on this node.',
    hint: 'pull it first with `crictl pull`',
  },
  NotFoundInRegistry: {
    core: 'NotFound',
    meaning: 'The registry has no such image or tag.',
    hint: 'check the name and the tag',
  },
  NameInUse: {
    core: 'AlreadyExists',
    meaning: 'Another pod or container of this name and attempt exists, made from a different request.',
    hint: 'remove it first, or raise metadata.attempt',
  },
  SandboxNotReady: {
    core: 'WrongState',
    meaning: 'The pod sandbox is stopped or its namespaces are gone, so nothing can be started in it.',
    hint: 'run a new sandbox',
  },
  RecordUnreadable: {
    core: 'WrongState',
    meaning:
      'The record of the pod or container was written by another version of crisp, or is damaged. The record is kept, and so is its pod or container.',
    hint: 'start the version of crisp that wrote the record, or remove the pod by hand; `crisp status` lists such records',
  },
  WrongContainerState: {
    core: 'WrongState',
    meaning: 'The container is not in the state that the call requires.',
    hint: 'see its state with `crictl inspect`',
  },
  ImageInUse: {
    core: 'WrongState',
    meaning: 'A container still uses the image.',
    hint: 'remove the container first (`crictl ps -a`)',
  },
  RootfsMissing: {
    core: 'RootfsNotFound',
    meaning: 'The root filesystem of the image or container is missing or empty.',
    hint: 'remove the image and pull it again',
  },
  MountSourceMissing: {
    core: 'WrongState',
    meaning:
      'The host path of a mount does not exist, and is not created (runtime.absent_mount_sources_to_reject, or a command of `crisp` without a daemon).',
    hint: 'create the path on the host, or correct the mount',
  },
  FileRefused: {
    core: 'InvalidInput',
    meaning: 'A file is too large, or is not a regular file.',
    hint: 'correct the file that the message names; if it belongs to an image, use another image',
  },
  PathEscapes: {
    core: 'InvalidInput',
    meaning: 'A path leaves the folder that it must stay in.',
    hint: 'use a path without .. and without symlinks out of the folder',
  },
  UserNotFound: {
    core: 'InvalidInput',
    meaning: 'The user or group is not in the passwd or group file of the image.',
    hint: 'use a numeric id, or a name that the image has',
  },
  PermissionDenied: {
    core: 'PermissionDenied',
    meaning: 'The kernel or a tool refused the operation.',
    hint: 'run crisp as root with the capabilities that `crisp check` lists',
  },
  RegistryDenied: {
    core: 'PermissionDenied',
    meaning: 'The registry refused the credentials, or requires credentials.',
    hint: 'check the imagePullSecrets of the pod, or auth.json of the node',
  },
  SignatureValidationFailed: {
    core: 'PermissionDenied',
    meaning: 'The signature policy (policy.json) rejects the image.',
    hint: 'sign the image, or change policy.json',
  },
  RegistryUnavailable: {
    core: 'NetworkError',
    meaning: 'The registry cannot be reached or failed on its side.',
    hint: 'check the network, DNS and registries.conf of the node',
  },
  ImageCorrupt: {
    core: 'StorageError',
    meaning: 'The data of the registry does not match its digest, or cannot be unpacked.',
    hint: 'push the image again; check the proxy or mirror in between',
  },
  PullStalled: {
    core: 'Timeout',
    meaning: 'A pull made no progress for longer than allowed.',
    hint: 'check the network; the limit is images.pull_progress_timeout_seconds',
  },
  ImageVolumeMountFailed: {
    core: 'StorageError',
    meaning: 'An image volume could not be mounted.',
    hint: 'see the detail; the sub path must exist in the image',
  },
  RROUnsupported: {
    core: 'UnsupportedOperation',
    meaning: 'Recursive read-only mounts are not possible with this kernel or runtime.',
    hint: 'use recursiveReadOnly: IfPossible',
  },
  NetworkNotReady: {
    core: 'NetworkError',
    meaning: 'There is no usable CNI configuration.',
    hint: 'put a conflist into network.conf_dir; `crisp check` gives a command for it',
  },
  CniConfigInvalid: {
    core: 'InvalidConfig',
    meaning: 'A CNI configuration does not parse or lacks a field.',
    hint: 'correct the file that the message names',
  },
  CniFailed: {
    core: 'NetworkError',
    meaning: 'A CNI plugin failed.',
    hint: '',
  },
  PortRefused: {
    core: 'NetworkError',
    meaning: 'Nothing in the pod accepts connections on the port.',
    hint: 'check that a container listens on this port, on localhost or on all addresses',
  },
  NamespaceFailed: {
    core: 'RuntimeError',
    meaning: 'The namespaces of the pod could not be made.',
    hint: 'check the kernel limits in /proc/sys/user',
  },
  SysctlFailed: {
    core: 'InvalidInput',
    meaning: 'A sysctl of the pod could not be set.',
    hint: 'check its name and value',
  },
  RuntimeFailed: {
    core: 'RuntimeError',
    meaning: 'The OCI runtime (or pct) failed.',
    hint: '',
  },
  StartFailed: {
    core: 'WrongState',
    meaning: 'The process of the container could not be started.',
    hint: 'check the command, the user and the working folder',
  },
  ExecTimeout: {
    core: 'Timeout',
    meaning: 'The command ran longer than its timeout and was killed.',
    hint: 'raise the timeout of the probe or the call',
  },
  ToolMissing: {
    core: 'RuntimeError',
    meaning: 'A program that crisp needs is not installed.',
    hint: '`crisp check` names the package',
  },
  ToolTimeout: {
    core: 'Timeout',
    meaning: 'A tool ran longer than its timeout and was killed.',
    hint: 'see the log for the cause',
  },
  Cancelled: {
    core: 'Cancelled',
    meaning: 'The caller disconnected or cancelled the call before it was finished.',
    hint: 'repeat the call',
  },
  Locked: { core: 'Locked', meaning: 'The object is locked by another operation.', hint: 'try again later' },
  ClientTooSlow: {
    core: 'Timeout',
    meaning:
      'The client of an attach did not read the output, and was disconnected so that the container can continue.',
    hint: 'attach again; the missed output is in the log of the container',
  },
  TooManyTickets: {
    core: 'Locked',
    meaning: 'The limit of exec, attach and port-forward URLs that have not been opened yet is reached.',
    hint: 'try again in a minute',
  },
  NoQuorum: {
    core: 'Locked',
    meaning: 'The Proxmox cluster has no quorum, so its configuration is read-only.',
    hint: 'restore quorum (`pvecm status`)',
  },
  ForeignGuest: {
    core: 'PermissionDenied',
    meaning: 'The Proxmox guest was not made by crisp on this node, so crisp does not change it.',
    hint: 'check lxc.vmid_range, and the tags and owner of the guest',
  },
  GuestMissing: {
    core: 'NotFound',
    meaning: 'The Proxmox CT of the container is gone: it was not destroyed by crisp.',
    hint: 'remove the container; its pod makes a new one',
  },
  BridgeMissing: {
    core: 'NetworkError',
    meaning: 'The Proxmox bridge of a CT does not exist on this node.',
    hint: 'make the bridge in /etc/network/interfaces and run `ifreload -a`',
  },
  NoVmid: { core: 'Locked', meaning: 'All ids for Proxmox CTs are in use.', hint: 'widen lxc.vmid_range' },
  OutOfMemory: {
    core: 'OutOfMemory',
    meaning: 'The kernel had not enough memory for the operation.',
    hint: 'raise the limit of the pod, or free memory on the node',
  },
  LimitReached: {
    core: 'OutOfMemory',
    meaning:
      'No process can be started or no file opened, because a limit of the node or of the service is reached.',
    hint: 'see `crisp dump` for what the daemon holds; the limits are TasksMax and LimitNOFILE of the service, kernel.pid_max and fs.file-max',
  },
  DiskFull: {
    core: 'DiskFull',
    meaning: 'The filesystem is full.',
    hint: 'free space on the filesystem of the path that the message names: see `df -h`',
  },
  StorageFailed: { core: 'StorageError', meaning: 'A filesystem operation failed.', hint: '' },
  Unsupported: {
    core: 'UnsupportedOperation',
    meaning: 'This call or field is not supported here.',
    hint: 'docs/cri-coverage.md lists the supported fields of each backend',
  },
  Internal: {
    core: 'RuntimeError',
    meaning: 'An unexpected error: a bug in crisp.',
    hint: 'please report it with the log lines of this request id',
  },
} as const satisfies Record<string, CatalogueEntry>;
export type ErrorId = keyof typeof catalogue;

export interface ErrorDetails {
  /** The step that failed, as it is called in the code: "cni add", "mount rootfs". */
  stage?: string;
  /** The program that failed: "crun", "bridge". */
  tool?: string;
  /** The end of its stderr. */
  stderr?: string;
  /** Replaces the catalogue's hint. */
  hint?: string;
  cause?: unknown;
}

/** The only error class; made where the error is detected. */
export class CrispError extends Error {
  readonly id: ErrorId;
  readonly stage: string | undefined;
  readonly tool: string | undefined;
  readonly stderr: string | undefined;
  readonly hint: string;

  constructor(id: ErrorId, message: string, details: ErrorDetails = {}) {
    super(message, details.cause === undefined ? undefined : { cause: details.cause });
    this.name = 'CrispError';
    this.id = id;
    this.stage = details.stage;
    this.tool = details.tool;
    this.stderr = details.stderr;
    this.hint = details.hint ?? catalogue[id].hint;
  }

  get core(): CoreError {
    return catalogue[this.id].core;
  }
  get code(): Code {
    return coreErrors[this.core];
  }

  /** All details in one line, as the client sees it. */
  get report(): string {
    return this.describe(this.hint);
  }

  /** The report without its hint. */
  get finding(): string {
    return this.describe('');
  }

  private describe(hint: string): string {
    const said = this.stderr && lastLines(this.stderr);
    const where = [this.stage && `stage: ${this.stage}`, this.tool && `tool: ${this.tool}`]
      .filter(Boolean)
      .join(', ');
    const rest = [
      where && `[${where}]`,
      said && !this.message.includes(said) && `stderr: ${said}`,
      hint && `hint: ${hint}`,
    ]
      .filter(Boolean)
      .map((part) => cut(escapeControls(part as string), longestPart))
      .join('; ');
    const message = escapeControls(`${this.id}: ${this.message}`);
    return [cut(message, longestReport - Buffer.byteLength(rest) - 2), rest].filter(Boolean).join('; ');
  }
}

/**
 * Bytes of a report, as UTF-8. It is sent in an HTTP/2 trailer, percent-encoded
 * (up to three times as long); clients accept 64 KiB of trailers or less.
 */
const longestReport = 8192;
/** Bytes of each part of a report except its message. */
const longestPart = 2048;

/**
 * The text, cut to at most `maxBytes` bytes of UTF-8 between two characters and marked with "…"; never half a
 * surrogate pair, which could not be sent.
 */
export function cut(text: string, maxBytes: number): string {
  const whole = text.toWellFormed();
  if (Buffer.byteLength(whole) <= maxBytes) return whole;
  // Characters are not split: the rest must not start at a continuation byte (10xxxxxx).
  const bytes = Buffer.from(whole.slice(0, maxBytes));
  let end = Math.min(bytes.length, maxBytes - Buffer.byteLength('…'));
  while (end > 0 && ((bytes[end] ?? 0) & 0xc0) === 0x80) end--;
  return `${bytes.subarray(0, end).toString()}…`;
}

/**
 * Escapes as \xHH or \uHHHH the characters that would control a terminal or break a line of a log: control
 * characters, line separators and bidirectional marks.
 */
export function escapeControls(text: string): string {
  return text.replace(
    /[\u0000-\u001f\u007f-\u009f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069]/g,
    (character) => {
      const code = character.charCodeAt(0).toString(16);
      return code.length > 2 ? `\\u${code.padStart(4, '0')}` : `\\x${code.padStart(2, '0')}`;
    },
  );
}

/** Any thrown value -> the gRPC code and the message that the client gets. */
export function toStatus(error: unknown): { code: Code; details: string } {
  const known = toCrispError(error);
  return { code: known.code, details: known.report };
}

/** Error codes of the kernel and Node for an invalid path or argument. EEXIST: a file instead of a folder. */
const ofBadPaths = new Set([
  'EEXIST',
  'ENAMETOOLONG',
  'ENOTDIR',
  'EISDIR',
  'ELOOP',
  'E2BIG',
  'ERR_INVALID_ARG_VALUE',
]);

/** Any thrown value -> a CrispError; errno values are mapped to their catalogue entry here. */
export function toCrispError(error: unknown): CrispError {
  if (error instanceof CrispError) return error;
  const { code, message, syscall } = error as NodeJS.ErrnoException;
  if (syscall === 'uv_cwd')
    return new CrispError('InvalidArgument', 'the current folder has been removed: change to another', {
      cause: error,
    });
  if (code === 'ENOSPC' || code === 'EDQUOT') return new CrispError('DiskFull', message, { cause: error });
  if (code === 'ENOMEM') return new CrispError('OutOfMemory', message, { cause: error });
  if (code === 'EMFILE' || code === 'ENFILE' || code === 'EAGAIN')
    return new CrispError('LimitReached', message, { cause: error });
  if (code === 'EROFS')
    return new CrispError('StorageFailed', message, {
      cause: error,
      hint: 'the filesystem is mounted read-only, as the kernel does after an error of the disk: see `dmesg`',
    });
  if (code === 'EIO') return new CrispError('StorageFailed', message, { cause: error });
  if (code === 'EACCES' || code === 'EPERM')
    return new CrispError('PermissionDenied', message, { cause: error });
  // Paths come from callers, and no earlier check knows the limits of every filesystem.
  if (code !== undefined && ofBadPaths.has(code))
    return new CrispError('InvalidArgument', message, { cause: error });
  if (code === 'ABORT_ERR') return new CrispError('Cancelled', 'the call was cancelled', { cause: error });
  return new CrispError('Internal', message ?? String(error), { cause: error });
}

/** The end of a tool's output on one line, limited in size: it is sent in a gRPC trailer. */
export function lastLines(text: string, maxCharacters = 600): string {
  const flat = text
    .trim()
    .replace(/\s*\n\s*/g, ' | ')
    .replace(/[^\x20-\x7e\u00a0-\uffff]/g, ' ');
  return flat.length > maxCharacters ? `…${flat.slice(-maxCharacters)}` : flat;
}
