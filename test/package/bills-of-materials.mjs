// Checks the bills of materials of a release: their names, that they are about crisp,
// and that they list what is shipped and nothing else, with versions and digests.
//   node bills-of-materials.mjs build/release
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { node } from '../../deploy/node-release.mjs';

const folder = process.argv[2];
const read = (path) => JSON.parse(readFileSync(path, 'utf8'));
const { version, dependencies, devDependencies } = read('package.json');
const spdx = read(join(folder, `crisp-${version}.spdx.json`));
const cyclonedx = read(join(folder, `crisp-${version}.cdx.json`));

assert.match(spdx.spdxVersion, /^SPDX-2\.\d$/);
assert.equal(spdx.name, `crisp@${version}`);
assert.equal(cyclonedx.bomFormat, 'CycloneDX');
const { name, version: ofWhat, type } = cyclonedx.metadata.component;
assert.deepEqual({ name, version: ofWhat, type }, { name: 'crisp', version, type: 'application' });

const sha512 = (integrity) => Buffer.from(integrity.replace('sha512-', ''), 'base64').toString('hex');
const listed = {
  spdx: spdx.packages
    .filter((one) => one.name !== 'crisp')
    .map(({ name, versionInfo, checksums }) => [name, versionInfo, checksums[0].checksumValue]),
  cyclonedx: cyclonedx.components.map(({ name, version, hashes }) => [name, version, hashes[0].content]),
};
assert.deepEqual(listed.spdx.sort(), listed.cyclonedx.sort());
const versions = new Map(listed.spdx.map(([name, version]) => [name, version]));
for (const [name, version] of Object.entries({ ...dependencies, [node.name]: node.version }))
  assert.equal(versions.get(name), version, name);
assert(versions.has('@koromix/koffi-linux-x64'));
for (const name of ['jest', 'esbuild', 'typescript', '@koromix/koffi-darwin-arm64'])
  assert(!versions.has(name), name);
assert(Object.keys(devDependencies).includes('jest'));
assert(listed.spdx.some(([name, , digest]) => name === node.name && digest === sha512(node.integrity)));
for (const [name, , digest] of listed.spdx) assert.match(digest, /^[0-9a-f]{128}$/, name);
console.log(`${listed.spdx.length} packages`);
