// The container network: CNI conflists and the plugins they name.
export interface Attachment {
  readonly ips: readonly string[];
}
