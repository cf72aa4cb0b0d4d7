// The instance drop-in of pve-container@VMID.service. It sets the command line,
// because lxc.init.cmd cannot contain every argument (liblxc 5 splits it at each
// blank, 6 supports no escapes). The command runs through ct-start.pl, which
// connects the standard streams of lxc-start (the unit would discard them), and
// refuses a start that is not by crisp. The text is pure.
//
// A variable with a line break cannot be written in liblxc's configuration, and
// must not be in the arguments of lxc-start, which every user of the host can
// read. So lxc-start itself has it in its environment (set by ct-start.pl), and
// passes it on by name (lxc.container.conf(5), lxc.environment).
import { join } from 'node:path';
import { makeFolder, remove, writeFileAtomic } from '../../host/files.js';
import { run } from '../../host/run.js';
import { perlProgram } from '../../installed.js';
import type { Process } from '../../shapes/spec.js';
import { fitsLine } from './lxc-config.js';

const perl = '/usr/bin/perl';
const starter = perlProgram('ct-start.pl');
const lxcStart = '/usr/bin/lxc-start';

/**
 * Variables that programs of root on the host evaluate: the loader, the C library, liblxc, and the shells,
 * Perl programs and tools of storages and networks that PVE's hooks start. Such a variable must not be in
 * lxc-start's environment. It is a setting and not a secret, so it may be in the arguments.
 */
const obeyed = new RegExp(
  `^(${[
    ...['LD', 'GLIBC', 'GCONV', 'GETCONF', 'MALLOC', 'LC', 'NSS', 'RES', 'XDG', 'DBUS', 'LISTEN', 'SYSTEMD'],
    ...['LXC', 'LXCFS', 'PVE', 'APPARMOR', 'LIBMOUNT', 'BLKID', 'DM', 'LVM', 'ZFS', 'ZPOOL', 'CEPH', 'RBD'],
    ...['RADOS', 'OVS', 'E2FS', 'BTRFS', 'FUSE', 'ISCSI', 'MODPROBE', 'DHCLIENT', 'PATH', 'OPENSSL'],
    ...['SSLKEYLOGFILE', 'GNUTLS', 'KRB5', 'SASL', 'LWP'],
  ].join('|')})(_|$)|^(BASH|PERL|PYTHON|RUBY|MPATH)|^(${[
    ...[
      'LANG',
      'LANGUAGE',
      'LOCPATH',
      'NLSPATH',
      'IFS',
      'ENV',
      'SHELL',
      'SHELLOPTS',
      'PS[0-4]',
      'CDPATH',
      'PWD',
    ],
    ...[
      'OLDPWD',
      'HOME',
      'TMPDIR',
      'TEMP',
      'TMP',
      'TZ',
      'TZDIR',
      'NOTIFY_SOCKET',
      'HOSTALIASES',
      'LOCALDOMAIN',
    ],
    // Listed one by one, since applications use similar names for secrets: SSH_PRIVATE_KEY, SSL_CERT.
    ...['SSH_(ASKPASS|ASKPASS_REQUIRE|AUTH_SOCK|SK_PROVIDER|SK_HELPER)', 'SSL_CERT_(FILE|DIR)', 'NO_PROXY'],
    ...['HTTPS?_PROXY\\w*', 'HTTPS_(CA_FILE|CA_DIR|CERT_FILE|KEY_FILE|PKCS12_\\w+|DEBUG|VERSION)'],
    ...['LDAP[A-Z]\\w*'], // ldap.conf(5): LDAP and the name of an option, as in LDAPURI
    ...['POSIXLY_CORRECT', 'TERM', 'TERMINFO', 'TERMCAP', 'EDITOR', 'VISUAL', 'PAGER', 'MAIL', 'MAILPATH'],
  ].join('|')})$`,
  'i',
);

/**
 * The variables that cannot be written in liblxc's configuration: those for lxc-start's environment, and
 * those for its arguments.
 */
function unfitting(env: readonly string[]): { handedOn: string[]; shown: string[] } {
  const entries = env.filter((entry) => !fitsLine(entry));
  const isShown = (entry: string): boolean => obeyed.test(nameOf(entry)) || !fitsLine(nameOf(entry));
  return { handedOn: entries.filter((entry) => !isShown(entry)), shown: entries.filter(isShown) };
}

function nameOf(entry: string): string {
  return entry.slice(0, entry.indexOf('='));
}

/** The environment file of ct-start.pl, which only root can read; undefined: not needed. */
export function environmentText(env: readonly string[]): string | undefined {
  const { handedOn } = unfitting(env);
  return handedOn.length === 0 ? undefined : handedOn.map((entry) => `${entry}\0`).join('');
}

/**
 * @param bundle the folder of the watcher's FIFOs @param key liblxc's key for a variable: environmentKey()
 */
export function dropIn(process: Pick<Process, 'args' | 'env'>, bundle: string, key: string): string {
  const { handedOn, shown } = unfitting(process.env);
  const variables = [
    ...handedOn.map((entry) => `${key}=${nameOf(entry)}`),
    ...shown.map((entry) => `${key}="${entry}"`), // liblxc removes the outer quotes, and without them trailing blanks
  ].flatMap((setting) => ['-s', setting]);
  // The colon prevents systemd from expanding $NAME (systemd.service(5)).
  const command = [
    `:${perl}`,
    quoted(starter),
    '%i',
    ...[bundle, lxcStart].map(quoted),
    '-F',
    '-n',
    '%i',
    ...[...variables, '--', ...process.args].map(quoted),
  ].join(' ');
  return [
    // Otherwise a CT with a failed lxc-start stays a failed unit of the node until `systemctl reset-failed`.
    '[Unit]',
    'CollectMode=inactive-or-failed',
    '[Service]',
    'ExecStart=',
    `ExecStart=${command}`,
    '',
  ].join('\n');
}

/** One word of a command line as systemd reads it: C escapes between double quotes. */
function quoted(word: string): string {
  const text = word
    .replace(/["\\]/g, '\\$&')
    .replace(/\n/g, '\\n')
    .replace(/\t/g, '\\t')
    .replace(/\p{Cc}/gu, (character) => `\\x${character.charCodeAt(0).toString(16).padStart(2, '0')}`);
  return `"${specifiers(text)}"`;
}

function specifiers(text: string): string {
  return text.replaceAll('%', '%%');
}

/** Writes and removes drop-ins, and has systemd read them. */
export class Units {
  private last: Promise<unknown> = Promise.resolve();
  /** A reload that has not begun yet. */
  private next: Promise<void> | undefined;

  constructor(
    private readonly folder: string,
    private readonly systemctl: string,
  ) {}

  /**
   * Writes the drop-in of a CT's unit. systemd reads it when it loads the unit, as pct's start does; only if it
   * has the unit in memory, it must be reloaded, which takes as long as a call of pct on a busy node.
   */
  async write(vmid: number, text: string): Promise<void> {
    const path = join(this.dropIns(vmid), 'crisp.conf');
    makeFolder(this.dropIns(vmid), 0o755);
    await writeFileAtomic(path, text);
    if (!(await this.hasRead(vmid, path))) await this.reload();
  }

  private async hasRead(vmid: number, path: string): Promise<boolean> {
    const { stdout } = await run(
      [
        this.systemctl,
        'show',
        '--property=NeedDaemonReload',
        '--property=DropInPaths',
        `pve-container@${vmid}.service`,
      ],
      { timeoutMs: 60_000, okExitCodes: 'any', stage: 'systemctl show' },
    );
    const paths = /^DropInPaths=(.*)$/m.exec(stdout)?.[1]?.split(' ') ?? [];
    return /^NeedDaemonReload=no$/m.test(stdout) && paths.includes(path);
  }

  /** Without a reload: systemd itself drops an instance that is not running. */
  async remove(vmid: number): Promise<void> {
    await remove(this.dropIns(vmid));
  }

  private dropIns(vmid: number): string {
    return join(this.folder, `pve-container@${vmid}.service.d`);
  }

  /** A reload takes some time on a full node: requests before its beginning share it. */
  private reload(): Promise<void> {
    if (this.next) return this.next;
    this.next = this.last.then(async () => {
      this.next = undefined;
      await run([this.systemctl, 'daemon-reload'], { timeoutMs: 60_000, stage: 'systemctl daemon-reload' });
    });
    this.last = this.next.catch(() => undefined);
    return this.next;
  }
}
