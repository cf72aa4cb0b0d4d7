// The keys of the configuration for documents, from the schema. For
// docs/configuration.md and `crisp config --default`.
import * as z from 'zod';
import { configSchema } from '../config/config.js';
import { reloadable } from '../config/reload.js';

export interface ConfigKey {
  /** ["images", "pinned"]; a part in capitals is a placeholder for a name. */
  readonly path: readonly string[];
  /** "text", "whole number", "list of text", "one of a, b". */
  readonly type: string;
  readonly unit: string | undefined;
  readonly default: unknown;
  readonly description: string;
  /** Takes effect at SIGHUP. */
  readonly reload: boolean;
  /** A section of keys, without a value of its own. */
  readonly section: boolean;
}

/** The part of JSON Schema that the configuration uses. */
interface Schema {
  readonly type?: string;
  readonly description?: string;
  readonly default?: unknown;
  readonly unit?: string;
  readonly enum?: readonly string[];
  readonly properties?: Readonly<Record<string, Schema>>;
  readonly additionalProperties?: Schema | false;
  readonly items?: Schema;
}

/** The placeholders for the names in maps. */
const names: Readonly<Record<string, string>> = {
  handlers: 'NAME',
  fallback: 'HANDLER',
  labels: 'KEY',
  annotations: 'KEY',
};

export function jsonSchema(): object {
  return z.toJSONSchema(configSchema, { io: 'input' });
}

export function configKeys(): ConfigKey[] {
  return below(jsonSchema(), []);
}

function below(schema: Schema, path: readonly string[]): ConfigKey[] {
  return Object.entries(schema.properties ?? {}).flatMap(([name, property]) => {
    const own = [...path, name];
    const key: ConfigKey = {
      path: own,
      type: typeOf(property),
      unit: property.unit,
      default: property.default,
      description: property.description ?? '',
      reload: reloadable.some((key) => key === own[0]),
      section: property.properties !== undefined,
    };
    return [key, ...inner(property, own, name)];
  });
}

/** The keys of a section, of the values of a map, or of the items of a list. */
function inner(schema: Schema, path: readonly string[], name: string): ConfigKey[] {
  if (schema.properties) return below(schema, path);
  if (schema.additionalProperties && schema.additionalProperties.properties)
    return below(schema.additionalProperties, [...path, names[name] ?? 'NAME']);
  if (schema.items?.properties) return below(schema.items, [...path, '[]']);
  return [];
}

const plainTypes: Readonly<Record<string, string>> = {
  string: 'text',
  number: 'number',
  integer: 'whole number',
  boolean: 'true or false',
};

function typeOf(schema: Schema): string {
  if (schema.enum) return `one of ${schema.enum.join(', ')}`;
  if (schema.properties) return 'section';
  if (schema.type === 'array') return `list of ${schema.items ? typeOf(schema.items) : 'values'}`;
  if (schema.type === 'object')
    return `map of ${schema.additionalProperties ? typeOf(schema.additionalProperties) : 'values'}`;
  return plainTypes[schema.type ?? ''] ?? schema.type ?? 'value';
}
