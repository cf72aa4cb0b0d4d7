// The commands on images, which work with or without a running daemon.
import { define, type Command } from './command.js';
import { places } from './table-places.js';

const image = {
  name: 'IMAGE',
  rest: true,
  complete: 'image',
  summary: 'a name, a digest reference or an id',
} as const;

const pull = define({
  name: 'pull',
  group: 'images',
  summary: 'Pull images from registries',
  description: [
    'Pulls images and prints the id of each. The progress is shown on stderr: as a bar on a terminal, otherwise as lines. Registries, credentials, certificates and signatures are set in the section images of the configuration.',
    'After a failure, finished layers are kept for half an hour, so that the next pull only fetches the rest.',
  ],
  arguments: [
    { name: 'IMAGE', rest: true, summary: 'a name or a digest reference; the default registry is docker.io' },
  ],
  flags: places,
  examples: [
    { what: 'by tag', line: 'crisp pull busybox' },
    { what: 'by digest', line: 'crisp pull quay.io/app@sha256:DIGEST' },
  ],
  run: async ({ flags, args }) => (await import('./image-pull.js')).pullCommand(flags, args),
});

const images = define({
  name: 'images',
  group: 'images',
  summary: 'List the images of this node',
  description: ['Lists the images for pods and single containers.'],
  arguments: [],
  flags: {
    json: { summary: 'as JSON: a list of {id, tags, digests, sizeBytes, pinned}' },
    quiet: { short: 'q', summary: 'ids only' },
    ...places,
  },
  examples: [{ what: 'for a script', line: 'crisp images --json | jq -r ".[].tags[]"' }],
  run: async ({ flags }) => (await import('./image-list.js')).imagesCommand(flags),
});

const rmi = define({
  name: 'rmi',
  group: 'images',
  summary: 'Remove images',
  description: [
    'Removes images with all their names, and prints their ids. An image that is used by a container, of a pod or a single one, is refused.',
  ],
  arguments: [image],
  flags: places,
  exitCodes: [{ code: '1', meaning: 'failed for one of them; the others are removed' }],
  examples: [{ what: 'by name', line: 'crisp rmi busybox' }],
  run: async ({ flags, args }) => (await import('./image-remove.js')).rmiCommand(flags, args),
});

const load = define({
  name: 'load',
  group: 'images',
  summary: 'Import images from archives',
  description: [
    'Imports the images of OCI archives, OCI layout folders and archives of `docker save` or `podman save`, and prints their names: those that the archive gives them, else localhost/FILE:latest.',
  ],
  arguments: [
    {
      name: 'FILE',
      rest: true,
      complete: 'file',
      summary:
        'an archive (.tar; compressed or not) or an OCI layout folder; oci-archive:FILE and docker-archive:FILE name the same',
    },
  ],
  flags: places,
  examples: [{ what: 'one of docker', line: 'docker save -o app.tar app && crisp load app.tar' }],
  run: async ({ flags, args }) => (await import('./image-load.js')).loadCommand(flags, args),
});

export const imageCommands: readonly Command[] = [pull, images, rmi, load];
