// The formats of ids. A value that was read from records, notes of CTs or folders is
// used in a path, or as the name of a container, only if it has one of these
// formats.

/** The id of a pod or a container: 64 hex digits. */
export const idPattern = /^[0-9a-f]{64}$/;

/** The id of the temporary container of a probe: crisp-probe-HANDLER-PID-NUMBER. */
export const probeIdPattern = /^crisp-probe-([\w.-]{1,64})-(\d{1,10})-\d{1,10}$/;

/** Whether this is the id of a container, or of the container of a probe. */
export function isContainerId(text: string): boolean {
  return idPattern.test(text) || probeIdPattern.test(text);
}
