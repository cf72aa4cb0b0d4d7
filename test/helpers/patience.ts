// The factor for all timeouts of the tests on slow machines: CRISP_TEST_PATIENCE, 1 if
// it is not set.

export const patience = Number(process.env['CRISP_TEST_PATIENCE'] ?? 1);
