// An index with another index as the entry for this machine, which OCI allows
// and skopeo does not support. Called by pull.ts.
import { createHash } from 'node:crypto';
import * as z from 'zod';
import { CrispError } from '../errors.js';
import { parseReference } from './references.js';

/** The error message of skopeo. */
export const nestedIndex = /received a manifest list instead of a manifest/;

const indexTypes = [
  'application/vnd.oci.image.index.v1+json',
  'application/vnd.docker.distribution.manifest.list.v2+json',
];
const indexSchema = z.object({
  manifests: z
    .array(
      z.object({
        mediaType: z.string().optional(),
        digest: z.string(),
        platform: z.object({ architecture: z.string(), os: z.string() }).nullish(),
      }),
    )
    .min(1)
    .max(1000),
});
type Index = Readonly<z.infer<typeof indexSchema>>;
const maxDepth = 4;
/** Node's names of architectures that differ from Go's (GOARCH). */
const architectures: Readonly<Record<string, string>> = { x64: 'amd64', ia32: '386' };
const ownArchitecture = architectures[process.arch] ?? process.arch;

/** The entries of an index that this machine can run. */
export function forThisMachine(
  manifests: Index['manifests'],
  architecture = ownArchitecture,
): Index['manifests'] {
  return manifests.filter(
    ({ platform }) => !platform || (platform.architecture === architecture && platform.os === 'linux'),
  );
}

/**
 * The innermost index, which has manifests and no index for this machine.
 * @param inspect fetches a manifest or index ("docker://…") unchanged
 * @returns `inner`, and `outer`, the index of the name; both as REPOSITORY@DIGEST
 * @throws ImageCorrupt
 */
export async function innerIndex(
  name: string,
  inspect: (source: string) => Promise<string>,
  architecture = ownArchitecture,
): Promise<{ inner: string; outer: string }> {
  const { repository } = parseReference(name);
  let current = name;
  let outer: string | undefined;
  for (let depth = 0; depth < maxDepth; depth++) {
    const text = await inspect(`docker://${current}`);
    const { manifests } = parsedIndex(current, text);
    outer ??= `${repository}@sha256:${createHash('sha256').update(text).digest('hex')}`;
    const [chosen] = forThisMachine(manifests, architecture);
    if (!chosen || !indexTypes.includes(chosen.mediaType ?? '')) return { inner: current, outer };
    current = parseReference(`${repository}@${chosen.digest}`).name;
  }
  throw new CrispError('ImageCorrupt', `${name} has more than ${maxDepth} nested indexes`);
}

/** @throws ImageCorrupt */
export function parsedIndex(name: string, text: string): Index {
  try {
    return indexSchema.parse(JSON.parse(text));
  } catch (error) {
    throw new CrispError('ImageCorrupt', `the index of ${name} is not valid`, { cause: error });
  }
}
