// The plan of a CT for a container, with the options of its pod.  Used by the
// backend and by `crisp explain`.
import type { ContainerPlan } from '../backend.js';
import type { Spec } from '../../shapes/spec.js';
import { deviceSource } from './bundle.js';
import type { GuestOptions } from './guest-options.js';
import type { LxcPlan } from './lxc-config.js';
import { mountPointsOf, withoutMountPoints } from './mount-points.js';
import { passedDevices, withTun, type PassedDevice } from './passthrough.js';

export interface GuestPlan {
  /** Its spec includes the devices of the features. */
  readonly plan: ContainerPlan;
  /** The devices that pct makes. */
  readonly devices: readonly PassedDevice[];
  /** The spec for liblxc: without mounts that are replaced by mount points. */
  readonly spec: Spec;
}

/** The plan with the devices and mounts that pct sets, separate from those that liblxc sets. */
export function guestPlan(
  given: ContainerPlan,
  guest: GuestOptions,
  { environmentReachesHooks }: Pick<LxcPlan, 'environmentReachesHooks'>,
): GuestPlan {
  const plan = guest.features.includes('tun') ? { ...given, spec: withTun(given.spec) } : given;
  const { spec, template } = plan;
  return {
    plan,
    devices: passedDevices({ spec, deviceSource, environmentReachesHooks, guest: template !== undefined }),
    spec: withoutMountPoints(spec, mountPointsOf(plan, guest)),
  };
}
