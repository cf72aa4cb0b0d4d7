// The files for `crisp explain`: manifests of Kubernetes (YAML or JSON) or the
// JSON files of crictl, as pods. A mistake in a pod is kept with it, so that the
// others can be explained.
import { LineCounter, parseAllDocuments } from 'yaml';
import { locate, type KeyPath } from '../config/source.js';
import { CrispError, toCrispError } from '../errors.js';
import { readSmallFile } from '../host/files.js';
import { keyText, podsOf, type CriPod, type Manifest } from './pod-manifest.js';

export interface PodOfFile extends Pick<CriPod, 'title' | 'handler' | 'sandbox' | 'containers' | 'notes'> {
  /** "pod.yaml:7: spec.containers[0].image: is missing"; if there are any, there are no messages. */
  readonly mistakes: readonly string[];
  /** "pod.yaml:7: spec.containers[0].imagee" */
  readonly unknownFields: readonly string[];
}

interface Document {
  readonly file: string;
  readonly value: Record<string, unknown>;
  /** "pod.yaml:7" */
  readonly place: (path: KeyPath) => string;
}

/**
 * The pods of Kubernetes manifests, or one pod from crictl's files: one for the sandbox, and one for each
 * container. @throws InvalidArgument if there is none
 */
export function readPods(files: readonly string[]): PodOfFile[] {
  const documents: Document[] = [];
  const pods: PodOfFile[] = [];
  for (const file of files)
    try {
      documents.push(...readDocuments(file));
    } catch (error) {
      if (files.length === 1) throw error;
      pods.push(unreadable(file, toCrispError(error).message));
    }
  const found = documents
    .filter(({ value }) => 'kind' in value)
    .map(({ value, place }) => ({
      kind: String(value['kind']),
      pods: podsOf(value as unknown as Manifest).map((pod) => ({
        ...pod,
        mistakes: pod.mistakes.map(({ path, message }) =>
          [place(path), keyText(path), message].filter(Boolean).join(': '),
        ),
        unknownFields: pod.unknownFields.map((path) => `${place(path)}: ${keyText(path)}`),
      })),
    }));
  pods.push(...found.flatMap((one) => one.pods));
  const messages = documents.filter(({ value }) => !('kind' in value));
  if (messages.length > 0) pods.push(fromMessages(messages));
  const [first, ...others] = pods;
  if (!first)
    throw new CrispError('InvalidArgument', `there is no pod in ${files.join(', ')}`, {
      hint: 'give a manifest of a Pod or of a workload (Deployment, Job, …), or the JSON files of crictl',
    });
  const without = found.filter((one) => one.pods.length === 0).map(({ kind }) => kind);
  return without.length === 0
    ? pods
    : [
        { ...first, notes: [`ignored, since it makes no pod: ${without.join(', ')}`, ...first.notes] },
        ...others,
      ];
}

function unreadable(title: string, mistake: string): PodOfFile {
  return {
    title,
    handler: '',
    sandbox: {},
    containers: [],
    notes: [],
    mistakes: [mistake],
    unknownFields: [],
  };
}

/** @throws InvalidArgument "FILE:LINE:COLUMN: …", in one line */
function readDocuments(file: string): Document[] {
  const name = file === '-' ? 'stdin' : file;
  let text: string;
  try {
    text = readSmallFile(file === '-' ? 0 : file);
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException;
    throw new CrispError(
      'InvalidArgument',
      `${name}: ${code === 'ENOENT' ? 'the file does not exist' : code === 'EISDIR' ? 'it is a folder' : message}`,
    );
  }
  const lines = new LineCounter();
  const documents = parseAllDocuments(text, { lineCounter: lines, prettyErrors: false }); // JSON is YAML
  return [...documents].flatMap((document) => {
    const [wrong] = document.errors;
    if (wrong) {
      const { line, col } = lines.linePos(wrong.pos[0]);
      throw new CrispError('InvalidArgument', `${name}:${line}:${col}: ${wrong.message}`);
    }
    let value: unknown;
    try {
      value = document.toJS();
    } catch (error) {
      throw new CrispError('InvalidArgument', `${name}: ${(error as Error).message}`); // too many aliases
    }
    if (value === null || value === undefined) return [];
    const place = (path: KeyPath): string => {
      for (let length = path.length; length > 0; length--) {
        const found = locate(document, lines, name, path.slice(0, length));
        if (found) return found;
      }
      return name;
    };
    if (!isMap(value))
      throw new CrispError('InvalidArgument', `${name}: neither a Pod nor a message of the CRI`);
    return [{ file: name, value, place }];
  });
}

function isMap(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

/** A container's config has an image, a sandbox's does not. */
function fromMessages(messages: readonly Document[]): PodOfFile {
  const containers = messages.filter(({ value }) => 'image' in value);
  const [sandbox, ...more] = messages.filter(({ value }) => !('image' in value));
  if (more.length > 0)
    throw new CrispError('InvalidArgument', `${more[0]?.file}: a second pod; explain one at a time`);
  return {
    title: sandbox?.file ?? messages[0]?.file ?? '',
    handler: '',
    sandbox: sandbox?.value ?? { metadata: { name: 'pod', namespace: 'default', uid: 'UID' } },
    notes: [],
    mistakes: [],
    unknownFields: [],
    containers: containers.map(({ file, value }) => ({
      name: (value['metadata'] as { name?: string } | undefined)?.name ?? file,
      config: value,
    })),
  };
}
