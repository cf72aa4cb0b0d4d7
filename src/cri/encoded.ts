// Cached answers from unchanged records.
//
// A kubelet lists everything each second, and most of the time of a list would be
// spent on encoding the same data again. A record is a frozen value, which a
// change replaces; so a message that depends only on a record is made and encoded
// once for each record, and needs no invalidation.

/** The messages made by ofRecord() and ofRecordAnd(). */
const made = new WeakSet<object>();

/** The function, called once for each record. It must depend only on the record. */
export function ofRecord<Item extends object, Kind extends object>(
  make: (record: Kind) => Item,
): (record: Kind) => Item {
  const keeping = ofRecordAnd(make);
  return (record) => keeping(record); // without the other arguments that map() gives to a callback
}

/**
 * The same for a function with other arguments, called again if one of them is another value. They are
 * frozen as well.
 */
export function ofRecordAnd<Item extends object, Kind extends object, Others extends readonly unknown[]>(
  make: (record: Kind, ...others: Others) => Item,
): (record: Kind, ...others: Others) => Item {
  const items = new WeakMap<Kind, { readonly item: Item; readonly others: Others }>();
  return (record, ...others) => {
    const known = items.get(record);
    if (known?.others.every((value, index) => value === others[index])) return known.item;
    const item = make(record, ...others);
    items.set(record, { item, others });
    made.add(item);
    return item;
  };
}

/**
 * A serializer for a message type that encodes messages of ofRecord() only once.
 * The encodings of the fields of a message, and of the elements of a repeated
 * field, one after the other are the encoding of the message
 * (protobuf.dev/programming-guides/encoding).
 */
export function serializerOf(serialize: (message: object) => Buffer): (message: object) => Buffer {
  const byField = new Map<string, WeakMap<object, Uint8Array>>();
  const encoded = (field: string, item: object, isRepeated: boolean): Uint8Array => {
    let known = byField.get(field);
    if (!known) byField.set(field, (known = new WeakMap()));
    let bytes = known.get(item);
    if (!bytes) {
      bytes = new Uint8Array(serialize({ [field]: isRepeated ? [item] : item })); // a copy: otherwise Buffer's whole pool would be kept in memory
      known.set(item, bytes);
    }
    return bytes;
  };
  return (message) => {
    const rest: Record<string, unknown> = {};
    const parts: Uint8Array[] = [];
    for (const [field, value] of Object.entries(message)) {
      if (Array.isArray(value) && value.some(isMade))
        for (const item of value as unknown[])
          parts.push(isMade(item) ? encoded(field, item, true) : serialize({ [field]: [item] }));
      else if (isMade(value)) parts.push(encoded(field, value, false));
      else rest[field] = value;
    }
    return parts.length ? Buffer.concat([serialize(rest), ...parts]) : serialize(message);
  };
}

function isMade(value: unknown): value is object {
  return typeof value === 'object' && value !== null && made.has(value);
}
