// npm run package: builds dist/, lays out the tree that an installed crisp has and packs
// it as a .deb (amd64) and as a tarball, both in build/. With the argument --fast, for
// tests, they are compressed less.
//
//   /usr/lib/crisp/            bin/crisp, bin/node, dist/, proto/, the native modules
//   /usr/bin/crisp             link to the program
//   /etc/crisp/config.yaml     every key, commented out
//   /usr/share/crisp/          examples: CNI, crictl, kubelet, RuntimeClasses
//
// Node is in the package (node-release.mjs), so that the host needs none.
import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import {
  chmodSync,
  cpSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { gzipSync } from 'node:zlib';
import { node } from './node-release.mjs';

const home = fileURLToPath(new URL('..', import.meta.url));
const out = join(home, 'build');
const tree = join(out, 'tree');
const { version } = JSON.parse(readFileSync(join(home, 'package.json'), 'utf8'));

/**
 * Modules with a native part, which cannot be in the bundle. Only the files that are used; the first two are
 * optional.
 */
const nativeModules = {
  bufferutil: ['package.json', 'index.js', 'fallback.js', 'prebuilds/linux-x64/bufferutil.node'],
  'node-gyp-build': ['package.json', 'index.js', 'node-gyp-build.js'],
  koffi: ['package.json', 'index.js', 'src/koffi/index.js', 'src/koffi/src/static.js'],
  '@koromix/koffi-linux-x64': ['package.json', 'index.js', 'linux_x64/koffi.node'],
};
/** The address of the builder, from the variables of Debian's own tools. */
const { DEBFULLNAME: builder = 'crisp developers', DEBEMAIL: address = 'crisp@localhost' } = process.env;
const mebibyte = 1 << 20;
const fast = process.argv.includes('--fast');

rmSync(tree, { recursive: true, force: true });
run('npm', ['run', '--silent', 'build']);
layProgram();
layConfiguration();
layDocuments();
for (const file of [packDeb(), packTarball()])
  console.log(`${file} ${(statSync(file).size / mebibyte).toFixed(1)} MiB`);

function layProgram() {
  put('usr/lib/crisp/bin/node', 0o755, nodeBinary());
  put(
    'usr/lib/crisp/bin/crisp',
    0o755,
    readFileSync(join(home, 'bin/crisp'), 'utf8').replace(/^':'.*$/m, (line) =>
      line.replace(' node ', ' /usr/lib/crisp/bin/node '),
    ),
  );
  copy('dist', 'usr/lib/crisp/dist');
  copy('proto', 'usr/lib/crisp/proto');
  const { gitHead = commit() } = process.env;
  put(
    'usr/lib/crisp/package.json',
    0o644,
    `${JSON.stringify({ name: 'crisp', version, type: 'module', gitHead })}\n`,
  );
  for (const [name, files] of Object.entries(nativeModules)) layNativeModule(name, files);
  link('../lib/crisp/bin/crisp', 'usr/bin/crisp');
}

function layNativeModule(name, files) {
  const from = `node_modules/${name}`;
  if (!existsSync(join(home, from))) {
    if (name.includes('koffi')) throw new Error(`${name} is not installed: npm ci`);
    return;
  }
  for (const file of files) put(`usr/lib/crisp/${from}/${file}`, 0o644, readFileSync(join(home, from, file)));
}

function layConfiguration() {
  const defaults = run(process.execPath, [join(home, 'bin/crisp'), 'config', '--default']);
  put(
    'etc/crisp/config.yaml',
    0o644,
    defaults.replace(/^(?!#|$)/gm, '#').replace(/^# A file needs only the$/m, '# A file needs only the'),
  );
  mkdirSync(join(tree, 'etc/crisp/config.d'), { recursive: true });
  for (const [from, to] of listedFiles()) {
    const content = readFileSync(join(home, from));
    if (to.includes('/man/')) put(`${to}.gz`, 0o644, gzipSync(content, { level: 9 }));
    else put(to, 0o644, content);
  }
  for (const [shell, path] of [
    ['bash', 'usr/share/bash-completion/completions/crisp'],
    ['zsh', 'usr/share/zsh/vendor-completions/_crisp'],
    ['fish', 'usr/share/fish/vendor_completions.d/crisp.fish'],
  ])
    put(path, 0o644, run(process.execPath, [join(home, 'bin/crisp'), 'completion', shell]));
}

function layDocuments() {
  copy('deploy/debian/copyright', 'usr/share/doc/crisp/copyright');
  put(
    'usr/share/doc/crisp/changelog.gz',
    0o644,
    gzipSync(debianChangelog(readFileSync(join(home, 'CHANGELOG.md'), 'utf8')), { level: 9 }),
  );
  put('usr/share/doc/crisp/LICENSE.node.gz', 0o644, gzipSync(nodeLicense(), { level: 9 }));
  copy('deploy/debian/lintian-overrides', 'usr/share/lintian/overrides/crisp');
}

/** The files of deploy/files: [source, place below /]. */
function listedFiles() {
  return readFileSync(join(home, 'deploy/files'), 'utf8')
    .split('\n')
    .filter((line) => line && !line.startsWith('#'))
    .map((line) => line.split(/\s+/));
}

/**
 * The newest section of CHANGELOG.md in the form of deb-changelog(5).
 * @param text with a heading of the second level for each release, of the third for its parts
 */
function debianChangelog(text) {
  const [, section = ''] = text.split(/^## .*$/m);
  const date = new Date(
    (process.env.SOURCE_DATE_EPOCH ?? run('git', ['log', '-1', '--format=%ct'])) * 1000,
  ).toUTCString();
  const lines = section
    .split('\n')
    .filter((line) => line.trim())
    .map((line) =>
      line.startsWith('### ') ? `  [ ${line.slice(4)} ]` : wrap(line.replace(/^- /, ''), '  * ', '    '),
    );
  return `crisp (${version}) unstable; urgency=medium\n\n${lines.join('\n')}\n\n -- ${builder} <${address}>  ${date.replace('GMT', '+0000')}\n`;
}

/** Lines of at most 78 columns. */
function wrap(text, first, next) {
  const lines = [];
  for (const word of text.split(' ')) {
    const line = lines.at(-1);
    if (line === undefined) lines.push(first + word);
    else if (line.length + 1 + word.length > 78) lines.push(next + word);
    else lines[lines.length - 1] = `${line} ${word}`;
  }
  return lines.join('\n');
}

function packDeb() {
  const root = join(out, 'deb');
  rmSync(root, { recursive: true, force: true });
  cpSync(tree, root, { recursive: true, verbatimSymlinks: true });
  mkdirSync(join(root, 'DEBIAN'));
  const installedKib = Math.ceil(sizeOf(tree) / 1024);
  const control = readFileSync(join(home, 'deploy/debian/control'), 'utf8')
    .replace('@VERSION@', version)
    .replace('@MAINTAINER@', `${builder} <${address}>`)
    .replace('@INSTALLED_SIZE@', String(installedKib));
  writeFileSync(join(root, 'DEBIAN/control'), control);
  for (const name of ['postinst', 'prerm', 'postrm']) {
    const script = readFileSync(join(home, 'deploy/debian', name), 'utf8')
      .replace('@CONFLIST@', sha256(join(tree, 'usr/share/crisp/cni/10-crisp.conflist')))
      .replace('@CRICTL@', sha256(join(tree, 'usr/share/crisp/crictl.yaml')));
    writeFileSync(join(root, 'DEBIAN', name), script, { mode: 0o755 });
  }
  writeFileSync(
    join(root, 'DEBIAN/conffiles'),
    filesBelow(join(root, 'etc'))
      .map((path) => `/${path.slice(root.length + 1)}\n`)
      .join(''),
  );
  writeFileSync(join(root, 'DEBIAN/md5sums'), md5sums(root));
  const file = join(out, `crisp_${version}_amd64.deb`);
  run('dpkg-deb', ['--build', '--root-owner-group', ...(fast ? ['-Zgzip', '-z1'] : ['-Zxz']), root, file]);
  rmSync(root, { recursive: true });
  return file;
}

function packTarball() {
  const file = join(out, `crisp-${version}-linux-amd64.tar.gz`);
  run('tar', [
    '--create',
    `--use-compress-program=gzip ${fast ? '-1' : '-9'}`,
    '--sort=name',
    '--owner=0',
    '--group=0',
    '--numeric-owner',
    `--file=${file}`,
    `--directory=${tree}`,
    '.',
  ]);
  return file;
}

/** npm's package of the binary, fetched once into build/ and verified by its digest. */
function nodePackage() {
  const file = join(out, `${node.name}-${node.version}.tgz`);
  mkdirSync(out, { recursive: true });
  if (!existsSync(file))
    run('npm', ['pack', '--silent', `${node.name}@${node.version}`, '--pack-destination', out]);
  const digest = `sha512-${createHash('sha512').update(readFileSync(file)).digest('base64')}`;
  if (digest !== node.integrity) throw new Error(`${file} has the digest ${digest}, not ${node.integrity}`);
  return file;
}

function nodeBinary() {
  const binary = join(out, `node-${node.version}`);
  if (!existsSync(binary)) {
    writeFileSync(binary, fromNodePackage('package/bin/node'), { mode: 0o755 });
    run('strip', ['--strip-unneeded', binary]);
  }
  return readFileSync(binary);
}

function nodeLicense() {
  return fromNodePackage('package/LICENSE');
}

function fromNodePackage(path) {
  return execFileSync('tar', ['--extract', '--gzip', '--to-stdout', `--file=${nodePackage()}`, path], {
    maxBuffer: 512 * mebibyte,
  });
}

function commit() {
  try {
    return run('git', ['-C', home, 'rev-parse', 'HEAD']).trim();
  } catch {
    return undefined; // not a checkout
  }
}

function sha256(file) {
  return createHash('sha256').update(readFileSync(file)).digest('hex');
}

function put(path, mode, content) {
  const file = join(tree, path);
  mkdirSync(dirname(file), { recursive: true, mode: 0o755 });
  writeFileSync(file, content, { mode });
  chmodSync(file, mode);
}

function copy(from, to) {
  mkdirSync(dirname(join(tree, to)), { recursive: true });
  cpSync(join(home, from), join(tree, to), { recursive: true });
}

function link(target, path) {
  mkdirSync(dirname(join(tree, path)), { recursive: true });
  symlinkSync(target, join(tree, path));
}

function filesBelow(folder) {
  return readdirSync(folder, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => join(entry.parentPath ?? entry.path, entry.name))
    .sort();
}

function sizeOf(folder) {
  return filesBelow(folder).reduce((sum, file) => sum + statSync(file).size, 0);
}

/** The checksums for dpkg --verify. */
function md5sums(root) {
  return filesBelow(root)
    .filter((file) => !file.startsWith(join(root, 'DEBIAN')) && !file.startsWith(join(root, 'etc')))
    .map(
      (file) =>
        `${createHash('md5').update(readFileSync(file)).digest('hex')}  ${file.slice(root.length + 1)}\n`,
    )
    .join('');
}

function run(file, args) {
  return execFileSync(file, args, { cwd: home, encoding: 'utf8', stdio: ['ignore', 'pipe', 'inherit'] });
}
