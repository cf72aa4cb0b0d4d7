import { expect, test } from '@jest/globals';
import { findingsSchema } from './findings.js';

test('a node whose liblxc is not known keeps the variables of a pod away from hooks', () => {
  expect(findingsSchema.parse({ hostManaged: false, givesGroups: true })).toEqual({
    hostManaged: false,
    givesGroups: true,
    environmentReachesHooks: true,
  });
});
