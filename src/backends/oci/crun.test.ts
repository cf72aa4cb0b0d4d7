import { expect, test } from '@jest/globals';
import type { IdMapping, Seccomp, Spec } from '../../shapes/spec.js';
import { forCrun } from './crun.js';

const specOf = (linux: object, mounts: readonly object[] = [], annotations?: Record<string, string>): Spec =>
  ({ linux: { namespaces: [], ...linux }, mounts, annotations }) as unknown as Spec;
const key = 'run.oci.seccomp_bpf_data';
const profile = (defaultAction: string): Seccomp => ({
  defaultAction,
  architectures: ['SCMP_ARCH_X86_64'],
  syscalls: [],
});

test('a spec without a profile and without mapped mounts stays the same object', async () => {
  const plain = specOf({}, [{ destination: '/a', options: ['bind'] }]);
  expect(await forCrun(plain)).toBe(plain);
});

test('a profile is compiled into a filter of the kernel: eight bytes an instruction', async () => {
  const spec = specOf({ seccomp: profile('SCMP_ACT_ERRNO') }, [], { own: 'x' });
  const { annotations = {}, linux } = await forCrun(spec);
  expect(linux.seccomp).toEqual(spec.linux.seccomp);
  expect(annotations['own']).toBe('x');
  const program = Buffer.from(annotations[key] ?? '', 'base64');
  expect(program.length).toBeGreaterThan(0);
  expect(program.length % 8).toBe(0);
  const other = await forCrun(specOf({ seccomp: profile('SCMP_ACT_KILL_PROCESS') }));
  expect(other.annotations?.[key]).not.toBe(annotations[key]);
});

test('a filter that the caller gives is kept', async () => {
  const spec = specOf({ seccomp: profile('SCMP_ACT_ERRNO') }, [], { [key]: 'its own' });
  expect(await forCrun(spec)).toBe(spec);
});

test('a profile that cannot be compiled here is left to the runtime', async () => {
  const spec = specOf({ seccomp: profile('SCMP_ACT_NONE_SUCH') });
  expect((await forCrun(spec)).annotations?.[key]).toBeUndefined();
});

const maps = (hostID: number): IdMapping[] => [
  { containerID: 0, hostID, size: 7 },
  { containerID: 7, hostID: hostID + 50, size: 3 },
];
const mapped = {
  destination: '/v',
  options: ['ro', 'idmap'],
  uidMappings: maps(1000),
  gidMappings: maps(2000),
};

test('a mapped mount has its maps in its options if the pid namespace is of another container', async () => {
  const plain = { destination: '/w', options: ['bind'], uidMappings: maps(5), gidMappings: maps(6) };
  const joined = specOf({ namespaces: [{ type: 'pid', path: '/proc/7/ns/pid' }] }, [mapped, plain]);
  const { mounts } = await forCrun(joined);
  expect(mounts).toEqual([
    { destination: '/v', options: ['ro', 'idmap=uids=0-1000-7#7-1050-3;gids=0-2000-7#7-2050-3'] },
    { destination: '/w', options: ['bind'] },
  ]);
});

test.each([
  ['the pid namespace is its own', [{ type: 'pid' }], [mapped]],
  ['only another namespace is joined', [{ type: 'network', path: '/n' }], [mapped]],
  ['no mount is mapped', [{ type: 'pid', path: '/p' }], [{ destination: '/v' }]],
])('the mounts stay where %s', async (_, namespaces, mounts) => {
  const spec = specOf({ namespaces }, mounts);
  expect(await forCrun(spec)).toBe(spec);
});
