// The credentials of a pull as containers-auth.json(5), a file for skopeo, since
// all users of the host could see arguments.  Pure; called by pull.ts.
import { CrispError } from '../errors.js';
import { parseReference } from './references.js';

/** Credentials of a request; empty fields are absent. */
export interface RegistryAuth {
  readonly username: string;
  readonly password: string;
  /** base64 of user:password. */
  readonly auth: string;
  readonly serverAddress: string;
  readonly identityToken: string;
  readonly registryToken: string;
}

interface AuthFile {
  readonly auths?: Readonly<Record<string, object>>;
  readonly credHelpers?: Readonly<Record<string, string>>;
}

/**
 * The node's own auth file (its text, if there is one), preceded by the credentials of the request
 * for this one repository: a mirror must not get them, and keeps its own.
 * @returns undefined: the request has none for this image
 * @throws UnsupportedField for a registry token, InvalidArgument for an `auth` that is not base64,
 *   InvalidConfigFile if the node's file is not JSON
 */
export function authFileFor(
  name: string,
  auth: RegistryAuth | undefined,
  nodeFile: string | undefined,
): string | undefined {
  if (auth?.registryToken) {
    throw new CrispError('UnsupportedField', 'auth.registry_token cannot be given to skopeo in secret', {
      hint: 'use a user name and password, or an identity token',
    });
  }
  const { repository } = parseReference(name);
  const entry = auth && isFor(auth, repository) ? entryOf(auth) : undefined;
  if (!entry) return undefined;
  const node = parsed(nodeFile ?? '{}');
  const registry = repository.split('/')[0] ?? '';
  const helpers = Object.entries(node.credHelpers ?? {}).filter(([key]) => key !== registry); // a helper takes precedence over any entry
  return JSON.stringify({
    ...node,
    auths: { ...node.auths, [repository]: entry },
    credHelpers: Object.fromEntries(helpers),
  });
}

function parsed(nodeFile: string): AuthFile {
  try {
    return JSON.parse(nodeFile) as AuthFile;
  } catch (error) {
    throw new CrispError(
      'InvalidConfigFile',
      `images.auth_file is not JSON: ${(error as Error).message.replace(/, .*/, '')}`,
    ); // the rest of the message quotes the file, including secrets
  }
}

/** Credentials for another server are not sent to this one. */
function isFor({ serverAddress }: RegistryAuth, repository: string): boolean {
  const host = serverAddress.replace(/^https?:\/\//, '').replace(/\/.*$/, '');
  const registry = repository.split('/')[0] ?? '';
  return !host || host === registry || (registry === 'docker.io' && host.endsWith('.docker.io'));
}

function entryOf({ auth, username, password, identityToken }: RegistryAuth): object | undefined {
  if (identityToken) return { auth: base64('<token>:'), identitytoken: identityToken };
  if (auth) {
    // The CRI requires base64 of "user:password"; skopeo would only report an invalid file.
    const plain = Buffer.from(auth, 'base64');
    if (
      plain.toString('base64').replace(/=+$/, '') !== auth.trim().replace(/=+$/, '') ||
      !plain.includes(':')
    )
      throw new CrispError('InvalidArgument', 'auth.auth is not base64 of user:password');
    return { auth: auth.trim() };
  }
  return username || password ? { auth: base64(`${username}:${password}`) } : undefined;
}

function base64(text: string): string {
  return Buffer.from(text).toString('base64');
}
