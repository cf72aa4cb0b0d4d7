// Set up before each file of unit tests: one that waits for nothing fails within seconds, and not after a minute.
import { jest } from '@jest/globals';

jest.setTimeout(20_000 * Number(process.env.CRISP_TEST_PATIENCE ?? 1));
