// The command line of pct: its options, their formats, and the messages for invalid ones.
import { die } from './place.mjs';

const number = (least, most) => (text) =>
  /^-?\d+$/.test(text)
    ? Number(text) < least
      ? `value must have a minimum value of ${least}`
      : Number(text) > most
        ? `value must have a maximum value of ${most}`
        : undefined
    : `type check ('integer') failed - got '${text}'`;
const decimal = (least, most) => (text) =>
  /^\d+(\.\d+)?$/.test(text)
    ? Number(text) < least || Number(text) > most
      ? `value must have a maximum value of ${most}`
      : undefined
    : `type check ('number') failed - got '${text}'`;
const form = (pattern, what) => (text) => (pattern.test(text) ? undefined : `invalid format - ${what}`);
const oneOf =
  (...values) =>
  (text) =>
    values.includes(text)
      ? undefined
      : `value '${text}' does not have a value in the enumeration '${values.join(', ')}'`;
const longest = (most) => (text) =>
  text.length > most ? `value may only be ${most} characters long` : undefined;
const flag = oneOf('0', '1');
const any = () => undefined;

const label = '[a-zA-Z0-9]([a-zA-Z0-9-]*[a-zA-Z0-9])?';
const netKeys = {
  name: /^[-_.\w\d]+$/,
  bridge: /^[-_.\w\d]+$/,
  hwaddr: /^[0-9a-f][02468ace](:[0-9a-f]{2}){5}$/i,
  ip: /^(dhcp|manual|\d{1,3}(\.\d{1,3}){3}\/\d{1,2})$/,
  gw: /^\d{1,3}(\.\d{1,3}){3}$/,
  ip6: /^(auto|dhcp|manual|[0-9a-f:]+\/\d{1,3})$/i,
  gw6: /^[0-9a-f:]+$/i,
  mtu: /^(6[4-9]|[7-9]\d|\d{3,4}|[1-5]\d{4}|6[0-5]\d{3})$/,
  tag: /^([1-9]\d{0,2}|[1-3]\d{3}|40[0-8]\d|409[0-4])$/,
  trunks: /^[\d;]+$/,
  rate: /^\d+(\.\d+)?$/,
  firewall: /^[01]$/,
  link_down: /^[01]$/,
  type: /^veth$/,
  'host-managed': /^[01]$/,
};

export function parseNet(text) {
  return Object.fromEntries(
    text.split(',').map((field) => {
      const cut = field.indexOf('=');
      return [field.slice(0, cut), field.slice(cut + 1)];
    }),
  );
}

/** A volume or device first, then "key=value". */
export function parseFirst(text, key) {
  const [first = '', ...rest] = text.split(',');
  return { ...parseNet(rest.join(',')), [key]: first.replace(`${key}=`, '') };
}

function net(text) {
  const fields = parseNet(text);
  for (const [key, value] of Object.entries(fields)) {
    if (!netKeys[key])
      return `invalid format - format error\nnet0.${key}: property is not defined in schema and the schema does not allow additional properties`;
    if (!netKeys[key].test(value))
      return `invalid format - format error\nnet0.${key}: value does not match the regex pattern`;
  }
  return fields.name
    ? undefined
    : 'invalid format - format error\nnet0.name: property is missing and it is not optional';
}

/** The fields of a value, in which the first may stand without its name; and what PVE says of one that it does not know. */
const fieldsOf = (known, first) => (text) => {
  for (const field of text.split(',')) {
    const [, key = first, value = ''] = /^(?:([\w-]+)=)?(.*)$/.exec(field) ?? [];
    if (!known[key])
      return `invalid format - format error\n${key}: property is not defined in schema and the schema does not allow additional properties`;
    if (!known[key].test(value))
      return `invalid format - format error\n${key}: value does not match the regex pattern`;
  }
  const isThere = (key) =>
    text.split(',').some((field) => field.startsWith(`${key}=`) || (key === first && !field.includes('=')));
  const missing = [first, ...(known.mp ? ['mp'] : [])].find((key) => key && !isThere(key));
  return missing
    ? `invalid format - format error\n${missing}: property is missing and it is not optional`
    : undefined;
};
const bit = /^[01]$/;
const mp = fieldsOf(
  {
    volume: /^[^\s,]+$/,
    mp: /^\/(?!.*\.\.(\/|$)).+$/,
    backup: bit,
    ro: bit,
    size: /^\d+[TGMK]?$/,
    acl: bit,
    replicate: bit,
    shared: bit,
    keepattrs: bit,
    mountoptions: /^[\w;]+$/,
  },
  'volume',
);
const dev = fieldsOf(
  { path: /^\/dev\/(?!.*\.\.(\/|$)).+$/, mode: /^0[0-7]{3}$/, uid: /^\d+$/, gid: /^\d+$/, 'deny-write': bit },
  'path',
);
const features = fieldsOf({
  nesting: bit,
  keyctl: bit,
  fuse: bit,
  mknod: bit,
  force_rw_sys: bit,
  mount: /^[\w;]+$/,
});

const options = {
  arch: oneOf('amd64', 'i386', 'arm64', 'armhf', 'riscv32', 'riscv64'),
  bwlimit: decimal(0, Infinity),
  cmode: oneOf('tty', 'console', 'shell'),
  console: flag,
  cores: number(1, 8192),
  cpulimit: decimal(0, 8192),
  cpuunits: number(0, 500000),
  debug: flag,
  description: longest(8192),
  entrypoint: form(/^[^\p{Cc}]*$/u, 'one line'),
  env: any,
  features,
  force: flag,
  'ha-managed': flag,
  hookscript: any,
  hostname: (text) =>
    text.length <= 255
      ? form(new RegExp(`^${label}(\\.${label})*$`), 'value does not look like a valid DNS name')(text)
      : longest(255)(text),
  'ignore-unpack-errors': flag,
  lock: oneOf(
    'backup',
    'create',
    'destroyed',
    'disk',
    'fstrim',
    'migrate',
    'mounted',
    'rollback',
    'snapshot',
    'snapshot-delete',
  ),
  memory: number(16, Infinity),
  nameserver: form(/^[\d. :a-f]+$/i, 'IP list'),
  onboot: flag,
  ostype: oneOf(
    'debian',
    'devuan',
    'ubuntu',
    'centos',
    'fedora',
    'opensuse',
    'archlinux',
    'alpine',
    'gentoo',
    'nixos',
    'unmanaged',
  ),
  password: (text) => (text.length < 5 ? 'value must be at least 5 characters long' : undefined),
  pool: any,
  protection: flag,
  restore: flag,
  rootfs: any,
  searchdomain: any,
  'ssh-public-keys': any,
  start: flag,
  startup: any,
  storage: form(/^[a-z][a-z0-9._-]*$/i, 'storage ID'),
  swap: number(0, Infinity),
  tags: form(/^([a-z0-9_][a-z0-9_\-+.]*([;, ]|$))*$/i, 'invalid characters in tag'),
  template: flag,
  timezone: any,
  tty: number(0, 6),
  unprivileged: flag,
};
const flags = Object.keys(options).filter((name) => options[name] === flag);

/** The verbs, their positional arguments and the options that are theirs alone. */
export const verbs = {
  create: { positional: ['vmid', 'ostemplate'], options },
  set: { positional: ['vmid'], options: { ...options, delete: any, digest: any, revert: any } },
  start: { positional: ['vmid'], options: { skiplock: flag, debug: flag } },
  stop: { positional: ['vmid'], options: { skiplock: flag, 'overrule-shutdown': flag } },
  shutdown: { positional: ['vmid'], options: { timeout: number(0, Infinity), forceStop: flag } },
  destroy: {
    positional: ['vmid'],
    options: { force: flag, purge: flag, 'destroy-unreferenced-disks': flag },
  },
  status: { positional: ['vmid'], options: { verbose: flag } },
  config: { positional: ['vmid'], options: { current: flag, snapshot: any } },
  unlock: { positional: ['vmid'], options: {} },
  exec: { positional: ['vmid'], options: { 'keep-env': flag } },
  list: { positional: [], options: {} },
};

function check(name, known) {
  return (
    known[name] ??
    (/^net([0-9]|[12]\d|3[01])$/.test(name)
      ? net
      : /^mp\d+$/.test(name)
        ? mp
        : /^dev\d+$/.test(name)
          ? dev
          : /^unused\d+$/.test(name)
            ? any
            : undefined)
  );
}

/** @returns the positional arguments and the options by name, and the arguments after "--" */
export function parse(verb, words) {
  const { positional, options: known } = verbs[verb];
  const given = {};
  const found = {};
  let rest = [...words];
  for (const name of positional) {
    if (rest.length === 0 || (rest[0].startsWith('-') && rest[0] !== '-'))
      die(`400 not enough arguments\npct ${verb} ${positional.map((one) => `<${one}>`).join(' ')} [OPTIONS]`);
    given[name] = rest.shift();
  }
  let command = [];
  while (rest.length > 0) {
    const word = rest.shift();
    if (word === '--') {
      command = rest;
      break;
    }
    const [, name, , value] = /^--?([\w-]+)(=(.*))?$/s.exec(word) ?? [];
    if (!name) die(`400 too many arguments`);
    if (!check(name, known)) die(`Unknown option: ${name}\n400 unable to parse option`);
    if (value !== undefined) found[name] = value;
    else if ((flags.includes(name) || known[name] === flag) && !/^[01]$/.test(rest[0] ?? ''))
      found[name] = '1';
    else if (rest.length === 0) die(`Option ${name} requires an argument\n400 unable to parse option`);
    else found[name] = rest.shift();
  }
  const wrong = Object.entries(found).flatMap(([name, value]) => {
    const why = check(name, known)(value);
    return why ? [`${name}: ${why}`] : [];
  });
  if (given.vmid !== undefined && !/^[1-9][0-9]{2,8}$/.test(given.vmid))
    wrong.unshift(`vmid: invalid format - value does not look like a valid VM ID`);
  if (wrong.length > 0)
    die(
      `400 Parameter verification failed.\n${wrong.join('\n')}\npct ${verb} ${positional.map((one) => `<${one}>`).join(' ')} [OPTIONS]`,
    );
  return { given, options: found, command };
}
