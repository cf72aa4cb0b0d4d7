// The instance drop-in of pve-container@VMID.service: what PVE's unit does not
// say.  The command line, because lxc.init.cmd cannot hold every argument
// (liblxc 5 splits it at each blank, 6 knows no escapes), and the standard
// streams, because the unit throws stdout away.  The text is pure.
import { join } from 'node:path';
import { makeFolder, remove, writeFileAtomic } from '../../host/files.js';
import { run } from '../../host/run.js';
import type { Process } from '../../shapes/spec.js';
import { fitsLine } from './lxc-config.js';

/** The FIFOs of the bundle, of which the watcher has the other ends. */
export interface Streams {
  readonly stdin: string | undefined;
  readonly stdout: string;
  readonly stderr: string;
}

const lxcStart = '/usr/bin/lxc-start';

export function dropIn(process: Pick<Process, 'args' | 'env'>, { stdin, stdout, stderr }: Streams): string {
  // liblxc takes the outer quotes away, and else the blanks at the end.
  const variables = process.env
    .filter((entry) => !fitsLine(entry))
    .flatMap((entry) => ['-s', `lxc.environment="${entry}"`]);
  // The colon keeps systemd from expanding $NAME in our words (systemd.service(5)).
  const command = [
    `:${lxcStart}`,
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
