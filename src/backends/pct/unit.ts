// The instance drop-in of pve-container@VMID.service: what PVE's unit does not
// say.  The command line, because lxc.init.cmd cannot hold every argument
// (liblxc 5 splits it at each blank, 6 knows no escapes), and the standard
// streams, because the unit throws stdout away.  The text is pure.
//
// A variable with a line break fits no line of liblxc's configuration, and must
// not stand in the arguments of lxc-start, which every user of the host can read.
// So lxc-start itself has it in its environment (environment.pl gives it), and is
// told by name to hand it on (lxc.container.conf(5), lxc.environment).
import { join } from 'node:path';
import { makeFolder, remove, writeFileAtomic } from '../../host/files.js';
import { run } from '../../host/run.js';
import { perlProgram } from '../../installed.js';
import type { Process } from '../../shapes/spec.js';
import { fitsLine } from './lxc-config.js';

/** The FIFOs of the bundle, of which the watcher has the other ends. */
export interface Streams {
  readonly stdin: string | undefined;
  readonly stdout: string;
  readonly stderr: string;
}

const perl = '/usr/bin/perl';
const environmentProgram = perlProgram('environment.pl');
const lxcStart = '/usr/bin/lxc-start';

/** What the loader, the C library, liblxc, and the shells and Perl programs that are its hooks obey, as root on the host: such a variable must not be in lxc-start's environment. It is a setting and no secret, so it may stand in the arguments. */
const obeyed =
  /^(LD_|GLIBC_|GCONV_|MALLOC_|LC_|BASH|PERL|PYTHON|LXC_|PVE_|SYSTEMD_|LISTEN_|OPENSSL_|GNUTLS_|NSS_|KRB5|SASL_|XDG_|DBUS_|LIBMOUNT_)|^(LANG|LANGUAGE|LOCPATH|NLSPATH|PATH|IFS|ENV|SHELLOPTS|PS4|CDPATH|HOME|TMPDIR|TZ|TZDIR|NOTIFY_SOCKET|RES_OPTIONS|HOSTALIASES|LOCALDOMAIN|SSLKEYLOGFILE|SSL_CERT_FILE|SSL_CERT_DIR|POSIXLY_CORRECT)$/;

/** The variables that no line of liblxc can hold: those that lxc-start gets, and those that are its arguments. */
function unfitting(env: readonly string[]): { handedOn: string[]; shown: string[] } {
  const entries = env.filter((entry) => !fitsLine(entry));
  const isShown = (entry: string): boolean => obeyed.test(nameOf(entry)) || !fitsLine(nameOf(entry));
  return { handedOn: entries.filter((entry) => !isShown(entry)), shown: entries.filter(isShown) };
}

function nameOf(entry: string): string {
  return entry.slice(0, entry.indexOf('='));
}

/** What environment.pl reads, in a file that only root can read; undefined: there is nothing for it. */
export function environmentText(env: readonly string[]): string | undefined {
  const { handedOn } = unfitting(env);
  return handedOn.length === 0 ? undefined : handedOn.map((entry) => `${entry}\0`).join('');
}

/** @param environmentFile where environmentText() is */
export function dropIn(
  process: Pick<Process, 'args' | 'env'>,
  { stdin, stdout, stderr }: Streams,
  environmentFile: string,
): string {
  const { handedOn, shown } = unfitting(process.env);
  const variables = [
    ...handedOn.map((entry) => `lxc.environment=${nameOf(entry)}`),
    ...shown.map((entry) => `lxc.environment="${entry}"`), // liblxc takes the outer quotes away, and else the blanks at the end
  ].flatMap((setting) => ['-s', setting]);
  const start = handedOn.length === 0 ? [lxcStart] : [perl, environmentProgram, environmentFile, lxcStart];
  const [program = '', ...before] = start;
  // The colon keeps systemd from expanding $NAME in our words (systemd.service(5)).
  const command = [
    `:${program}`,
    ...before.map(quoted),
    '-F',
    '-n',
    '%i',
    ...[...variables, '--', ...process.args].map(quoted),
  ].join(' ');
  return [
    // Else systemd keeps each CT whose lxc-start failed, as a failed unit of the node, until `systemctl reset-failed`.
    '[Unit]',
    'CollectMode=inactive-or-failed',
    '[Service]',
    'ExecStart=',
    `ExecStart=${command}`,
    ...(stdin === undefined ? [] : [`StandardInput=file:${specifiers(stdin)}`]),
    `StandardOutput=append:${specifiers(stdout)}`,
    `StandardError=append:${specifiers(stderr)}`,
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

/** Writes and removes drop-ins, and tells systemd. */
export class Units {
  private last: Promise<unknown> = Promise.resolve();
  /** A reload that has not begun yet. */
  private next: Promise<void> | undefined;

  constructor(
    private readonly folder: string,
    private readonly systemctl: string,
  ) {}

  async write(vmid: number, text: string): Promise<void> {
    makeFolder(this.dropIns(vmid), 0o755);
    await writeFileAtomic(join(this.dropIns(vmid), 'crisp.conf'), text);
    await this.reload();
  }

  /** Without a reload: systemd forgets an instance that is not running by itself. */
  async remove(vmid: number): Promise<void> {
    await remove(this.dropIns(vmid));
  }

  private dropIns(vmid: number): string {
    return join(this.folder, `pve-container@${vmid}.service.d`);
  }

  /** A reload takes systemd a while on a full node: those who come before one begins share it. */
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
