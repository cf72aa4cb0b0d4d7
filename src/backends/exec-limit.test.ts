// The early end of a command: a tool whose command is killed ends by itself.
import { afterEach, describe, expect, jest, test } from '@jest/globals';
import { fakeTimeouts } from '../../test/helpers/services.js';
import { until } from '../../test/helpers/wait.js';
import { childrenOf, identify } from '../host/proc.js';
import { runStreaming } from '../host/run.js';
import { killBelow, limited } from './exec-limit.js';

afterEach(() => {
  jest.useRealTimers();
});

describe('the limit', () => {
  const limit = (timeoutMs: number | undefined, signal: AbortSignal) => {
    let kills = 0;
    const made = limited(timeoutMs, signal, () => {
      kills++;
      return Promise.resolve();
    });
    return { ...made, kills: () => kills };
  };

  test('kills at the deadline, and check() says so', () => {
    fakeTimeouts();
    const { check, kills } = limit(5_000, new AbortController().signal);
    jest.advanceTimersByTime(4_999);
    check();
    expect(kills()).toBe(0);
    jest.advanceTimersByTime(1);
    expect(kills()).toBe(1);
    expect(check).toThrow(
      expect.objectContaining({
        id: 'ExecTimeout',
        message: 'the command did not end within 5000 ms and was killed',
      }),
    );
  });

  test('kills when the client goes, now or later', () => {
    const client = new AbortController();
    const { check, kills } = limit(undefined, client.signal);
    check();
    client.abort();
    expect(kills()).toBe(1);
    expect(check).toThrow(expect.objectContaining({ id: 'Cancelled' }));
    const late = limit(undefined, client.signal);
    expect(late.kills()).toBe(1);
    expect(late.check).toThrow(expect.objectContaining({ id: 'Cancelled' }));
  });

  test('names what came first', () => {
    fakeTimeouts();
    const client = new AbortController();
    const { check } = limit(10, client.signal);
    jest.advanceTimersByTime(10);
    client.abort();
    expect(check).toThrow(expect.objectContaining({ id: 'ExecTimeout' }));
  });

  test('does nothing once it is cleared', () => {
    fakeTimeouts();
    const client = new AbortController();
    const { check, clear, kills } = limit(10, client.signal);
    clear();
    client.abort();
    jest.advanceTimersByTime(20);
    check();
    expect(kills()).toBe(0);
  });
});

describe('the kill', () => {
  const options = { timeoutMs: 0, okExitCodes: 'any' as const };

  test('is of what runs below the tool, which then answers by itself', async () => {
    const running = await runStreaming(['sh', '-c', 'sh -c "sleep 1000 & sleep 1000"; exit 7'], {}, options);
    const pid = running.pid ?? 0;
    await until(async () => (await childrenOf(pid)).length === 1);
    const [shell = 0] = await childrenOf(pid);
    await until(async () => (await childrenOf(shell)).length === 2);
    const below = await childrenOf(shell);
    await killBelow(running);
    expect((await running.ended).exitCode).toBe(7);
    for (const one of [shell, ...below]) await until(async () => (await identify(one)) === undefined);
  });

  test('is of the tool itself if nothing runs below it for a while', async () => {
    const running = await runStreaming(['sleep', '1000'], {}, options);
    const ended = running.ended.catch((error: unknown) => error);
    await killBelow(running);
    expect(await ended).toMatchObject({ exitCode: undefined, signal: 'SIGKILL' });
  });

  test('of a tool that could not be started is nothing', async () => {
    const running = await runStreaming(['/no/such/tool'], {}, options);
    const ended = running.ended.catch((error: unknown) => error);
    await killBelow(running);
    expect(await ended).toMatchObject({ id: 'ToolMissing' });
  });
});
