// The rules of docs/adr/ADR-001.md that the source itself shows. The report on the
// architecture (docs/architecture/CONFORMANCE_REPORT.md) names these tests.
import { describe, expect, test } from '@jest/globals';
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';

const folder = 'src/cli';
const files = readdirSync(folder, { recursive: true, encoding: 'utf8' }).filter(
  (name) => name.endsWith('.ts') && !name.endsWith('.test.ts'),
);

/** The sources below a folder, without tests, as paths from the top of the repository. */
function sourcesOf(folder: string): string[] {
  return readdirSync(folder, { recursive: true, encoding: 'utf8' })
    .filter(
      (name) => /\.(ts|pl)$/.test(name) && !name.endsWith('.test.ts') && !name.startsWith('cri/generated'),
    )
    .map((name) => join(folder, name));
}

/** The text of a source without its comment lines. */
function codeOf(path: string): string {
  return readFileSync(path, 'utf8').replace(/^\s*(\/\/|\/?\*|#).*$/gm, '');
}

describe('routing', () => {
  test('the router alone chooses the handler of a pod or of a standalone container', () => {
    const callers = sourcesOf('src').filter((path) => /\bchooseHandler\(/.test(codeOf(path)));
    expect(callers.sort()).toEqual([
      'src/cli/backend.ts', // crisp run, create and explain
      'src/cli/check/handlers.ts', // asks whether a pod that names nothing would find a handler
      'src/config/router.ts',
      'src/cri/sandbox-run.ts', // RunPodSandbox
    ]);
  });

  test('backends are built in one place', () => {
    const builders = sourcesOf('src').filter((path) => /\bnew (OciBackend|PctBackend)\(/.test(codeOf(path)));
    expect(builders).toEqual(['src/backends/build.ts']);
  });
});

describe('Proxmox containers', () => {
  test('pct manages their lifecycle: no other program creates, starts, stops or destroys one', () => {
    const others = /['"`](?:\/usr\/bin\/)?lxc-(create|destroy|start|stop|execute|copy|snapshot|autostart)\b/;
    const found = sourcesOf('src').filter((path) => others.test(codeOf(path)));
    // The drop-in of the unit that pct starts repeats PVE's own ExecStart.
    expect(found).toEqual(['src/backends/pct/unit.ts']);
  });
});

describe('OCI containers', () => {
  test('crun and runc have one implementation, which names neither', () => {
    const named = sourcesOf('src/backends/oci').filter((path) => /'(crun|runc)'/.test(codeOf(path)));
    expect(named).toEqual([]);
  });
});

describe('doc comments', () => {
  const folders = 'backends config cri host images network oci pod records shapes streaming'.split(' ');

  test.each(folders)('every exported function and class of src/%s has one', (name) => {
    const bare = /(?<!\*\/\n)^export (?:async )?(?:function\*?|class) \w+/gm;
    const sources = sourcesOf(join('src', name)).filter(
      (path) => path.endsWith('.ts') && !path.startsWith('src/cri/generated'),
    );
    expect(sources).not.toEqual([]);
    expect(
      sources.flatMap((path) =>
        (readFileSync(path, 'utf8').match(bare) ?? []).map((found) => `${path}: ${found}`),
      ),
    ).toEqual([]);
  });
});

/** The imports of a file, as paths below src. */
function importsOf(name: string): string[] {
  const text = readFileSync(join(folder, name), 'utf8');
  return [...text.matchAll(/(?:from|import\()\s*'(\.[^']+)'/g)].map(([, path = '']) =>
    join(folder, name, '..', path).replace(/^src\//, ''),
  );
}

describe('the command line', () => {
  test('has files to look at', () => {
    expect(files).toContain('backend.ts');
    expect(importsOf('backend.ts')).toEqual(
      expect.arrayContaining(['config/router.js', 'backends/oci/backend.js']),
    );
  });

  test.each(files.filter((name) => name !== 'backend.ts'))('%s knows no concrete backend', (name) => {
    expect(
      importsOf(name).filter((path) => path.startsWith('backends/') && path !== 'backends/backend.js'),
    ).toEqual([]);
  });

  test.each(files.filter((name) => name !== 'serve.ts'))(
    '%s imports neither the daemon nor the CRI calls',
    (name) => {
      const allowed = /^cri\/(generated\/|proto\.js$)/;
      expect(
        importsOf(name).filter(
          (path) => path === 'daemon.js' || (path.startsWith('cri/') && !allowed.test(path)),
        ),
      ).toEqual([]);
    },
  );

  test('a new container gets the backend that the router chose', () => {
    const text = readFileSync(join(folder, 'backend.ts'), 'utf8');
    const routeTo = text.slice(
      text.indexOf('export async function routeTo'),
      text.indexOf('export function open'),
    );
    expect(routeTo).toContain('chooseHandler({ config, handlers }, input)');
    expect(readFileSync(join(folder, 'container-create.ts'), 'utf8')).toContain('await routeTo(');
  });
});
