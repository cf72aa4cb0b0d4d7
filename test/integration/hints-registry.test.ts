// The advice of pulls that fail, followed, with real registries on loopback.
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { crisp as bin, startDaemon, type Daemon } from '../helpers/daemon.js';
import { hintPattern } from '../helpers/hints.js';
import { makeLayout } from '../helpers/image.js';
import { startRegistry, type Registry } from '../helpers/registry.js';
import type { Result } from '../helpers/machine.js';

const credentials = { username: 'user', password: 'secret' };
let daemon: Daemon;
let registry: Registry;
let reference: string;

beforeAll(async () => {
  daemon = await startDaemon();
  await daemon.stop(); // `crisp pull` needs none
  registry = await startRegistry(join(daemon.folder, 'registry'), { credentials, tls: true });
  reference = await registry.push(
    await makeLayout(daemon.folder, { layers: [{ file: 'content' }] }),
    'app:1',
  );
});
afterAll(async () => {
  await registry?.close();
  await daemon?.destroy();
});

async function pull(name: string, images: Readonly<Record<string, unknown>>): Promise<Result> {
  await daemon.writeConfig({ cli_state: join(daemon.folder, 'cli'), images });
  return daemon.machine.run([bin, 'pull', '--config', daemon.configFile, name]);
}

test('an unknown certificate, no credentials, a wrong tag, a policy that refuses: each is mended by its hint', async () => {
  const known = { certs_dir: registry.certsDir };
  expect((await pull(reference, {})).stderr).toMatch(
    hintPattern('check the network, DNS and registries.conf of the node'),
  );
  expect((await pull(reference, known)).stderr).toMatch(
    hintPattern('check the imagePullSecrets of the pod, or auth.json of the node'),
  );
  const auth = join(daemon.folder, 'auth.json');
  const token = Buffer.from(`${credentials.username}:${credentials.password}`).toString('base64');
  await writeFile(auth, JSON.stringify({ auths: { [registry.address]: { auth: token } } }));
  const allowed = { ...known, auth_file: auth };
  expect((await pull(reference.replace(/:1$/, ':2'), allowed)).stderr).toMatch(
    hintPattern('check the name and the tag'),
  );
  const policy = join(daemon.folder, 'strict.json');
  await writeFile(policy, JSON.stringify({ default: [{ type: 'reject' }] }));
  expect((await pull(reference, { ...allowed, signature_policy: policy })).stderr).toMatch(
    hintPattern('sign the image, or change policy.json'),
  );
  expect(await pull(reference, allowed)).toMatchObject({ exitCode: 0 });
});

test('an archive of several images is loaded, then run by the name that was printed', async () => {
  await daemon.writeConfig({ cli_state: join(daemon.folder, 'cli') });
  const crisp = (command: string, ...words: string[]) =>
    daemon.machine.run([bin, command, '--config', daemon.configFile, ...words]);
  const [one, both] = [join(daemon.folder, 'one'), join(daemon.folder, 'both')];
  await mkdir(one);
  const { path } = await makeLayout(one, { layers: [{ file: 'content' }] });
  for (const name of ['localhost/a:1', 'localhost/b:1'])
    await daemon.machine.must([
      'skopeo',
      '--insecure-policy',
      'copy',
      '-q',
      `oci:${path}`,
      `oci:${both}:${name}`,
    ]);
  const { stderr } = await crisp('run', both, 'true');
  expect(stderr).toMatch(hintPattern('import them with `crisp load NAME`, which prints their names'));
  const line = /`crisp ([^`]+)`/.exec(stderr)?.[1] ?? '';
  const [command = '', ...words] = line.split(' ');
  expect(await crisp(command, ...words)).toMatchObject({ stdout: 'localhost/a:1\nlocalhost/b:1\n' });
});
