// Signals that come to a command in the foreground: kept while there is
// something half made, then handed to the container.
import { constants } from 'node:os';
import { CrispError } from '../errors.js';

const names = ['SIGINT', 'SIGTERM', 'SIGHUP', 'SIGQUIT', 'SIGUSR1', 'SIGUSR2'] as const;

export class Signals {
  private readonly kept: NodeJS.Signals[] = [];
  private take: (name: NodeJS.Signals) => void = (name) => {
    this.kept.push(name);
  };
  private readonly listener = (name: NodeJS.Signals): void => {
    this.take(name);
  };

  /** From now on a signal is not our end: what is being made can be undone. */
  hold(): void {
    for (const name of names) process.on(name, this.listener);
  }

  /** @throws Cancelled when one has come since hold() */
  check(): void {
    const [first] = this.kept;
    if (first)
      throw new CrispError('Cancelled', `${first} came; what was made is removed again`, {
        hint: 'run it again',
      });
  }

  /** Hands on those that were kept and those that come. */
  forward(to: (signal: number) => unknown): void {
    this.take = (name) => void to(constants.signals[name]);
    this.kept.splice(0).forEach(this.take);
  }

  release(): void {
    for (const name of names) process.off(name, this.listener);
  }
}
