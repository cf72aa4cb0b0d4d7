// Pods on a real network: the plugins bridge, host-local, portmap and bandwidth of
// Debian, with a bridge, subnets and a lease folder of this run.
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from '@jest/globals';
import { randomBytes, randomInt } from 'node:crypto';
import { mkdir, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { PassThrough, Writable } from 'node:stream';
import { run, runStreaming } from '../../src/host/run.js';
import { Network, type PodNetwork } from '../../src/network/cni.js';
import type { Attachment } from '../../src/network/conflist.js';
import { bringLoopbackUp, pinNamespaces, unpinNamespaces } from '../../src/pod/namespaces.js';

const timeoutMs = 30_000;
const mark = randomBytes(3).toString('hex');
const bridge = `crisp-t${mark}`;
const subnet4 = `10.${randomInt(200, 250)}.${randomInt(256)}`;
const subnet6 = `fdc5:${randomInt(0x1000, 0xffff).toString(16)}:${randomInt(0x1000, 0xffff).toString(16)}`;

let base: string;
let network: Network;
let pods: PodNetwork[];

beforeAll(async () => {
  base = await mkdtemp(join(tmpdir(), 'crisp-network-'));
  await writeConflist('net.d', true);
});
afterAll(async () => {
  await run(['ip', 'link', 'delete', bridge], { timeoutMs, okExitCodes: [0, 1] });
  await rm(base, { recursive: true });
});

beforeEach(async () => {
  pods = [];
  network = newNetwork();
  await network.start();
});
afterEach(async () => {
  for (const pod of pods) {
    await network.detach(pod);
    await unpinNamespaces(folderOf(pod.id));
  }
  network.close();
  expect(await leases()).toEqual([]);
});

async function writeConflist(folder: string, ipMasq: boolean): Promise<void> {
  await mkdir(join(base, folder));
  await writeFile(
    join(base, folder, '10-test.conflist'),
    JSON.stringify({
      cniVersion: '1.0.0',
      name: `crisp-test-${mark}`,
      plugins: [
        {
          type: 'bridge',
          bridge,
          isGateway: true,
          ipMasq,
          hairpinMode: true,
          ipam: {
            type: 'host-local',
            dataDir: join(base, 'leases'),
            ranges: [[{ subnet: `${subnet4}.0/24` }], [{ subnet: `${subnet6}::/64` }]],
            routes: [{ dst: '0.0.0.0/0' }, { dst: '::/0' }],
          },
        },
        { type: 'portmap', capabilities: { portMappings: true } },
        { type: 'bandwidth', capabilities: { bandwidth: true } },
      ],
    }),
  );
}

function newNetwork(folder = 'net.d'): Network {
  return new Network({
    confDir: join(base, folder),
    binDirs: ['/opt/cni/bin', '/usr/lib/cni'],
    pluginTimeoutMs: timeoutMs,
    root: join(base, 'root'),
  });
}
function folderOf(id: string): string {
  return join(base, id);
}

async function newPod(more: Partial<PodNetwork> = {}): Promise<PodNetwork> {
  const id = randomBytes(32).toString('hex');
  const { network: netns = '' } = await pinNamespaces(
    folderOf(id),
    { network: true, ipc: true, uts: true },
    { hostname: 'pod', sysctls: {} },
  );
  const pod: PodNetwork = { id, name: 'pod', namespace: 'test', uid: id, netns, portMappings: [], ...more };
  pods.push(pod);
  return pod;
}

async function inPod(pod: PodNetwork, ...command: string[]): Promise<string> {
  return (await run(['nsenter', `--net=${pod.netns}`, ...command], { timeoutMs })).stdout;
}

/** The files of allocated addresses; host-local has a few other files beside them. */
async function leases(): Promise<string[]> {
  const names = await readdir(join(base, 'leases', `crisp-test-${mark}`)).catch(() => []);
  return names.filter((name) => !/^(lock|last_reserved_ip\..*)$/.test(name));
}

/** The rules of the plugins in the packet filters for this network. */
async function filterRules(): Promise<string[]> {
  const saved = await Promise.all(
    ['iptables-save', 'ip6tables-save'].map((tool) => run([tool], { timeoutMs })),
  );
  return saved
    .flatMap(({ stdout }) => stdout.split('\n'))
    .filter((line) => line.includes(mark) || line.includes(`${subnet4}.`) || line.includes(`${subnet6}:`));
}

function hostVeth(attachment: Attachment): string {
  return attachment.result?.interfaces?.find((one) => one.name.startsWith('veth'))?.name ?? '';
}

interface Qdisc {
  kind: string;
  dev: string;
  options?: { rate?: number };
}
/** The rate limits in force, in bits per second. */
async function limitsOf(device: string): Promise<number[]> {
  const qdiscs = JSON.parse((await run(['tc', '-json', 'qdisc', 'show'], { timeoutMs })).stdout) as Qdisc[];
  return qdiscs
    .filter((qdisc) => qdisc.kind === 'tbf' && qdisc.dev === device)
    .map((qdisc) => (qdisc.options?.rate ?? 0) * 8);
}

/** A server in the pod that greets each client; ends with the `close` of the test. */
async function greet(pod: PodNetwork, port: number): Promise<() => Promise<void>> {
  const script = `require('node:net').createServer((socket) => socket.end('hello')).listen(${port}, '::', () => console.log('listening')); process.stdin.resume().on('end', () => process.exit());`;
  const stdin = new PassThrough();
  let listens: () => void = () => undefined;
  const listening = new Promise<void>((resolve) => {
    listens = resolve;
  });
  const stdout = new Writable({
    write: (_chunk, _encoding, done) => {
      listens();
      done();
    },
  });
  const server = await runStreaming(
    ['nsenter', `--net=${pod.netns}`, process.execPath, '-e', script],
    { stdin, stdout },
    { timeoutMs },
  );
  await Promise.race([listening, server.ended]);
  return async () => {
    stdin.end();
    await server.ended;
  };
}

function ask(host: string, port: number): Promise<string> {
  return new Promise((resolve, reject) => {
    let text = '';
    connect({ host, port, timeout: 5_000 })
      .setEncoding('utf8')
      .on('data', (chunk: string) => {
        text += chunk;
      })
      .on('end', () => resolve(text))
      .on('error', reject)
      .on('timeout', () => reject(new Error(`no answer from ${host}:${port}`)));
  });
}

describe('a pod on the network', () => {
  test('has an address of each family, is reachable on both, and releases both', async () => {
    const pod = await newPod();
    const [attachment] = await Promise.all([network.attach(pod), bringLoopbackUp(pod.netns)]);
    const [ipv4 = '', ipv6 = ''] = attachment.ips;
    expect(attachment.ips).toHaveLength(2);
    expect(ipv4.slice(0, subnet4.length + 1)).toBe(`${subnet4}.`);
    expect(ipv6.slice(0, subnet6.length + 1)).toBe(`${subnet6}:`);
    const shown = await inPod(pod, 'ip', '-brief', 'address');
    expect(shown).toMatch(/^lo +\S+ +127\.0\.0\.1/m);
    expect(shown).toMatch(new RegExp(`^eth0.*${ipv4}/24.*${ipv6}/64`, 'm'));
    expect((await leases()).sort()).toEqual([ipv4, ipv6].sort());

    const close = await greet(pod, 8080);
    try {
      expect(await ask(ipv4, 8080)).toBe('hello');
      expect(await ask(ipv6, 8080)).toBe('hello');
    } finally {
      await close();
    }

    await network.detach(pod, attachment);
    await network.detach(pod, attachment);
    expect(await leases()).toEqual([]);
    expect(await filterRules()).toEqual([]);
    expect(await inPod(pod, 'ip', '-brief', 'link')).not.toContain('eth0');
    expect(await readdir(join(base, 'root', 'network'))).toEqual([]);
  });

  test('is reachable through its host port until it is removed', async () => {
    const hostPort = randomInt(20_000, 30_000);
    const pod = await newPod({
      portMappings: [{ protocol: 'tcp', containerPort: 80, hostPort, hostIp: '127.0.0.1' }],
    });
    const attachment = await network.attach(pod);
    const close = await greet(pod, 80);
    try {
      expect(await ask('127.0.0.1', hostPort)).toBe('hello');
    } finally {
      await close();
    }
    await network.detach(pod, attachment);
    await expect(ask('127.0.0.1', hostPort)).rejects.toMatchObject({ code: 'ECONNREFUSED' });
    expect(await filterRules()).toEqual([]);
  });

  test('has its bandwidth limited in both directions', async () => {
    const pod = await newPod({
      bandwidth: { ingressBitsPerSecond: 8_000_000, egressBitsPerSecond: 4_000_000 },
    });
    const attachment = await network.attach(pod);
    const devices = attachment.result?.interfaces ?? [];
    const veth = hostVeth(attachment);
    const ifb = devices.find((one) => !one.sandbox && one.name !== bridge && one.name !== veth)?.name ?? '';
    expect(await limitsOf(veth)).toEqual([8_000_000]);
    expect(await limitsOf(ifb)).toEqual([4_000_000]);
    expect(await network.check(pod, attachment)).toBe(true);
    await network.detach(pod, attachment);
    expect(await limitsOf(ifb)).toEqual([]);
  });

  test('shares it with others: each of many concurrent pods has its own address', async () => {
    const several = await Promise.all(Array.from({ length: 4 }, () => newPod()));
    const attachments = await Promise.all(several.map((pod) => network.attach(pod)));
    expect(new Set(attachments.flatMap((attachment) => attachment.ips)).size).toBe(8);
    await Promise.all(several.map((pod, index) => network.detach(pod, attachments[index])));
    expect(await leases()).toEqual([]);
  });

  test('whose namespace cannot be joined leaves no address allocated', async () => {
    const pod = await newPod();
    await expect(network.attach({ ...pod, netns: join(base, 'nowhere') })).rejects.toMatchObject({
      id: 'CniFailed',
      tool: 'bridge',
      message: expect.stringContaining('nowhere'),
    });
    expect(await leases()).toEqual([]);
    expect(await readdir(join(base, 'root', 'network'))).toEqual([]);
  });
});

describe('a pod whose namespace is lost', () => {
  // Without masquerading: bridge 1.1 learns the addresses to clean up for from the interface, so it leaves those rules.
  beforeAll(() => writeConflist('lean', false));
  beforeEach(async () => {
    network.close();
    network = newNetwork('lean');
    await network.start();
  });

  test('still releases its addresses', async () => {
    const pod = await newPod();
    const attachment = await network.attach(pod);
    await unpinNamespaces(folderOf(pod.id));
    await network.detach(pod, attachment);
    expect(await leases()).toEqual([]);
  });

  test('in a reboot has its addresses released at the next start', async () => {
    const [gone, kept] = [await newPod(), await newPod()];
    await network.attach(gone);
    const attachment = await network.attach(kept);
    await unpinNamespaces(folderOf(gone.id));
    const next = newNetwork('lean');
    await next.start();
    await next.collectGarbage([kept.id]);
    next.close();
    expect((await leases()).sort()).toEqual([...attachment.ips].sort());
  });
});

test('a single .conf of an old version is accepted', async () => {
  await mkdir(join(base, 'single'));
  await writeFile(
    join(base, 'single', '10-ptp.conf'),
    JSON.stringify({
      cniVersion: '0.3.1',
      name: `crisp-test-${mark}`,
      type: 'ptp',
      ipam: { type: 'host-local', dataDir: join(base, 'leases'), subnet: `${subnet4}.0/24` },
    }),
  );
  const single = newNetwork('single');
  try {
    await single.start();
    expect(single.status()).toMatchObject({ ready: true, message: '' });
    const pod = await newPod();
    const attachment = await single.attach(pod);
    expect(attachment.ips).toEqual([expect.stringMatching(new RegExp(`^${subnet4}\\.\\d+$`))]);
    expect(await inPod(pod, 'ip', '-brief', 'address')).toContain(attachment.ips[0]);
    await single.detach(pod, attachment);
    expect(await leases()).toEqual([]);
  } finally {
    single.close();
  }
});

test('the packaged conflist works with the plugins of Debian', async () => {
  await mkdir(join(base, 'shipped'));
  await writeFile(
    join(base, 'shipped', '10-crisp.conflist'),
    await readFile(new URL('../../deploy/cni/10-crisp.conflist', import.meta.url)),
  );
  const shipped = newNetwork('shipped');
  await shipped.start();
  shipped.close();
  expect(shipped.status()).toEqual({ ready: true, reason: '', message: '' });
});
