import { expect, test } from '@jest/globals';
import { CrispError } from '../errors.js';
import { inFlags } from './flag-errors.js';

test.each([
  ['resources.memory_limit_in_bytes: 1e+23 is out of range', '--memory: 1e+23 is out of range'],
  ['resources.cpu_quota: 1 is below 1000', '--cpus: 1 is below 1000'],
  ['capabilities.add_capabilities: "" is not a capability', '--cap-add: "" is not a capability'],
  ['mounts[0].host_path: /x does not exist', '--volume: /x does not exist'],
  ['working_dir: the path is too long', '--workdir: the path is too long'],
  ['image x is not on this node', 'image x is not on this node'],
])('%s', (message, inWords) => {
  const error = new CrispError('InvalidArgument', message, { stage: 'create', hint: 'a hint' });
  expect(inFlags(error)).toMatchObject({
    id: 'InvalidArgument',
    message: inWords,
    stage: 'create',
    hint: 'a hint',
  });
});

test('another error is left as it is', () => {
  const error = new Error('mounts[0]: x');
  expect(inFlags(error)).toBe(error);
});
