// The definition of a check of `crisp check`, and its access to the host.
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import type { Config } from '../../config/config.js';
import { toCrispError } from '../../errors.js';
import { runTool } from '../tool.js';

/** failure: pods will not run; warning: a feature will not work, or will be limited. */
export type Level = 'ok' | 'warning' | 'failure';

export interface Finding {
  readonly level: Level;
  readonly message: string;
  /** The command to fix it. */
  readonly hint?: string;
}

export interface Check {
  /** "kernel.overlay": stable, for scripts. */
  readonly id: string;
  readonly title: string;
  readonly run: (host: Host, config: Config) => Promise<readonly Finding[]> | readonly Finding[];
}

/** The host, for checks; tests replace it. */
export interface Host {
  /** undefined: the file does not exist, or cannot be read. */
  read(path: string): string | undefined;
  exists(path: string): boolean;
  /** The names in a folder; empty if it does not exist. */
  list(path: string): readonly string[];
  /** Runs a program; undefined: it is not installed, or failed. */
  ask(argv: readonly [string, ...string[]]): Promise<string | undefined>;
  readonly uid: number;
}

const askTimeoutMs = 20_000;

export const thisHost: Host = {
  read(path) {
    try {
      return readFileSync(path, 'utf8');
    } catch {
      return undefined;
    }
  },
  exists: existsSync,
  list(path) {
    try {
      return readdirSync(path);
    } catch {
      return [];
    }
  },
  async ask(argv) {
    try {
      const { stdout, stderr } = await runTool(argv, { timeoutMs: askTimeoutMs });
      return stdout || stderr;
    } catch {
      return undefined;
    }
  },
  uid: process.getuid?.() ?? 0,
};

export function ok(message: string): Finding[] {
  return [{ level: 'ok', message }];
}
export function warning(message: string, hint?: string): Finding[] {
  return [{ level: 'warning', message, ...(hint ? { hint } : {}) }];
}
export function failure(message: string, hint?: string): Finding[] {
  return [{ level: 'failure', message, ...(hint ? { hint } : {}) }];
}

export interface Checked {
  readonly id: string;
  readonly title: string;
  readonly findings: readonly Finding[];
}

/** Runs checks one after the other; an exception in a check is a failure. */
export async function runChecks(checks: readonly Check[], host: Host, config: Config): Promise<Checked[]> {
  const done: Checked[] = [];
  for (const { id, title, run: look } of checks) {
    try {
      done.push({ id, title, findings: await look(host, config) });
    } catch (error) {
      done.push({ id, title, findings: failure(toCrispError(error).report) });
    }
  }
  return done;
}
