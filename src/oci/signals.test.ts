import { expect, test } from '@jest/globals';
import { signalNumber, stopSignal } from './signals.js';

test.each([
  ['SIGNAL_SIGTERM', 15],
  ['SIGNAL_SIGKILL', 9],
  ['SIGNAL_SIGCLD', 17],
  ['SIGNAL_SIGRTMIN', 34],
  ['SIGNAL_SIGRTMINPLUS3', 37],
  ['SIGNAL_SIGRTMAXMINUS2', 62],
  ['SIGNAL_SIGRTMAX', 64],
  ['SIGNAL_RUNTIME_DEFAULT', 15],
] as const)('%s is %i', (name, number) => {
  expect(signalNumber(name)).toBe(number);
});

test.each([
  [undefined, 'SIGNAL_SIGTERM'],
  ['', 'SIGNAL_SIGTERM'],
  ['SIGQUIT', 'SIGNAL_SIGQUIT'],
  ['quit', 'SIGNAL_SIGQUIT'],
  ['3', 'SIGNAL_SIGQUIT'],
  ['SIGRTMIN+3', 'SIGNAL_SIGRTMINPLUS3'],
  ['RTMAX-2', 'SIGNAL_SIGRTMAXMINUS2'],
  ['37', 'SIGNAL_SIGRTMINPLUS3'],
  ['64', 'SIGNAL_SIGRTMAX'],
  ['99', 'SIGNAL_SIGTERM'],
  ['nonsense', 'SIGNAL_SIGTERM'],
] as const)('an image with StopSignal %j ends by %s', (ofImage, expected) => {
  expect(stopSignal('SIGNAL_RUNTIME_DEFAULT', ofImage)).toBe(expected);
  expect(stopSignal('SIGNAL_SIGHUP', ofImage)).toBe('SIGNAL_SIGHUP');
});

test.each([33, 34, 49, 50, 64, 65])('a real-time signal with number %i keeps it', (number) => {
  const name = stopSignal('SIGNAL_RUNTIME_DEFAULT', String(number));
  expect(signalNumber(name)).toBe(number >= 34 && number <= 64 ? number : 15);
});
