// The credentials of a pull as containers-auth.json(5), which is how they reach
// skopeo: its arguments would be seen by everybody on the host.  Pure; called by
// pull.ts.
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
 * The node's own auth file (its text, if there is one) with the credentials of a
 * request put before it, for this one repository: a mirror must not be told
 * them, and keeps its own.
 * @returns undefined: the request brings none for this image
 * @throws UnsupportedField for a registry token, InvalidConfigFile when the node's file is no JSON
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
  const helpers = Object.entries(node.credHelpers ?? {}).filter(([key]) => key !== registry); // a helper goes before any entry
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
      `images.auth_file is no JSON: ${(error as Error).message.replace(/, .*/, '')}`,
    ); // what follows quotes the file, secrets and all
  }
}

/** Credentials that are meant for another server are not shown to this one. */
function isFor({ serverAddress }: RegistryAuth, repository: string): boolean {
  const host = serverAddress.replace(/^https?:\/\//, '').replace(/\/.*$/, '');
  const registry = repository.split('/')[0] ?? '';
  return !host || host === registry || (registry === 'docker.io' && host.endsWith('.docker.io'));
}

function entryOf({ auth, username, password, identityToken }: RegistryAuth): object | undefined {
  if (identityToken) return { auth: base64('<token>:'), identitytoken: identityToken };
  if (auth) {
    // Not decoded here but by skopeo, whose words would quote it.
    if (!/^[A-Za-z0-9+/]+={0,2}$/.test(auth) || !Buffer.from(auth, 'base64').includes(':'))
      throw new CrispError('InvalidArgument', 'auth.auth is not base64 of user:password');
    return { auth };
  }
  return username || password ? { auth: base64(`${username}:${password}`) } : undefined;
}

function base64(text: string): string {
  return Buffer.from(text).toString('base64');
}
