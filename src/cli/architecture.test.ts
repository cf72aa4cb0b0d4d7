// The command line reaches backends only through the router: one file, backend.ts,
// knows concrete ones, and what it hands out is what the router chose.
import { describe, expect, test } from '@jest/globals';
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';

const folder = 'src/cli';
const files = readdirSync(folder, { recursive: true, encoding: 'utf8' }).filter(
  (name) => name.endsWith('.ts') && !name.endsWith('.test.ts'),
);

/** What a file imports, from the top of src. */
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
    '%s knows neither the daemon nor the stories of the CRI',
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
