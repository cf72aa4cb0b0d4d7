// How much longer everything may take than on the machine that the tests were
// written on: CRISP_TEST_PATIENCE, 1 if it is not set.

export const patience = Number(process.env['CRISP_TEST_PATIENCE'] ?? 1);
