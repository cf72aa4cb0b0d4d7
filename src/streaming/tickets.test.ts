import { afterEach, expect, jest, test } from '@jest/globals';
import { Tickets } from './tickets.js';

afterEach(() => {
  jest.useRealTimers();
});

function of(sandboxId: string): { sandboxId: string } {
  return { sandboxId };
}
const refused: unknown = expect.objectContaining({ id: 'TooManyTickets' });

test('a ticket is redeemed once', () => {
  const tickets = new Tickets();
  const ticket = tickets.issue(of('a'));
  expect(ticket).toMatch(/^[\w-]{22}$/);
  expect(tickets.redeem(ticket)).toEqual(of('a'));
  expect(tickets.redeem(ticket)).toBeUndefined();
  expect(tickets.redeem('never-issued')).toBeUndefined();
});

test('a ticket expires after a minute', () => {
  jest.useFakeTimers();
  const tickets = new Tickets();
  const [kept, lost] = [tickets.issue(of('kept')), tickets.issue(of('lost'))];
  jest.advanceTimersByTime(59_999);
  expect(tickets.redeem(kept)).toEqual(of('kept'));
  jest.advanceTimersByTime(1);
  expect(tickets.redeem(lost)).toBeUndefined();
});

test('1,000 tickets may wait; used and expired ones make room', () => {
  jest.useFakeTimers();
  const tickets = new Tickets();
  const first = tickets.issue(of('first'));
  for (let number = 1; number < 1_000; number++) tickets.issue(of(String(number)));
  expect(() => tickets.issue(of('more'))).toThrow(refused);
  tickets.redeem(first);
  tickets.issue(of('more'));
  expect(() => tickets.issue(of('too many'))).toThrow(refused);
  jest.advanceTimersByTime(60_000);
  expect(tickets.issue(of('later'))).not.toBe('');
});

test('one pod cannot use them all', () => {
  const tickets = new Tickets();
  const first = tickets.issue(of('greedy'));
  for (let number = 1; number < 100; number++) tickets.issue(of('greedy'));
  expect(() => tickets.issue(of('greedy'))).toThrow(/100 streaming URLs of pod sandbox greedy/);
  tickets.issue(of('modest'));
  tickets.redeem(first);
  tickets.issue(of('greedy'));
});
