// What a command of the command line is.  The table of them (table.ts) is the
// one source of the parser, --help, completions, the man page and
// docs/CLI_REFERENCE.md.

export interface Flag {
  /** The name of its value in texts ("FILE"); absent: a switch. */
  readonly value?: string;
  /** One letter. */
  readonly short?: string;
  /** May be given several times. */
  readonly multiple?: true;
  readonly summary: string;
  /** What a shell offers for the value: files, folders, names of containers or images of this node, or these words. */
  readonly complete?: 'file' | 'folder' | 'container' | 'image' | readonly string[];
}
export type Flags = Readonly<Record<string, Flag>>;

/** The values of flags, as a command gets them. */
export type Values<F extends Flags> = {
  readonly [Name in keyof F]: F[Name] extends { readonly value: string }
    ? F[Name] extends { readonly multiple: true }
      ? readonly string[]
      : string | undefined
    : boolean;
};

export interface Argument {
  /** "IMAGE" */
  readonly name: string;
  readonly summary: string;
  readonly optional?: true;
  /** Takes all that is left. Only the last one may. */
  readonly rest?: true;
  readonly complete?: Flag['complete'];
}

export interface Invocation<F extends Flags> {
  readonly flags: Values<F>;
  /** Checked for number: each argument that is not optional is there. */
  readonly args: readonly string[];
}

export interface Definition<F extends Flags> {
  readonly name: string;
  /** Other names, as podman and nerdctl have them. */
  readonly aliases?: readonly string[];
  readonly group: 'daemon' | 'containers' | 'images' | 'operator';
  /** One line, no full stop. */
  readonly summary: string;
  /** Paragraphs, plain text. */
  readonly description: readonly string[];
  readonly arguments: readonly Argument[];
  readonly flags: F;
  /** Flags of podman and nerdctl that are left out on purpose ("--device", "-a") -> what to use instead. */
  readonly leftOut?: Readonly<Record<string, string>>;
  /** Flags end at the first argument: what follows belongs to another program. */
  readonly passesOn?: true;
  /** Exit codes besides 0 and the two that all commands have (1 failed, 2 wrong usage). */
  readonly exitCodes?: readonly { readonly code: string; readonly meaning: string }[];
  /** The exit code of crisp's own failure, where 1 could be the container's. */
  readonly ownFailure?: number;
  readonly examples: readonly { readonly what: string; readonly line: string }[];
  run(call: Invocation<F>): Promise<number>;
}

/** A command whose flag types the table need not know. */
export type Command = Definition<Flags>;

/** By its name or another name of it. */
export function commandNamed(commands: readonly Command[], word: string): Command | undefined {
  return commands.find(({ name, aliases }) => name === word || aliases?.includes(word));
}

/** Checks the definition of a command, and forgets its flag types. */
export function define<const F extends Flags>(definition: Definition<F>): Command {
  return definition;
}
