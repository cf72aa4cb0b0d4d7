// The JSON schema of the OCI runtime specification, from its Go module: generated specs
// and crisp's own schema are compared with it.
import { Ajv } from 'ajv';
import { execFileSync } from 'node:child_process';
import { readdirSync, readFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Spec } from '../../src/shapes/spec.js';

const module = 'github.com/opencontainers/runtime-spec@v1.3.0';
const mainFile = 'config-schema.json';

export interface JsonSchema {
  readonly $ref?: string;
  readonly properties?: Readonly<Record<string, JsonSchema>>;
  readonly items?: JsonSchema;
  readonly additionalProperties?: JsonSchema | boolean;
  readonly allOf?: readonly JsonSchema[];
  readonly anyOf?: readonly JsonSchema[];
}
type Files = ReadonlyMap<string, JsonSchema>;

/** undefined where there is no Go to fetch the module with. */
export function officialSchema():
  { issues(spec: Spec): readonly unknown[]; properties: readonly string[] } | undefined {
  const files = fetchFiles();
  if (!files) return undefined;
  const ajv = new Ajv({ strict: false, allErrors: true });
  for (const [name, schema] of files) ajv.addSchema({ ...schema, $schema: undefined, $id: name });
  const validate = ajv.getSchema(mainFile);
  if (!validate) throw new Error(`${module} has no ${mainFile}`);
  return {
    issues(spec) {
      // It knows no recursive propagation of the root, which crun and runc both take.
      const { rootfsPropagation, ...linux } = spec.linux;
      return validate({
        ...spec,
        linux: { ...linux, ...(rootfsPropagation ? { rootfsPropagation: rootfsPropagation.slice(1) } : {}) },
      })
        ? []
        : (validate.errors ?? []);
    },
    properties: propertiesOf(files.get(mainFile) ?? {}, files, mainFile),
  };
}

function fetchFiles(): Files | undefined {
  let folder: string;
  try {
    const answer = execFileSync('go', ['mod', 'download', '-json', module], {
      cwd: tmpdir(),
      stdio: ['ignore', 'pipe', 'ignore'],
    });
    folder = join((JSON.parse(answer.toString()) as { Dir: string }).Dir, 'schema');
  } catch {
    return undefined;
  }
  const read = (name: string): JsonSchema =>
    JSON.parse(
      readFileSync(join(folder, name), 'utf8').replaceAll('"#definitions/', '"#/definitions/'),
    ) as JsonSchema; // one reference there is misspelt
  return new Map(
    readdirSync(folder)
      .filter((name) => /^(config|defs).*\.json$/.test(name))
      .map((name) => [name, read(name)]),
  );
}

/** The paths of all properties that a schema knows, ".mounts[].options" and so on; other platforms' aside. */
export function propertiesOf(schema: JsonSchema, files: Files = new Map(), file = '', path = ''): string[] {
  if (schema.$ref) {
    const [name = '', pointer = ''] = schema.$ref.split('#');
    const target = pointer
      .split('/')
      .filter(Boolean)
      .reduce<unknown>((part, key) => (part as Record<string, unknown>)[key], files.get(name || file));
    return propertiesOf(target as JsonSchema, files, name || file, path);
  }
  const below = (part: JsonSchema | boolean | undefined, name: string): string[] =>
    typeof part === 'object' ? propertiesOf(part, files, file, `${path}${name}`) : [];
  return [
    ...Object.entries(schema.properties ?? {})
      .filter(([name]) => path !== '' || !['solaris', 'windows', 'vm', 'zos', 'freebsd'].includes(name))
      .flatMap(([name, part]) => [`${path}.${name}`, ...below(part, `.${name}`)]),
    ...below(schema.items, '[]'),
    ...below(schema.additionalProperties, '{}'),
    ...[...(schema.allOf ?? []), ...(schema.anyOf ?? [])].flatMap((part) => below(part, '')),
  ];
}
