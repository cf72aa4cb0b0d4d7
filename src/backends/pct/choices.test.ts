import { expect, test } from '@jest/globals';
import { checkConfig } from '../../config/config.js';
import { flagSource } from '../../config/source.js';
import type { SandboxPlan } from '../../shapes/sandbox.js';
import { chosenOf, ownNetwork, rootfsOf, type Choosing } from './choices.js';

const chooser = (lxc: object = {}, found: Partial<Choosing['found']> = {}): Choosing => ({
  options: {
    name: 'lxc',
    lxc: checkConfig([flagSource({ lxc })]).lxc,
    allowedAnnotations: ['io.crisp.lxc.*'],
    state: '/s',
    root: '/r',
  },
  found: { hostManaged: true, givesGroups: true, environmentReachesHooks: true, ...found },
});
const pod = (change: Partial<SandboxPlan> = {}): SandboxPlan =>
  ({ annotations: {}, namespaces: { user: '/ns/user' }, ...change }) as SandboxPlan;

test('a pod is on the network of CNI, or on a bridge where pct can set its address', () => {
  const bridged = { network: 'bridge', bridge: { name: 'vmbr7' } };
  expect(ownNetwork(chooser(), pod())).toBe(false);
  expect(ownNetwork(chooser(bridged), pod())).toBe(true);
  expect(ownNetwork(chooser({}, { hostManaged: false }), pod())).toBe(false);
  expect(() => ownNetwork(chooser(bridged, { hostManaged: false }), pod())).toThrow(
    expect.objectContaining({ id: 'Unsupported' }),
  );
  expect(chosenOf(chooser(bridged), pod()).bridges).toEqual([]); // its cards are of the pod's network
  expect(chosenOf(chooser(bridged), pod({ ownNetwork: true })).bridges).toMatchObject([{ name: 'vmbr7' }]);
});

test('the root filesystem is an overlay, a configured volume, or a copy where overlays cannot be mapped', () => {
  const [stored, copied] = [{ rootfs: { storage: 'local', size_gib: 9 } }, { storage: 'copies', sizeGib: 0 }];
  expect(rootfsOf(chooser(), pod())).toEqual({ kind: 'overlay' });
  expect(rootfsOf(chooser(stored), pod())).toEqual({ kind: 'own' });
  expect(chosenOf(chooser(stored, { copies: copied }), pod()).volume).toMatchObject({ storage: 'local' });
  expect(chosenOf(chooser({}, { copies: copied }), pod()).volume).toEqual(copied);
  expect(rootfsOf(chooser({}, { copies: copied }), pod())).toEqual({ kind: 'own' });
  expect(rootfsOf(chooser({}, { copies: copied }), pod({ namespaces: {} }))).toEqual({ kind: 'overlay' });
});

test('a template needs a volume', () => {
  expect(rootfsOf(chooser({ rootfs: { storage: 'local' } }), pod(), 'local:vztmpl/x')).toEqual({
    kind: 'own',
  });
  expect(() => rootfsOf(chooser(), pod(), 'local:vztmpl/x')).toThrow(
    expect.objectContaining({ id: 'InvalidArgument', hint: expect.stringContaining('lxc.rootfs.storage') }),
  );
});
