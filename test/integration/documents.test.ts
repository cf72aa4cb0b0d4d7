// The commands of the documents, run unchanged on a daemon with the paths of an
// installed one. For the selection of the commands see helpers/documents.ts and
// src/documents.test.ts.
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { readFileSync } from 'node:fs';
import { mkdir, mkdtemp, rmdir, symlink, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { crisp, startDaemon, type Daemon } from '../helpers/daemon.js';
import { blocksOf, documents, type Block } from '../helpers/documents.js';
import { makeImageArchive } from '../helpers/image.js';
import { startRegistry, type Registry } from '../helpers/registry.js';

/** Programs of lines that cannot run here, and why. */
const absent: Readonly<Record<string, string>> = {
  journalctl: 'no systemd runs here, and so there is no journal',
};
const pod = `
apiVersion: v1
kind: Pod
metadata: { name: web }
spec: { containers: [{ name: nginx, image: docker.io/library/nginx:alpine }] }
`;
const blocks = documents()
  .flatMap(blocksOf)
  .filter(({ mark }) => mark === 'run');

let daemon: Daemon;
let registry: Registry;
let pods = 0;

beforeAll(async () => {
  daemon = await startDaemon({
    config: { images: { registries_conf: '/etc/containers/registries.conf' } },
  });
  registry = await startRegistry(daemon.folder);
  // /etc as on an installed node, above the one of this machine.
  const etc = join(daemon.folder, 'etc');
  for (const name of ['upper/crisp', 'upper/containers/registries.conf.d', 'work'])
    await mkdir(join(etc, name), { recursive: true });
  await writeFile(
    join(etc, 'upper/containers/registries.conf'),
    ['docker.io/library', registry.address]
      .map(
        (prefix) => `[[registry]]\nprefix = "${prefix}"\nlocation = "${registry.address}"\ninsecure = true\n`,
      )
      .join(''),
  );
  await writeFile(join(etc, 'upper/crisp/config.yaml'), readFileSync(daemon.configFile));
  await writeFile(
    join(etc, 'upper/crictl.yaml'),
    readFileSync('deploy/crictl.yaml', 'utf8').replaceAll('/run/crisp/crisp.sock', daemon.socket),
  );
  await daemon.machine.must(['mkdir', '-p', '/tmp/c']);
  await daemon.machine.must(['mount', '-t', 'tmpfs', 'tmpfs', '/tmp/c']);
  await daemon.machine.must([
    ...['mount', '-t', 'overlay', 'overlay', '-o'],
    ...[`lowerdir=/etc,upperdir=${join(etc, 'upper')},workdir=${join(etc, 'work')}`, '/etc'],
  ]);
  // It is busybox that answers to the name nginx.
  const archive = await makeImageArchive(daemon.folder, 'nginx', {
    files: { 'bin/nginx': '#!/bin/sh\n[ "$1" = -v ] || exec sleep 1000\necho nginx version: none >&2\n' },
    config: { Cmd: ['nginx'] },
  });
  await daemon.machine.must([
    ...['skopeo', '--insecure-policy', 'copy', '-q', '--dest-tls-verify=false'],
    ...[`oci-archive:${archive}`, `docker://${registry.address}/nginx:alpine`],
  ]);
});

afterAll(async () => {
  await daemon?.destroy();
  await registry?.close();
  await rmdir('/tmp/c').catch(() => undefined); // the mount point in a document; a foreign folder is not empty
});

/** A pod with a container, for the placeholders in capitals of the documents. */
async function makePod(): Promise<Readonly<Record<string, string>>> {
  const image = `${registry.address}/nginx:alpine`;
  await daemon.crictl('pull', image);
  for (const [file, text] of Object.entries({
    'pod.json': {
      metadata: { name: 'web', namespace: 'default', uid: String(++pods) },
      log_directory: daemon.logFolder,
    },
    'container.json': { metadata: { name: 'web' }, image: { image }, log_path: 'web.log' },
  }))
    await writeFile(join(daemon.folder, file), JSON.stringify(text));
  const { stdout } = await daemon.crictl(
    ...['run', join(daemon.folder, 'container.json'), join(daemon.folder, 'pod.json')],
  );
  const id = stdout.trim();
  const { info } = JSON.parse((await daemon.crictl('inspect', id)).stdout) as { info: { pid: number } };
  return { ID: id, CONTAINER_ID: id, POD: 'web', NAME: 'web', IMAGE: image, PID: String(info.pid) };
}

/** Runs a block in a temporary folder, with `bash -e`. */
async function run(block: Block): Promise<string> {
  const words = await makePod();
  const folder = await mkdtemp(join(daemon.folder, 'document-'));
  for (const name of ['bin', 'deploy']) await symlink(join(dirname(crisp), '..', name), join(folder, name));
  await writeFile(join(folder, 'pod.yaml'), pod);
  const lines = block.text.split('\n').filter((line) => absent[/^\w+/.exec(line)?.[0] ?? ''] === undefined);
  // A daemon is one more program that runs meanwhile, until the block has ended.
  const background = (line: string): string =>
    `{ ${line} & trap "kill $!; wait $!" EXIT; until [ -S /tmp/c/s ]; do sleep 0.1; done; }`;
  const text = lines
    .map((line) => (/^bin\/crisp serve/.test(line) ? background(line) : line))
    .join('\n')
    .replace(/\b(CONTAINER_ID|ID|POD|NAME|IMAGE|PID)\b/g, (word) => words[word] ?? word);
  await writeFile(join(folder, 'block'), `set -e\ncd ${folder}\nPATH=${dirname(crisp)}:$PATH\n${text}\n`);
  const { exitCode, stdout, stderr } = await daemon.machine.run(['bash', join(folder, 'block')]);
  return exitCode === 0 ? '' : `exit code ${exitCode}\n${text}\n${stdout}\n${stderr}`;
}

test.each(blocks)('$document:$line', async (block) => {
  expect(await run(block)).toBe('');
});
