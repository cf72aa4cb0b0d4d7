// The Stream* lists: the same items as the plain lists, some hundred per
// message, so that a list of a full node does not exceed the limit of a gRPC
// message.

const pageSize = 500;

/** Splits a list for the Stream* calls; an empty list is one empty page. */
export function* paginate<T>(items: readonly T[]): Generator<readonly T[]> {
  for (let start = 0; start === 0 || start < items.length; start += pageSize)
    yield items.slice(start, start + pageSize);
}
