// The user and groups of a container's process: names and groups come from
// the image's own passwd and group files (passwd(5), group(5)). Pure over
// their contents.
import type { LinuxContainerSecurityContext__Output } from '../cri/generated/runtime/v1/LinuxContainerSecurityContext.js';
import type { LinuxSandboxSecurityContext__Output } from '../cri/generated/runtime/v1/LinuxSandboxSecurityContext.js';
import { CrispError } from '../errors.js';

export interface ResolvedUser {
  readonly uid: number;
  readonly gid: number;
  readonly supplementalGroups: number[];
  readonly home: string;
}
export interface AccountFiles {
  readonly passwd: string;
  readonly group: string;
}

interface Account {
  name: string;
  /** Decimal, in any range. */
  uid: string;
  gid: string;
  home: string;
}
interface Group {
  name: string;
  gid: string;
  members: string[];
}
/**
 * The kernel's (uid_t)-1 means "unchanged" (setresuid(2)), and larger values wrap around: 2^32 would be root.
 */
const maxId = 2 ** 32 - 2;

/**
 * The user of the request, otherwise of the image, otherwise root; the group likewise. The
 * primary group is always listed, as the CRI requires in ContainerStatus.user. It is followed
 * by the user's groups in the image, unless the policy is Strict, then by the groups of the
 * request: Kubernetes' node tests compare the order.
 * @throws UserNotFound for a name that the image lacks, InvalidArgument for an id out of range
 */
export function resolveUser(
  security: LinuxContainerSecurityContext__Output | null,
  pod: LinuxSandboxSecurityContext__Output | null,
  imageUser: string,
  files: AccountFiles,
): ResolvedUser {
  const accounts = parsePasswd(files.passwd);
  const groups = parseGroup(files.group);
  const [imageName = '', imageGroup = ''] = imageUser.split(':');
  if (security?.run_as_group && !security.run_as_user && !security.run_as_username)
    throw new CrispError(
      'InvalidArgument',
      'security_context.run_as_group needs run_as_user or run_as_username',
    );
  const fromRequest = security?.run_as_user?.value ?? (security?.run_as_username || undefined);
  const wanted = fromRequest ?? imageName;
  const account = wanted === '' ? findAccount(accounts, '0') : findAccount(accounts, wanted);
  const uid = numericId(account?.uid ?? (wanted || '0'), 'user');
  const groupText = security?.run_as_group?.value ?? (fromRequest === undefined ? imageGroup : '');
  const gid = groupText === '' ? numericId(account?.gid ?? '0', 'group') : groupId(groups, groupText);
  const requested = (security?.supplemental_groups ?? []).map((group) =>
    numericId(group, 'supplemental group'),
  );
  const strict = (security?.supplemental_groups_policy ?? pod?.supplemental_groups_policy) === 'Strict';
  const ofImage =
    strict || !account
      ? []
      : groups
          .filter((group) => group.members.includes(account.name))
          .map((group) => numericId(group.gid, 'group'));
  return {
    uid,
    gid,
    supplementalGroups: [...new Set([gid, ...ofImage, ...requested])],
    home: account?.home || '/',
  };
}

function findAccount(accounts: readonly Account[], wanted: string): Account | undefined {
  const account = /^\d+$/.test(wanted)
    ? accounts.find((candidate) => Number(candidate.uid) === Number(wanted))
    : accounts.find((candidate) => candidate.name === wanted);
  if (!account && !/^-?\d+$/.test(wanted))
    throw new CrispError('UserNotFound', `user "${wanted}" is not in the passwd file of the image`);
  return account;
}

function groupId(groups: readonly Group[], text: string): number {
  if (/^-?\d+$/.test(text)) return numericId(text, 'group');
  const group = groups.find((candidate) => candidate.name === text);
  if (!group) throw new CrispError('UserNotFound', `group "${text}" is not in the group file of the image`);
  return numericId(group.gid, 'group');
}

function numericId(text: string, what: string): number {
  const id = Number(text);
  if (!Number.isInteger(id) || id < 0 || id > maxId)
    throw new CrispError('InvalidArgument', `${what} id ${text} is not between 0 and ${maxId}`);
  return id;
}

function parsePasswd(text: string): Account[] {
  return records(text)
    .map(([name = '', , uid = '', gid = '', , home = '']) => ({
      name,
      uid,
      gid,
      home,
    }))
    .filter(({ uid, gid }) => isDecimal(uid) && isDecimal(gid));
}

function parseGroup(text: string): Group[] {
  return records(text)
    .map(([name = '', , gid = '', members = '']) => ({
      name,
      gid,
      members: members.split(',').filter(Boolean),
    }))
    .filter(({ gid }) => isDecimal(gid));
}

/** Any other line is skipped: an empty id does not mean root. */
function isDecimal(text: string): boolean {
  return /^-?\d+$/.test(text);
}

function records(text: string): string[][] {
  return text
    .split('\n')
    .map((line) => line.trim())
    .filter((line) => line && !line.startsWith('#'))
    .map((line) => line.split(':'))
    .filter((fields) => fields.length > 2);
}
