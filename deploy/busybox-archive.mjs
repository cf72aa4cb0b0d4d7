// An image made from Debian's busybox-static, for the demo and the benchmark:
// so they need no registry.
import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

const run = (tool, ...args) =>
  execFileSync(tool, args, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] });

/**
 * Writes an OCI archive (image-spec, image-layout.md). Its first layer is busybox and its names.
 * @param more the other layers, each as a tar archive
 */
export function makeArchive(path, imageName, cmd, more = []) {
  const work = mkdtempSync(`${path}-`);
  const layout = join(work, 'layout');
  const tree = join(work, 'tree');
  mkdirSync(join(tree, 'bin'), { recursive: true });
  for (const name of ['etc', 'proc', 'dev', 'sys', 'tmp']) mkdirSync(join(tree, name));
  run('cp', run('sh', '-c', 'command -v busybox').trim(), join(tree, 'bin/busybox'));
  for (const name of ['sh', 'httpd', 'ls', 'id', 'hostname', 'mkdir', 'echo', 'sleep', 'true'])
    run('ln', '-s', 'busybox', join(tree, 'bin', name));
  mkdirSync(join(layout, 'blobs', 'sha256'), { recursive: true });
  const digestOf = (content) => createHash('sha256').update(content).digest('hex');
  const blob = (content, mediaType) => {
    const digest = digestOf(content);
    writeFileSync(join(layout, 'blobs', 'sha256', digest), content);
    return { mediaType, digest: `sha256:${digest}`, size: content.length };
  };
  run('tar', '-C', tree, '--owner=0', '--group=0', '-cf', join(work, 'layer.tar'), '.');
  const layers = [readFileSync(join(work, 'layer.tar')), ...more];
  const config = Buffer.from(
    JSON.stringify({
      architecture: { x64: 'amd64', arm64: 'arm64' }[process.arch],
      os: 'linux',
      config: { Env: ['PATH=/bin'], Cmd: cmd },
      rootfs: { type: 'layers', diff_ids: layers.map((layer) => `sha256:${digestOf(layer)}`) },
    }),
  );
  const manifest = Buffer.from(
    JSON.stringify({
      schemaVersion: 2,
      mediaType: 'application/vnd.oci.image.manifest.v1+json',
      config: blob(config, 'application/vnd.oci.image.config.v1+json'),
      layers: layers.map((layer) => blob(layer, 'application/vnd.oci.image.layer.v1.tar')),
    }),
  );
  writeFileSync(join(layout, 'oci-layout'), '{"imageLayoutVersion":"1.0.0"}');
  writeFileSync(
    join(layout, 'index.json'),
    JSON.stringify({
      schemaVersion: 2,
      manifests: [
        {
          ...blob(manifest, 'application/vnd.oci.image.manifest.v1+json'),
          annotations: { 'org.opencontainers.image.ref.name': imageName },
        },
      ],
    }),
  );
  run('tar', '-C', layout, '-cf', path, 'oci-layout', 'index.json', 'blobs');
  rmSync(work, { recursive: true });
}
