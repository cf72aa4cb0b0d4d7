// `crisp pull`, `images`, `rmi`, `load` and `run --pull`: bin/crisp as a person
// runs it, with a real registry, without a daemon and beside one.
import { afterAll, afterEach, beforeAll, describe, expect, test } from '@jest/globals';
import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { startDaemon, type Daemon } from '../helpers/daemon.js';
import { makeArchiveOf, makeImageArchive, makeLayout } from '../helpers/image.js';
import { Machine, type Result } from '../helpers/machine.js';
import { startProxy, type Proxy, type Registry } from '../helpers/registry.js';
import { noneUsed, TestStore } from '../helpers/store.js';
import { eventually } from '../helpers/wait.js';

const bin = fileURLToPath(new URL('../../bin/crisp', import.meta.url));

let store: TestStore;
let registry: Registry;
let proxy: Proxy;
let machine: Machine;
let configFile: string;
/** An image of busybox behind the proxy. */
let box: string;

beforeAll(async () => {
  store = await TestStore.open();
  registry = await store.registry();
  proxy = await startProxy(registry);
  machine = await Machine.start([store.state, join(store.folder, 'cli')]);
  configFile = await store.writeConfig();
  const archive = await makeImageArchive(store.folder, 'box');
  await machine.must([
    ...['skopeo', '--insecure-policy', 'copy', '--quiet', '--dest-tls-verify=false'],
    ...[`oci-archive:${archive}`, `docker://${registry.address}/box:1`],
  ]);
  box = `${proxy.address}/box:1`;
});
afterEach(async () => {
  proxy.intercept(undefined);
  for (const image of await store.images.list()) await store.images.remove(image.id, noneUsed);
  await store.removeLeftovers();
});
afterAll(async () => {
  await machine?.stop();
  await proxy?.close();
  await store?.destroy();
});

function crisp(command: string, ...words: string[]): Promise<Result> {
  return machine.run([process.execPath, bin, command, '--config', configFile, ...words]);
}
/** On a terminal of script(1), which has what the command writes there. */
function onTerminal(command: string, ...words: string[]): Promise<Result> {
  const line = [process.execPath, bin, command, '--config', configFile, ...words].join(' ');
  return machine.run(['script', '--quiet', '--return', '--command', line, '/dev/null']);
}
const fetched = (from: number): string[] =>
  proxy.requests.slice(from).filter((line) => line.startsWith('GET') && line.includes('/manifests/'));

test('an image is pulled, listed and removed', async () => {
  const pull = await crisp('pull', box);
  expect(pull).toMatchObject({ exitCode: 0, stdout: expect.stringMatching(/^sha256:[0-9a-f]{64}\n$/) });
  expect(pull.stderr).toBe(`pulling ${box}\npulled ${box}\n`);
  const id = pull.stdout.trim();
  const list = await crisp('images');
  expect(list.stdout).toMatch(/^NAME +ID +SIZE\n/);
  expect(list.stdout).toContain(box);
  expect(JSON.parse((await crisp('images', '--json')).stdout)).toMatchObject([{ id, tags: [box] }]);
  expect((await crisp('images', '--quiet')).stdout).toBe(`${id}\n`);
  expect(await crisp('rmi', box)).toMatchObject({ exitCode: 0, stdout: `${id}\n` });
  expect((await crisp('images', '--quiet')).stdout).toBe('');
});

test('how far a pull is, a terminal shows as a bar', async () => {
  const { manifests } = await makeLayout(store.folder, { layers: [{ small: 'x' }] });
  const [small = ''] = manifests[0]?.layers ?? [];
  await registry.push(
    await makeLayout(store.folder, { layers: [{ small: 'x' }, { large: Buffer.alloc(3_000_000, 'y') }] }),
    'bar:1',
  );
  proxy.intercept(async (_response, _request, blob) => {
    if (blob === small)
      await new Promise((resolve) => {
        setTimeout(resolve, 2_000);
      });
    return false;
  });
  const { stdout, exitCode } = await onTerminal('pull', `${proxy.address}/bar:1`);
  expect(exitCode).toBe(0);
  expect(stdout).toMatch(/\r\[#+\.*\] \d\.\d MB of 3\.0 MB \S+bar:1/);
});

describe('a mistake is told in the words of the command line', () => {
  test.each<[string, string[], RegExp, number]>([
    ['a tag that is not there', ['pull', 'ADDRESS/box:2'], /NotFoundInRegistry: pull of \S+box:2 failed/, 1],
    ['a malformed name', ['pull', 'Box'], /InvalidArgument: image reference "Box" is malformed/, 1],
    ['nothing to pull', ['pull'], /IMAGE is missing/, 2],
    ['what is not here', ['rmi', 'box'], /ImageNotFound: image box is not on this node.*crisp images/, 1],
    ['no such file', ['load', './none.tar'], /none\.tar does not exist/, 1],
    ['no archive', ['load', 'CONFIG'], /CONFIG/, 1],
    [
      'a policy that is none',
      ['run', '--pull', 'sometimes', 'box'],
      /--pull must be missing, always or never/,
      2,
    ],
    ['never pulled', ['run', '--pull', 'never', 'ADDRESS/box:1'], /ImageNotFound.*crisp pull/, 125],
    ['an id', ['run', '0123456789ab'], /ImageNotFound: image 0123456789ab is not on this node/, 125],
  ])('%s', async (_, [command = '', ...words], message, exitCode) => {
    const given = words.map((word) => word.replace('ADDRESS', proxy.address).replace('CONFIG', configFile));
    const result = await crisp(command, ...given);
    expect(result).toMatchObject({ exitCode, stdout: '' });
    expect(result.stderr).toMatch(new RegExp(message.source.replace('CONFIG', configFile)));
    expect(result.stderr).not.toMatch(/Internal|crictl/);
  });
});

describe('crisp run', () => {
  test('pulls what is missing, and no more than that', async () => {
    expect(await crisp('run', '--rm', box, 'echo', 'hello')).toMatchObject({
      exitCode: 0,
      stdout: 'hello\n',
      stderr: `pulling ${box}\npulled ${box}\n`,
    });
    const from = proxy.requests.length;
    const again = await crisp('run', '--rm', box, 'echo', 'again');
    expect(again).toMatchObject({ exitCode: 0, stdout: 'again\n', stderr: '' });
    expect(fetched(from)).toEqual([]);
  });

  test('--pull always asks the registry each time', async () => {
    await crisp('pull', box);
    const from = proxy.requests.length;
    expect(await crisp('run', '--rm', '--pull', 'always', box, 'true')).toMatchObject({ exitCode: 0 });
    expect(fetched(from)).not.toEqual([]);
  });

  test('keeps its image from rmi, also a stopped one', async () => {
    const { stdout } = await crisp('create', '--name', 'keeper', box, 'true');
    expect(stdout).toMatch(/^[0-9a-f]{64}\n$/);
    expect(await crisp('rmi', box)).toMatchObject({
      exitCode: 1,
      stderr: expect.stringContaining('ImageInUse'),
    });
    await crisp('delete', 'keeper');
    expect(await crisp('rmi', box)).toMatchObject({ exitCode: 0 });
  });
});

test('an archive is loaded by the names that it gives, or by its own', async () => {
  const named = await makeArchiveOf(
    await makeLayout(store.folder, { layers: [{ a: 'named' }] }),
    join(store.folder, 'a.tar'),
    'quay.io/team/app:2',
  );
  const layout = await makeLayout(store.folder, { layers: [{ a: 'folder' }] });
  expect(await crisp('load', named, layout.path)).toMatchObject({
    exitCode: 0,
    stdout: 'quay.io/team/app:2\nlocalhost/oci:latest\n',
  });
  expect((await store.images.list()).flatMap(({ tags }) => tags).sort()).toEqual([
    'localhost/oci:latest',
    'quay.io/team/app:2',
  ]);
});

test('a pull that is interrupted leaves finished layers, which gc removes', async () => {
  const made = await makeLayout(store.folder, { layers: [{ first: 'x' }, { second: 'y' }] });
  await registry.push(made, 'interrupted:1');
  const [, second] = made.manifests[0]?.layers ?? [];
  proxy.intercept((_response, _request, blob) => blob === second);
  const pull = machine.run([
    ...['sh', '-c', '"$@" & sleep 3; kill -INT $!; sleep 0.05; kill -INT $!; wait $!', 'sh'],
    ...[process.execPath, bin, 'pull', '--config', configFile, `${proxy.address}/interrupted:1`],
  ]);
  expect((await pull).stderr).toMatch(/Cancelled: the pull of \S+ was interrupted/);
  await eventually(async () => {
    expect(await readdir(join(store.root, 'pulls'))).toEqual([]);
  });
  expect((await crisp('gc', '--dry-run')).stdout).toMatch(/would remove image layer [0-9a-f]{64}/);
  expect((await crisp('gc')).stdout).toMatch(/removed image layer/);
  expect(await store.images.leftovers()).toEqual([]);
});

describe('beside a daemon on the same folders', () => {
  let daemon: Daemon;
  const beside = (command: string, ...words: string[]): Promise<Result> =>
    daemon.machine.run([process.execPath, bin, command, '--config', daemon.configFile, ...words]);
  beforeAll(async () => {
    daemon = await startDaemon({ network: false });
  });
  afterAll(async () => daemon?.destroy());

  test('each sees at once what the other pulls and removes', async () => {
    const { image } = daemon.client;
    expect(await beside('pull', box)).toMatchObject({ exitCode: 0 });
    expect((await image.ImageStatus({ image: { image: box } })).image?.repo_tags).toEqual([box]);
    await image.RemoveImage({ image: { image: box } });
    expect((await beside('images')).stdout).not.toContain(box);
    await image.PullImage({ image: { image: box } });
    expect((await beside('images')).stdout).toContain(box);
    expect(await beside('rmi', box)).toMatchObject({ exitCode: 0 });
    expect((await image.ImageStatus({ image: { image: box } })).image).toBeNull();
  });

  test('both may pull the same at once', async () => {
    const [mine, its] = await Promise.all([
      beside('pull', box),
      daemon.client.image.PullImage({ image: { image: box } }),
    ]);
    expect(mine).toMatchObject({ exitCode: 0, stdout: `${its.image_ref}\n` });
  });
});
