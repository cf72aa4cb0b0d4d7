// npm run release: what a release consists of, in build/release/.
//
//   crisp_VERSION_amd64.deb, crisp-VERSION-linux-amd64.tar.gz
//   crisp-VERSION.spdx.json, crisp-VERSION.cdx.json   the bill of materials, by npm
//   SHA256SUMS
import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { copyFileSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

const home = fileURLToPath(new URL('..', import.meta.url));
const out = join(home, 'build/release');
const { version } = JSON.parse(readFileSync(join(home, 'package.json'), 'utf8'));
/** npm's name of each format, and how its file is called. */
const billsOfMaterials = { spdx: `crisp-${version}.spdx.json`, cyclonedx: `crisp-${version}.cdx.json` };
const packages = [`crisp_${version}_amd64.deb`, `crisp-${version}-linux-amd64.tar.gz`];

rmSync(out, { recursive: true, force: true });
mkdirSync(out, { recursive: true });
execFileSync(process.execPath, [join(home, 'deploy/package.mjs')], { stdio: 'inherit' });
for (const name of packages) copyFileSync(join(home, 'build', name), join(out, name));
for (const [format, name] of Object.entries(billsOfMaterials))
  writeFileSync(
    join(out, name),
    execFileSync('npm', ['sbom', '--omit=dev', `--sbom-format=${format}`], {
      cwd: home,
      maxBuffer: 64 << 20,
    }),
  );
const files = [...packages, ...Object.values(billsOfMaterials)].sort();
writeFileSync(
  join(out, 'SHA256SUMS'),
  files
    .map(
      (name) =>
        `${createHash('sha256')
          .update(readFileSync(join(out, name)))
          .digest('hex')}  ${name}\n`,
    )
    .join(''),
);
console.log(files.map((name) => join(out, name)).join('\n'));
