// Images as volumes, on a stand-in for the images and their mounts.
import { expect, test } from '@jest/globals';
import { containerConfigOf } from '../cri/proto.js';
import { mountImageVolumes, unmountImageVolumes } from './image-volumes.js';

const config = containerConfigOf({
  metadata: { name: 'c' },
  mounts: [
    { container_path: '/folder', host_path: '/srv' },
    { container_path: '/first', image: { image: 'first' }, readonly: true },
    { container_path: '/second', image: { image: 'second' }, readonly: true },
  ],
});
function standIns({ absent = '', broken = '' } = {}) {
  const told: unknown[][] = [];
  const images = {
    find: async (name: string) => (name === absent ? undefined : { id: `id-of-${name}` }),
  };
  const rootfs = {
    mountImage: async (name: string, image: { id: string }, shift: unknown) => {
      told.push(['mount', name, image.id, shift]);
      if (image.id === broken) throw new Error('no space');
      return `/views/${name}`;
    },
    unmountImage: async (name: string) => void told.push(['unmount', name]),
  };
  return { told, services: { images, rootfs } as never };
}

test('each image is mounted under the container and the index of its mount', async () => {
  const { told, services } = standIns();
  const shift = { uid: 1, gid: 2 } as never;
  expect([...(await mountImageVolumes(services, 'ID', config, shift))]).toEqual([
    [1, { path: '/views/ID-1', imageId: 'id-of-first' }],
    [2, { path: '/views/ID-2', imageId: 'id-of-second' }],
  ]);
  expect(told).toEqual([
    ['mount', 'ID-1', 'id-of-first', shift],
    ['mount', 'ID-2', 'id-of-second', shift],
  ]);
  told.splice(0);
  await unmountImageVolumes(services, { id: 'ID', config });
  expect(told).toEqual([
    ['unmount', 'ID-1'],
    ['unmount', 'ID-2'],
  ]);
});

test.each([
  ['is not on the node', { absent: 'second' }, 'the image second of mounts[2] is not on this node'],
  ['cannot be mounted', { broken: 'id-of-second' }, 'mounts[2]: no space'],
])('an image that %s is named with its mount', async (_, fault, message) => {
  const { services } = standIns(fault);
  await expect(mountImageVolumes(services, 'ID', config, undefined)).rejects.toMatchObject({
    id: 'ImageVolumeMountFailed',
    message,
  });
});
