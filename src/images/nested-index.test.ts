import { expect, test } from '@jest/globals';
import { createHash } from 'node:crypto';
import { innerIndex } from './nested-index.js';

const index = 'application/vnd.oci.image.index.v1+json';
const manifest = 'application/vnd.oci.image.manifest.v1+json';
const digest = (digit: string): string => `sha256:${digit.repeat(64)}`;
const platform = { architecture: 'amd64', os: 'linux' };
const text = (...manifests: object[]): string => JSON.stringify({ schemaVersion: 2, manifests });
const registry =
  (answers: Record<string, string>) =>
  async (source: string): Promise<string> =>
    answers[source.replace('docker://quay.io/app', '')] ?? '';

test('the index with manifests is found through the entry for this machine', async () => {
  const answers = {
    ':1': text(
      { mediaType: index, digest: digest('f'), platform: { architecture: 'arm64', os: 'linux' } },
      { mediaType: index, digest: digest('a'), platform },
    ),
    [`@${digest('a')}`]: text({ mediaType: index, digest: digest('b') }),
    [`@${digest('b')}`]: text({ mediaType: manifest, digest: digest('c'), platform }),
  };
  expect(await innerIndex('quay.io/app:1', registry(answers), 'amd64')).toEqual({
    inner: `quay.io/app@${digest('b')}`,
    outer: `quay.io/app@sha256:${createHash('sha256').update(answers[':1']).digest('hex')}`,
  });
});

test('cycles of indexes and invalid indexes terminate', async () => {
  const circle = text({ mediaType: index, digest: digest('a') });
  for (const answer of [circle, 'null', '{"manifests":[]}', '{"manifests":[3]}', '<html>'])
    await expect(innerIndex('quay.io/app:1', async () => answer, 'amd64')).rejects.toMatchObject({
      id: 'ImageCorrupt',
    });
});
