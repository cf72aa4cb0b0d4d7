// Images: pulls from a registry on loopback, beside skopeo alone, and containers of
// images with many layers.
import { execFileSync, spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { mkdirSync, rmSync, writeFileSync } from 'node:fs';
import { makeArchive } from '../deploy/busybox-archive.mjs';
import { at, registryAddress, sleep, started } from './peers.mjs';
import { podDown, podUp } from './pods.mjs';
import { lasted, note } from './samples.mjs';

const pullRounds = 3;
const layerRounds = 15;
const large = { layers: 12, bytes: 300e6 };
const [few, many] = [5, 127];
const named = (name) => `${registryAddress}/bench/${name}:1`;

/** Starts the registry and pushes the images. */
export async function prepareImages() {
  mkdirSync(at('registry'));
  const config = {
    version: 0.1,
    log: { level: 'error' },
    storage: { filesystem: { rootdirectory: at('registry') } },
    http: { addr: registryAddress },
  };
  writeFileSync(at('registry.yml'), JSON.stringify(config));
  started(spawn('docker-registry', ['serve', at('registry.yml')], { stdio: 'ignore' }));
  while (!(await fetch(`http://${registryAddress}/v2/`).catch(() => undefined))) await sleep(10);
  push('large', large.layers, large.bytes / large.layers);
  for (const layers of [few, many]) push(`layers-${layers}`, layers, 1_000);
}

function push(name, layers, bytesEach) {
  const archive = at(`${name}.tar`);
  const more = Array.from({ length: layers - 1 }, (_, index) => layerWith(`${name}-${index}`, bytesEach));
  makeArchive(archive, named(name), ['sh'], more);
  skopeo('copy', '--dest-tls-verify=false', `oci-archive:${archive}`, `docker://${named(name)}`);
  rmSync(archive);
}

/** A layer with files of 256 KiB and less; their content cannot be compressed. */
function layerWith(name, bytes) {
  const folder = at('layer');
  mkdirSync(`${folder}/${name}`, { recursive: true });
  for (let left = bytes, index = 0; left > 0; left -= 1 << 18, index++)
    writeFileSync(`${folder}/${name}/${index}`, randomBytes(Math.min(left, 1 << 18)));
  const tar = execFileSync('tar', ['-C', folder, '--owner=0', '--group=0', '-cf', '-', '.'], {
    maxBuffer: 2 * bytes + (1 << 20),
  });
  rmSync(folder, { recursive: true });
  return tar;
}

function skopeo(...args) {
  execFileSync('skopeo', ['--insecure-policy', ...args], { stdio: ['ignore', 'ignore', 'inherit'] });
}

/** Pulls of a large image, in turns, and for crisp the longest call meanwhile. */
export async function pulls(peers) {
  const row = `pull of ${large.bytes / 1e6} MB in ${large.layers} layers`;
  const image = { image: named('large') };
  for (let round = 0; round < pullRounds; round++) {
    for (const { name, call } of peers) {
      note(row, name, await lasted(() => call('PullImage', { image })));
      await call('RemoveImage', { image });
      if (name !== 'crisp') continue;
      // During another pull: the calls take time from it, and nobody makes any beside the others.
      const pull = call('PullImage', { image });
      note('longest Version call meanwhile', name, await longestCall(call, pull));
      await pull;
      await call('RemoveImage', { image });
    }
    note(row, 'floor', await lasted(async () => skopeo(...copyToStore)));
    rmSync(at('floor-images'), { recursive: true });
  }
}
const store = `overlay@${at('floor-images')}+${at('floor-images', 'run')}:overlay.skip_mount_home=true`;
const copyToStore = [
  'copy',
  '--src-tls-verify=false',
  `docker://${named('large')}`,
  `containers-storage:[${store}]${named('large')}`,
];

/** The duration in ms of the longest of the calls, one every 10 ms, until `over` is settled. */
async function longestCall(call, over) {
  let [longest, isOver] = [0, false];
  over.finally(() => {
    isOver = true;
  });
  while (!isOver) {
    longest = Math.max(longest, await lasted(() => call('Version', {})));
    await sleep(10);
  }
  return longest;
}

/** Pods of an image with many layers, in turns with those of one with few. */
export async function layers(crisp) {
  const both = [few, many].map((count) => named(`layers-${count}`));
  for (const image of both) await crisp.call('PullImage', { image: { image } });
  for (let round = -2; round < layerRounds; round++) {
    const times = [];
    for (const image of both) {
      let made;
      times.push(
        await lasted(async () => {
          made = await podUp(crisp, true, image);
        }),
      );
      await podDown(crisp, made);
    }
    if (round >= 0) note(`pod up, ${many} layers / ${few} layers`, crisp.name, times[1] / times[0]);
  }
}
