// The same Debian packages in three places: the tools of `crisp check`, the dependencies
// of the package, and the packages that deploy/setup.sh installs for a checkout.
import { expect, test } from '@jest/globals';
import { readFileSync } from 'node:fs';
import { installed } from '../../installed.js';
import { tools } from './tools.js';

/** On every Debian and Ubuntu (Essential: yes); a package does not depend on them (Debian policy 3.5). */
const essential = ['util-linux', 'perl-base'];
/** Required only by the Node.js in the package. */
const libraries = ['libc6', 'libstdc++6'];

const control = readFileSync(installed('deploy/debian/control'), 'utf8');
const setup = readFileSync(installed('deploy/setup.sh'), 'utf8');

/** The names in a field of the control file, including alternatives. */
function packagesOf(field: string): string[] {
  const [, text = ''] = new RegExp(`^${field}: (.*)$`, 'm').exec(control) ?? [];
  return text.split(/[,|]/).map((item) => item.trim().replace(/ .*/, ''));
}

/** The packages that setup.sh installs without the argument "tests". */
function packagesOfSetup(): string[] {
  const [, list = ''] = /^packages=\(\n([\s\S]*?)^\)/m.exec(setup) ?? [];
  return list
    .split('\n')
    .flatMap((line) => line.replace(/#.*/, '').trim().split(/\s+/))
    .filter(Boolean);
}

test('deploy/setup.sh installs what the package depends on', () => {
  expect(
    packagesOfSetup()
      .filter((name) => !essential.includes(name))
      .sort(),
  ).toEqual(
    packagesOf('Depends')
      .filter((name) => !libraries.includes(name))
      .sort(),
  );
});

test('each program that crisp check looks for is of a package that crisp names', () => {
  const named = [...packagesOf('Depends'), ...packagesOf('Suggests'), ...essential];
  expect(tools.map((tool) => tool.package).filter((name) => !named.includes(name))).toEqual([]);
});
