// The flags of all commands on single containers and images.
export const places = {
  config: {
    value: 'FILE',
    complete: 'file',
    summary: 'the configuration (default /etc/crisp/config.yaml, with config.d beside it)',
  },
  root: { value: 'DIR', complete: 'folder', summary: 'the folder of images; overrides the key root' },
  state: {
    value: 'DIR',
    complete: 'folder',
    summary: 'records and bundles of standalone containers; overrides the key cli_state',
  },
} as const;

/** Their line of --help. */
export const placesRow = {
  flags: ['config', 'root', 'state'],
  summary: 'the configuration; folders instead of its own',
} as const;
