// bin/crisp as started by the kernel: options of Node in arguments and environment, and
// a Node that is too old.
import { expect, test } from '@jest/globals';
import { execFile } from 'node:child_process';
import { mkdtemp, readFile, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

const bin = fileURLToPath(new URL('../../bin/crisp', import.meta.url));

interface Ended {
  readonly exitCode: number;
  readonly stdout: string;
  readonly stderr: string;
}

function run(file: string, args: readonly string[], env: Record<string, string> = {}): Promise<Ended> {
  return new Promise((resolve) => {
    const path = { PATH: process.env['PATH'] ?? '' };
    execFile(file, args, { env: { ...path, ...env } }, (error, stdout, stderr) => {
      resolve({ exitCode: Number(error?.code ?? 0), stdout, stderr });
    });
  });
}

test.each([['--env-file', 'absent'], ['--env-file=absent'], ['--inspect'], ['--require', './absent.js']])(
  'the argument %s is not an option of Node',
  async (...args: string[]) => {
    const { exitCode, stderr } = await run(bin, ['list', ...args]);
    expect(stderr).toBe(`crisp list: unknown flag ${args[0]?.split('=')[0]}; see \`crisp list --help\`\n`);
    expect(exitCode).toBe(2);
  },
);

test('an environment file named in the arguments does not configure Node', async () => {
  const folder = await mkdtemp(join(tmpdir(), 'crisp-program-'));
  try {
    const file = join(folder, 'env');
    await writeFile(file, 'NODE_OPTIONS=--nonsense\n');
    const { exitCode, stderr } = await run(bin, ['list', `--env-file=${file}`]);
    expect(stderr).toContain('unknown flag --env-file');
    expect(exitCode).toBe(2);
  } finally {
    await rm(folder, { recursive: true });
  }
});

test('NODE_OPTIONS of the caller does not reach Node', async () => {
  expect(await run(bin, ['version'], { NODE_OPTIONS: '--nonsense' })).toMatchObject({
    exitCode: 0,
    stderr: '',
  });
});

test('arguments are passed unchanged, also through a link', async () => {
  const folder = await mkdtemp(join(tmpdir(), 'crisp program-'));
  try {
    await symlink(bin, join(folder, 'crisp'));
    const words = '--a b\n$(exit 3) "c" *';
    expect(await run(join(folder, 'crisp'), ['list', words])).toEqual({
      exitCode: 2,
      stdout: '',
      stderr: `crisp list: unknown flag ${words}; see \`crisp list --help\`\n`,
    });
  } finally {
    await rm(folder, { recursive: true });
  }
});

test('a Node that is too old is reported in one line', async () => {
  // Not a real old Node: this one reports an old version.
  const pretend = `data:text/javascript,Object.defineProperty(process.versions,'node',{value:'18.20.4'})`;
  const { exitCode, stderr } = await run(process.execPath, ['--import', pretend, bin, 'version']);
  expect(stderr).toMatch(/^crisp: Node 20\.19 or newer is required, this is 18\.20\.4 \(.*\)\n$/);
  expect(exitCode).toBe(1);
});

test('the oldest accepted Node is the one in package.json', async () => {
  const file = await readFile(new URL('../../package.json', import.meta.url), 'utf8');
  const { engines } = JSON.parse(file) as { engines: { node: string } };
  expect(await readFile(bin, 'utf8')).toContain(
    `const wanted = [${engines.node.replace('>=', '').replace('.', ', ')}];`,
  );
});
