// The definition of a command. The parser, --help, completions, the man page
// and docs/CLI_REFERENCE.md are all generated from the table of commands
// (table.ts).

export interface Flag {
  /** The name of its value for help texts ("FILE"); absent: a switch. */
  readonly value?: string;
  /** One letter. */
  readonly short?: string;
  /** May be given several times. */
  readonly multiple?: true;
  readonly summary: string;
  /** Completions of the value: files, folders, containers or images of this node, or these words. */
  readonly complete?: 'file' | 'folder' | 'container' | 'image' | readonly string[];
}
export type Flags = Readonly<Record<string, Flag>>;

/** The values of flags, for the code of a command. */
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
  /** Takes all remaining arguments. Only allowed for the last one. */
  readonly rest?: true;
  readonly complete?: Flag['complete'];
}

export interface Invocation<F extends Flags> {
  readonly flags: Values<F>;
  /** The arguments, including all required ones. */
  readonly args: readonly string[];
}

export interface Definition<F extends Flags> {
  readonly name: string;
  /** Other names, as in podman and nerdctl. */
  readonly aliases?: readonly string[];
  readonly group: 'daemon' | 'containers' | 'images' | 'operator';
  /** One line, without a full stop. */
  readonly summary: string;
  /** Paragraphs, plain text; --help has the first one. */
  readonly description: readonly string[];
  readonly arguments: readonly Argument[];
  readonly flags: F;
  /** Lines of --help that stand for several flags, or for a flag with a long summary: help is one screen. */
  readonly helpRows?: readonly {
    readonly flags: readonly string[];
    readonly summary: string;
  }[];
  /** Flags of podman and nerdctl that are left out on purpose ("--device", "-a") -> what to use instead. */
  readonly leftOut?: Readonly<Record<string, string>>;
  /** Flags end at the first argument: the following words are passed to another program. */
  readonly passesOn?: true;
  /** Exit codes in addition to the common ones (0, 1 failed, 2 wrong usage). */
  readonly exitCodes?: readonly { readonly code: string; readonly meaning: string }[];
  /** The exit code for an error of crisp itself, if 1 could be the container's. */
  readonly ownFailure?: number;
  /** --help has the first two. */
  readonly examples: readonly { readonly what: string; readonly line: string }[];
  run(call: Invocation<F>): Promise<number>;
}

/** A command without its flag types, for the table. */
export type Command = Definition<Flags>;

/** Finds a command by its name or an alias. */
export function commandNamed(commands: readonly Command[], word: string): Command | undefined {
  return commands.find(({ name, aliases }) => name === word || aliases?.includes(word));
}

/** Checks the types of a command's definition, and drops its flag types. */
export function define<const F extends Flags>(definition: Definition<F>): Command {
  return definition;
}
