// Waiting for one of two things.

/** Resolves after this many milliseconds; does not keep the process running. */
export function after(ms: number): Promise<void> {
  return new Promise((resolve) => {
    setTimeout(resolve, ms).unref();
  });
}

/** Whether `wanted` settles before `other`. */
export async function first(wanted: Promise<void>, other: Promise<void>): Promise<boolean> {
  return Promise.race([wanted.then(() => true), other.then(() => false)]);
}
