// Signals to a command in the foreground: held while a container is being
// made, then passed to the container.
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

  /** From now on a signal does not end this process, so that a creation can be undone. */
  hold(): void {
    for (const name of names) process.on(name, this.listener);
  }

  /** @throws Cancelled if a signal was received since hold() */
  check(): void {
    const [first] = this.kept;
    if (first)
      throw new CrispError('Cancelled', `interrupted by ${first}; the container is removed again`, {
        hint: 'run it again',
      });
  }

  /** Passes on the held signals and all later ones. */
  forward(to: (signal: number) => unknown): void {
    this.take = (name) => void to(constants.signals[name]);
    this.kept.splice(0).forEach(this.take);
  }

  release(): void {
    for (const name of names) process.off(name, this.listener);
  }
}
