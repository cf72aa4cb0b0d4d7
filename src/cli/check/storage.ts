// Checks of the folders of images, layers and records.
import { constants } from 'node:fs';
import { access, mkdir, mkdtemp, statfs } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { toCrispError } from '../../errors.js';
import { remove } from '../../host/files.js';
import { mount, unmount } from '../../host/mounts.js';
import { failure, ok, warning, type Check } from './check.js';

/** statfs(2)'s type of a tmpfs (linux/magic.h: TMPFS_MAGIC). */
const tmpfsMagic = 0x01021994;
const leastFreeBytes = 2 ** 30;

/** The folder, or its nearest existing parent. */
async function present(folder: string): Promise<string> {
  for (let path = folder; ; path = dirname(path)) {
    try {
      await access(path, constants.F_OK);
      return path;
    } catch {
      if (path === '/') return path;
    }
  }
}

const overlay: Check = {
  id: 'storage.overlay',
  title: 'Overlay on the root folder',
  async run(host, config) {
    if (host.uid !== 0) return warning('not tested: it requires root');
    const below = await present(config.root);
    const folder = await mkdtemp(join(below, '.crisp-check-'));
    const [lower, upper, work, merged] = ['lower', 'upper', 'work', 'merged'].map((name) =>
      join(folder, name),
    ) as [string, string, string, string];
    try {
      for (const path of [lower, upper, work, merged]) await mkdir(path);
      await mount('overlay', 'overlay', merged, `lowerdir=${lower},upperdir=${upper},workdir=${work}`);
      await unmount(merged);
      return ok(`works below ${below}`);
    } catch (error) {
      return failure(
        `overlay cannot be mounted below ${below}: ${toCrispError(error).report}`,
        'move root to ext4, xfs, btrfs or zfs 2.2, not overlay or NFS',
      );
    } finally {
      await remove(folder);
    }
  },
};

const space: Check = {
  id: 'storage.space',
  title: 'Free space',
  async run(_host, config) {
    const below = await present(config.root);
    const { bavail, bsize } = await statfs(below);
    const gibibytes = ((bavail * bsize) / 2 ** 30).toFixed(1);
    return bavail * bsize < leastFreeBytes
      ? warning(`${gibibytes} GiB are free below ${below}`, 'crictl rmi --prune')
      : ok(`${gibibytes} GiB below ${below}`);
  },
};

const state: Check = {
  id: 'storage.state',
  title: 'State folder',
  async run(_host, config) {
    const below = await present(config.state);
    return (await statfs(below)).type === tmpfsMagic
      ? ok(`${below} is a tmpfs`)
      : warning(
          `${below} is not a tmpfs: each record waits for the disk`,
          'set state to a folder on a tmpfs',
        );
  },
};

const policy: Check = {
  id: 'storage.policy',
  title: 'Signature policy',
  run(host, { images }) {
    const path = images.signature_policy || '/etc/containers/policy.json';
    return host.exists(path)
      ? ok(path)
      : failure(`there is no ${path}: no image can be pulled`, 'apt install golang-github-containers-common');
  },
};

const registries: Check = {
  id: 'storage.registries',
  title: 'Registries',
  run(host, { images }) {
    const path = images.registries_conf || '/etc/containers/registries.conf';
    return host.exists(path)
      ? ok(path)
      : warning(
          `there is no ${path}: no mirrors, and docker.io is the default registry`,
          'apt install golang-github-containers-common',
        );
  },
};

export const storageChecks: readonly Check[] = [overlay, space, state, policy, registries];
