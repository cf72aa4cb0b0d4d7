import { expect, test } from '@jest/globals';
import { mkdtemp, readdir, readFile, rm, stat } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { receivedPod } from '../../test/helpers/received.js';
import { podFiles, podFilesOf, writePodFiles } from './files.js';

const host = { 'resolv.conf': 'nameserver 192.0.2.9\n', hosts: '192.0.2.7 here\n', hostname: 'node\n' };

test('a DNS config becomes resolv.conf', () => {
  expect(
    podFiles(
      receivedPod({
        hostname: 'box',
        dns_config: {
          servers: ['10.0.0.10', 'fd00::a'],
          searches: ['a.b', 'b'],
          options: ['ndots:5', 'timeout:1'],
        },
      }),
      host,
    ),
  ).toEqual({
    'resolv.conf': 'search a.b b\nnameserver 10.0.0.10\nnameserver fd00::a\noptions ndots:5 timeout:1\n',
    hostname: 'box\n',
    hosts: expect.stringContaining('127.0.0.1\tlocalhost\n'),
  });
  expect(podFiles(receivedPod({ dns_config: {} }), host)['resolv.conf']).toBe('');
});

test('settings that a pod does not have are those of the host', () => {
  expect(podFiles(receivedPod({}), host)).toMatchObject({
    'resolv.conf': host['resolv.conf'],
    hostname: 'node\n',
  });
  expect(
    podFiles(receivedPod({ linux: { security_context: { namespace_options: { network: 'NODE' } } } }), host)
      .hosts,
  ).toBe(host.hosts);
});

test.each(['10.0.0.1\nnameserver 6.6.6.6', 'a b', ''])('"%s" cannot forge a line', (word) => {
  for (const field of ['servers', 'searches', 'options']) {
    expect(() => podFiles(receivedPod({ dns_config: { [field]: [word] } }), host)).toThrow(
      expect.objectContaining({ id: 'InvalidArgument' }),
    );
  }
});

test('the three files are written', async () => {
  const folder = await mkdtemp(join(tmpdir(), 'crisp-pod-files-'));
  try {
    writePodFiles(folder, await podFilesOf(receivedPod({ hostname: 'box' })));
    expect((await readdir(folder)).sort()).toEqual(['hostname', 'hosts', 'resolv.conf']);
    expect(await readFile(join(folder, 'hostname'), 'utf8')).toBe('box\n');
  } finally {
    await rm(folder, { recursive: true });
  }
});

test('all users in the pod can read its files, and only root can write them', async () => {
  const folder = await mkdtemp(join(tmpdir(), 'pod-files-'));
  const mask = process.umask(0);
  try {
    writePodFiles(folder, host);
  } finally {
    process.umask(mask);
  }
  for (const name of ['resolv.conf', 'hosts', 'hostname'])
    expect([name, ((await stat(join(folder, name))).mode & 0o777).toString(8)]).toEqual([name, '644']);
  await rm(folder, { recursive: true });
});
