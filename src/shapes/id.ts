// The shapes of ids. What is read back from anywhere (records, notes of CTs,
// folders) becomes part of a path, or the name of a container, only in one of these.

/** Of a pod or a container: 64 hex digits. */
export const idPattern = /^[0-9a-f]{64}$/;

/** Of the throw-away container of a probe: crisp-probe-HANDLER-PID-NUMBER. */
export const probeIdPattern = /^crisp-probe-([\w.-]{1,64})-(\d{1,10})-\d{1,10}$/;

export function isContainerId(text: string): boolean {
  return idPattern.test(text) || probeIdPattern.test(text);
}
