// Test programs in place of a container runtime or a CNI plugin: they run the commands
// of a test first, and then the real program.
import { existsSync } from 'node:fs';
import { rm, writeFile } from 'node:fs/promises';
import { until } from './wait.js';

const program = { mode: 0o755 };

/** A program with a script before it, which has its arguments and may exit. */
export async function writeWrapper(path: string, wrapped: string, script = ''): Promise<void> {
  await writeFile(path, `#!/bin/sh\n${script}\nexec ${wrapped} "$@"\n`, program);
}

/** crun with a script before it; the probe of the handler is not disturbed. */
export async function writeRuntime(path: string, script: string): Promise<void> {
  await writeWrapper(path, 'crun', `case " $* " in *crisp-probe*) exec crun "$@" ;; esac\n${script}`);
}

/**
 * A plugin that adds nothing to the result before it.
 * @param add a script that is run at ADD, and may exit @param always at each command
 */
export async function writePlugin(path: string, { add = '', always = '' }): Promise<void> {
  await writeFile(
    path,
    `#!/bin/sh
input=$(cat)
${always}
if [ "$CNI_COMMAND" = ADD ]; then
${add}
  echo "$input" | jq -c '.prevResult // {"cniVersion":"1.0.0","interfaces":[],"ips":[]}'
else
  echo '{"cniVersion":"1.0.0","supportedVersions":["0.4.0","1.0.0"]}'
fi
`,
    program,
  );
}

/** Holds up a stand-in until it is opened. */
export class Gate {
  constructor(private readonly path: string) {}

  /** A shell command that waits. */
  get script(): string {
    return `: >${this.path}.reached; until [ -e ${this.path}.open ]; do sleep 0.02; done`;
  }
  async close(): Promise<void> {
    for (const name of ['open', 'reached']) await rm(`${this.path}.${name}`, { force: true });
  }
  async reached(): Promise<void> {
    await until(() => existsSync(`${this.path}.reached`), `${this.path} is reached`);
  }
  async open(): Promise<void> {
    await writeFile(`${this.path}.open`, '');
  }
}
