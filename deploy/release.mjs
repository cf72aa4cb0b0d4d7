// npm run release: makes the files of a release in build/release/.
//
//   crisp_VERSION_amd64.deb, crisp-VERSION-linux-amd64.tar.gz
//   crisp-VERSION.spdx.json, crisp-VERSION.cdx.json   the bill of materials, by npm
//   SHA256SUMS
//
// The argument --fast is passed to package.mjs.
import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { copyFileSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { node } from './node-release.mjs';

const home = fileURLToPath(new URL('..', import.meta.url));
const out = join(home, 'build/release');
const readJson = (name) => JSON.parse(readFileSync(join(home, name), 'utf8'));
const { version } = readJson('package.json');
/** npm's name of each format, and the name of its file. */
const billsOfMaterials = { spdx: `crisp-${version}.spdx.json`, cyclonedx: `crisp-${version}.cdx.json` };
const packages = [`crisp_${version}_amd64.deb`, `crisp-${version}-linux-amd64.tar.gz`];

rmSync(out, { recursive: true, force: true });
mkdirSync(out, { recursive: true });
execFileSync(process.execPath, [join(home, 'deploy/package.mjs'), ...process.argv.slice(2)], {
  stdio: 'inherit',
});
for (const name of packages) copyFileSync(join(home, 'build', name), join(out, name));
writeBillsOfMaterials();
const files = [...packages, ...Object.values(billsOfMaterials)].sort();
writeFileSync(join(out, 'SHA256SUMS'), files.map((name) => `${sha256(join(out, name))}  ${name}\n`).join(''));
console.log(files.map((name) => join(out, name)).join('\n'));

/**
 * npm runs in a project with only the shipped dependencies. In the checkout itself,
 * `npm sbom --omit=dev` omits each dependency that a development dependency also has.
 * npm takes the name of the project from its folder.
 */
function writeBillsOfMaterials() {
  const folder = mkdtempSync(join(tmpdir(), 'crisp-sbom-'));
  const project = join(folder, 'crisp');
  mkdirSync(project);
  const manifest = readJson('package.json');
  delete manifest.devDependencies;
  manifest.dependencies[node.name] = node.version;
  const lock = readJson('package-lock.json');
  lock.packages[''] = manifest;
  for (const [path, { dev, os = ['linux'], cpu = ['x64'] }] of Object.entries(lock.packages))
    if (dev || !os.includes('linux') || !cpu.includes('x64')) delete lock.packages[path];
  lock.packages[`node_modules/${node.name}`] = {
    version: node.version,
    integrity: node.integrity,
    license: 'MIT',
  };
  writeFileSync(join(project, 'package.json'), JSON.stringify(manifest));
  writeFileSync(join(project, 'package-lock.json'), JSON.stringify(lock));
  try {
    for (const [format, name] of Object.entries(billsOfMaterials))
      writeFileSync(
        join(out, name),
        execFileSync(
          'npm',
          ['sbom', '--package-lock-only', '--sbom-type=application', `--sbom-format=${format}`],
          { cwd: project, maxBuffer: 64 << 20 },
        ),
      );
  } finally {
    rmSync(folder, { recursive: true });
  }
}

function sha256(file) {
  return createHash('sha256').update(readFileSync(file)).digest('hex');
}
