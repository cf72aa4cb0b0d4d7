// The configuration of a CT: read and written as PVE::LXC::Config does.
import { existsSync, readdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs';
import { at, checkQuorum } from './place.mjs';

export function confOf(vmid) {
  return at('pve/lxc', `${vmid}.conf`);
}

/** All ids of all nodes, CTs and VMs: one range. */
export function isTaken(vmid) {
  return kindOf(vmid) !== undefined;
}

/** "CT" or "VM"; undefined: the id is not in use. */
export function kindOf(vmid) {
  const nodes = existsSync(at('pve/nodes'))
    ? readdirSync(at('pve/nodes')).map((name) => at('pve/nodes', name))
    : [];
  for (const folder of [at('pve'), ...nodes]) {
    if (existsSync(`${folder}/lxc/${vmid}.conf`)) return 'CT';
    if (existsSync(`${folder}/qemu-server/${vmid}.conf`)) return 'VM';
  }
  return undefined;
}

/** Raw keys that pct keeps; it drops all others, and says so once. */
const rawKeys =
  /^lxc\.(apparmor\.(profile|allow_incomplete|allow_nesting|raw)|selinux\.context|include|arch|uts\.name|signal\.(halt|reboot|stop)|init\.(cmd|cwd|uid|gid|groups)|pty\.max|console\.(logfile|path)|tty\.max|devtty\.dir|autodev|hook\.(autodev|pre-start|pre-mount|mount|start|stop|post-stop|clone|destroy|version)|kmsg|mount\.(fstab|entry|auto)|rootfs\.mount|cap\.(drop|keep)|seccomp\.(profile|notify\.(proxy|cookie))|idmap|log\.(level|file)|start\.(auto|delay|order)|group|environment(\.(runtime|hooks))?|sysctl\.(fs\.mqueue|kernel\.(msg|shm).*|kernel\.sem)|cgroup2?\..+|prlimit\..+|net\..+)$/;

/** undefined: there is none. A line that pct does not know is dropped with a warning. */
export function readGuest(vmid) {
  let text;
  try {
    text = readFileSync(confOf(vmid), 'utf8');
  } catch {
    return undefined;
  }
  const lines = text.split('\n');
  const cut = lines.findIndex((line) => line.startsWith('['));
  const guest = {
    description: '',
    values: {},
    raw: [],
    sections: cut < 0 ? '' : lines.slice(cut).join('\n'),
  };
  for (const line of cut < 0 ? lines : lines.slice(0, cut)) {
    if (line.trim() === '') continue;
    const comment = /^#(.*)$/.exec(line);
    const [, key, value] =
      /^(lxc\.[a-z0-9_\-.]+)\s*[:=]\s*(.*?)\s*$/.exec(line) ??
      /^([a-z][a-z_]*\d*):\s*(.*?)\s*$/.exec(line) ??
      [];
    if (comment) guest.description += `${unescape(comment[1])}\n`;
    else if (key?.startsWith('lxc.') ? rawKeys.test(key) : key !== undefined) {
      if (key.startsWith('lxc.')) guest.raw.push({ key, value });
      else guest.values[key] = value;
    } else process.stderr.write(`vm ${vmid} - unable to parse config: ${line}\n`);
  }
  return guest;
}

/** @param flag "wx" for a new one: pmxcfs makes a file on one node only */
export function writeGuest(vmid, { description, values, raw, sections }, flag = 'w') {
  checkQuorum();
  const comments = description
    ? description
        .replace(/\n$/, '')
        .split('\n')
        .map((line) => `#${escape(line)}\n`)
        .join('')
    : '';
  const text =
    comments +
    Object.keys(values)
      .sort()
      .map((key) => `${key}: ${values[key]}\n`)
      .join('') +
    raw.map(({ key, value }) => `${key}: ${value}\n`).join('') +
    (sections ? `\n${sections}` : '');
  if (flag === 'wx') writeFileSync(confOf(vmid), text, { flag });
  else {
    writeFileSync(`${confOf(vmid)}.tmp.${process.pid}`, text);
    renameSync(`${confOf(vmid)}.tmp.${process.pid}`, confOf(vmid));
  }
}

/** As `pct config` prints it. */
export function shownConfig({ description, values, raw }) {
  const all = {
    ...values,
    ...(description ? { description: description.split('\n').map(escape).join('%0A') } : {}),
  };
  return (
    Object.keys(all)
      .sort()
      .map((key) => `${key}: ${all[key]}\n`)
      .join('') + raw.map(({ key, value }) => `${key}: ${value}\n`).join('')
  );
}

/** Sorted, lower case, each once. */
export function tagsOf(text) {
  return [
    ...new Set(
      text
        .toLowerCase()
        .split(/[;, ]+/)
        .filter(Boolean),
    ),
  ]
    .sort()
    .join(';');
}

/** PVE::Tools::encode_text: control characters, %, : and what is not ASCII. */
function escape(line) {
  return line.replace(/[\p{Cc}%:]|[^\x20-\x7e]/gu, (character) =>
    character.charCodeAt(0) < 0x80
      ? `%${character.charCodeAt(0).toString(16).toUpperCase().padStart(2, '0')}`
      : encodeURIComponent(character),
  );
}
function unescape(line) {
  try {
    return decodeURIComponent(line);
  } catch {
    return line;
  }
}
