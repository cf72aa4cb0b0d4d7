// crun's own annotations in its config.json.
import { compileSeccomp } from '../../host/seccomp.js';
import { log } from '../../log.js';
import type { IdMapping, Seccomp, Spec } from '../../shapes/spec.js';

/** The spec for crun; the same object if nothing is changed. */
export async function forCrun(spec: Spec): Promise<Spec> {
  return withSeccompProgram(withOwnIdMaps(spec));
}

/** See crun(1). Its value is the compiled filter, so that crun does not compile the profile. */
const programAnnotation = 'run.oci.seccomp_bpf_data';

async function withSeccompProgram(spec: Spec): Promise<Spec> {
  const profile = spec.linux.seccomp;
  if (!profile || spec.annotations?.[programAnnotation] !== undefined) return spec;
  const program = await programOf(profile);
  return program ? { ...spec, annotations: { ...spec.annotations, [programAnnotation]: program } } : spec;
}

/**
 * Compiled filters in base64, by the profile as JSON, since a filter depends only on its profile. Beyond
 * mostPrograms the oldest is removed.
 */
const programs = new Map<string, Promise<string | undefined>>();
const mostPrograms = 32;

function programOf(profile: Seccomp): Promise<string | undefined> {
  const key = JSON.stringify(profile);
  let program = programs.get(key);
  if (!program) {
    program = compileSeccomp(profile).then(
      (bytes) => bytes?.toString('base64'),
      (error: unknown) => {
        log.warn({ err: error }, 'a seccomp profile could not be compiled here: the runtime compiles it');
        return undefined;
      },
    );
    programs.set(key, program);
    const [oldest] = programs.keys();
    if (programs.size > mostPrograms && oldest !== undefined) programs.delete(oldest);
  }
  return program;
}

/**
 * crun maps the ids of a mount into the user namespace of the process that it has
 * started. If the process joins a pid namespace, it is not yet in the container's
 * user namespace, and the kernel refuses the host's one (mount_setattr(2), EPERM).
 * With crun's own option (crun(1), idmap) the mapping is given explicitly and
 * needs no process.
 */
function withOwnIdMaps(spec: Spec): Spec {
  const joinsPids = spec.linux.namespaces.some(({ type, path }) => type === 'pid' && path !== undefined);
  if (!joinsPids || !spec.mounts.some(({ options }) => options?.includes('idmap'))) return spec;
  const written = (maps: readonly IdMapping[] = []): string =>
    maps.map(({ containerID, hostID, size }) => `${containerID}-${hostID}-${size}`).join('#');
  const mounts = spec.mounts.map(({ uidMappings, gidMappings, ...mount }) =>
    mount.options?.includes('idmap')
      ? {
          ...mount,
          options: mount.options.map((option) =>
            option === 'idmap' ? `idmap=uids=${written(uidMappings)};gids=${written(gidMappings)}` : option,
          ),
        }
      : mount,
  );
  return { ...spec, mounts };
}
