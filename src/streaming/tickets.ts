// Tickets: a streaming URL contains a ticket instead of the request itself.
// Each is redeemed once, within a minute. Called by server.ts.
import { randomBytes } from 'node:crypto';
import { CrispError } from '../errors.js';
import { maxTickets, maxTicketsPerPod, ticketLifeMs } from './limits.js';

/** The tickets that are not redeemed yet, in memory. */
export class Tickets<T extends { readonly sandboxId: string }> {
  /** Oldest first: a Map keeps the order of insertion, and all are valid for the same time. */
  private readonly issued = new Map<string, { value: T; expiresAt: number }>();

  /** @throws TooManyTickets if 1,000 are not redeemed yet, or 100 of the same pod */
  issue(value: T): string {
    this.dropExpired();
    if (this.issued.size >= maxTickets)
      throw new CrispError('TooManyTickets', `${maxTickets} streaming URLs have not been opened yet`);
    let ofPod = 0;
    for (const other of this.issued.values()) if (other.value.sandboxId === value.sandboxId) ofPod++;
    if (ofPod >= maxTicketsPerPod)
      throw new CrispError(
        'TooManyTickets',
        `${maxTicketsPerPod} streaming URLs of pod sandbox ${value.sandboxId} have not been opened yet`,
      );
    const ticket = randomBytes(16).toString('base64url');
    this.issued.set(ticket, { value, expiresAt: performance.now() + ticketLifeMs });
    return ticket;
  }

  /** The request of the ticket; undefined if it is unknown, used or expired. */
  redeem(ticket: string): T | undefined {
    this.dropExpired();
    const found = this.issued.get(ticket);
    this.issued.delete(ticket);
    return found?.value;
  }

  /** The number of tickets that are not redeemed yet. */
  get count(): number {
    this.dropExpired();
    return this.issued.size;
  }

  private dropExpired(): void {
    const now = performance.now();
    for (const [ticket, { expiresAt }] of this.issued) {
      if (expiresAt > now) return;
      this.issued.delete(ticket);
    }
  }
}
