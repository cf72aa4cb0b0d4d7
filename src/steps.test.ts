// Steps that do not end are reported in the log and in the metrics.
import { afterEach, beforeEach, expect, jest, test } from '@jest/globals';
import { gate } from '../test/helpers/services.js';
import { addLogContext, log, withLogContext } from './log.js';
import { exposition } from './metrics.js';
import { limitMs, overdueSteps, step, Story, stepsUnderWay } from './steps.js';

beforeEach(() => {
  jest.useFakeTimers({ doNotFake: ['setImmediate', 'nextTick', 'queueMicrotask'] });
});
afterEach(() => {
  jest.restoreAllMocks();
  jest.useRealTimers();
});

/** The figures of this metric. */
const figures = (name: string): string[] =>
  exposition()
    .split('\n')
    .filter((line) => line.startsWith(name));

test('a step that exceeds its time is reported with its pod and its age, until it ends', async () => {
  const told = jest.spyOn(log, 'error').mockImplementation(() => undefined);
  const { passed, open } = gate();
  const work = withLogContext({ requestId: 'call-1' }, () => {
    const ended = step('stop pod: network', () => passed);
    addLogContext({ podId: 'pod-1' });
    return ended;
  });
  jest.advanceTimersByTime(limitMs - 1);
  expect(overdueSteps()).toEqual([]);
  expect(figures('crisp_steps_overdue')).toEqual(['crisp_steps_overdue 0']);
  expect(told).not.toHaveBeenCalled();

  jest.advanceTimersByTime(2000);
  expect(overdueSteps()).toMatchObject([
    { step: 'stop pod: network', podId: 'pod-1', requestId: 'call-1', seconds: 602 },
  ]);
  expect(figures('crisp_steps_overdue')).toEqual(['crisp_steps_overdue 1']);
  expect(figures('crisp_step_overdue_seconds')).toEqual([
    'crisp_step_overdue_seconds{step="stop pod: network",pod="pod-1",container="",request="call-1"} 602',
  ]);
  expect(told.mock.calls).toEqual([[{ step: 'stop pod: network', minutes: 10 }, 'a step does not end']]);

  open();
  await work;
  expect(stepsUnderWay()).toEqual([]);
  expect(figures('crisp_step_overdue_seconds')).toEqual([]);
});

test('each step of a call has its own time', () => {
  const told = jest.spyOn(log, 'error').mockImplementation(() => undefined);
  const story = new Story();
  for (const name of ['a: one', 'a: two', 'a: three']) {
    story.reaches(name);
    jest.advanceTimersByTime(limitMs - 1);
  }
  story.ends();
  jest.advanceTimersByTime(limitMs);
  expect(told).not.toHaveBeenCalled();
});

test('a step with its own timeout is never overdue', async () => {
  const told = jest.spyOn(log, 'error').mockImplementation(() => undefined);
  const { passed, open } = gate();
  const pull = step('pull image: copy', () => passed, { hasOwnLimit: true });
  jest.advanceTimersByTime(10 * limitMs);
  expect(overdueSteps()).toEqual([]);
  expect(told).not.toHaveBeenCalled();
  open();
  await pull;
});
