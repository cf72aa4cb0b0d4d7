import { afterEach, expect, jest, test } from '@jest/globals';
import { CrispError } from '../errors.js';
import { maxTickets, ticketLifeMs, Tickets } from './tickets.js';

afterEach(() => {
  jest.useRealTimers();
});

test('a ticket is redeemed once', () => {
  const tickets = new Tickets<string>();
  const ticket = tickets.issue('exec');
  expect(ticket).toMatch(/^[\w-]{22}$/);
  expect(tickets.redeem(ticket)).toBe('exec');
  expect(tickets.redeem(ticket)).toBeUndefined();
  expect(tickets.redeem('never-issued')).toBeUndefined();
});

test('a ticket lives a minute', () => {
  jest.useFakeTimers();
  const tickets = new Tickets<string>();
  const [kept, lost] = [tickets.issue('kept'), tickets.issue('lost')];
  jest.advanceTimersByTime(ticketLifeMs - 1);
  expect(tickets.redeem(kept)).toBe('kept');
  jest.advanceTimersByTime(1);
  expect(tickets.redeem(lost)).toBeUndefined();
});

test('1,000 may wait; room comes with use and with time', () => {
  jest.useFakeTimers();
  const tickets = new Tickets<number>();
  const first = tickets.issue(0);
  for (let number = 1; number < maxTickets; number++) tickets.issue(number);
  expect(() => tickets.issue(1000)).toThrow(expect.objectContaining({ id: 'TooManyTickets' }));
  tickets.redeem(first);
  tickets.issue(1000);
  expect(() => tickets.issue(1001)).toThrow(CrispError);
  jest.advanceTimersByTime(ticketLifeMs);
  expect(tickets.issue(1001)).not.toBe('');
});
