// The measured values, and small tools to measure.
export const samples = {}; // row -> peer -> [ms, or the unit of the row]
export const note = (what, who, ms) => {
  ((samples[what] ??= {})[who] ??= []).push(ms);
};

/** Runs `work` for each of them, several at a time. */
export async function atOnce(width, items, work) {
  const left = [...items];
  const results = [];
  await Promise.all(
    Array.from({ length: width }, async () => {
      for (let item = left.shift(); item !== undefined; item = left.shift()) results.push(await work(item));
    }),
  );
  return results;
}
export const counted = (count) => Array.from({ length: count }, (_, index) => index);

/** @returns the duration in ms; a whole life is the sum of its parts, without the pauses between execs */
export async function lasted(work) {
  const start = performance.now();
  await work();
  return performance.now() - start;
}
