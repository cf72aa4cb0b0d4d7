// `crisp check --images`: compares the images of the store with their digests.
import type { Config } from '../../config/config.js';
import { toCrispError } from '../../errors.js';
import type { DamagedImage } from '../../images/damage.js';
import { Repair } from '../../images/repair.js';
import { imagesOptionsOf } from '../../images/store.js';
import { failure, ok, warning, type Check, type Finding } from './check.js';

const hint = 'crisp check --images --repair';

/** @param repair whether damaged images are repaired */
export function imageChecks(repair: boolean): readonly Check[] {
  return [
    {
      id: 'images.content',
      title: 'Images',
      run: (host, config) =>
        host.uid === 0 ? checkImages(config, repair) : failure('not checked: it requires root'),
    },
  ];
}

async function checkImages(config: Config, repair: boolean): Promise<Finding[]> {
  const work = new Repair(imagesOptionsOf(config));
  const { images, unused, stray, examined } = await work.find();
  const findings: Finding[] = [];
  for (const damaged of images)
    findings.push(...(repair ? await repaired(work, damaged) : failure(inWords(damaged), hint)));
  const left = repair ? await work.removeUnused([...unused.keys()]) : [...unused.keys()];
  for (const [id, reason] of unused)
    findings.push(
      ...(left.includes(id)
        ? failure(`layer ${id}, which no image uses: ${reason}`, hint)
        : ok(`layer ${id}, which no image uses, was damaged and is removed: ${reason}`)),
    );
  for (const path of stray) findings.push(...warning(`no layer has the folder ${path}`, 'crisp gc'));
  return findings.length > 0
    ? findings
    : ok(`no damage found (images: ${examined.images}, layers: ${examined.layers})`);
}

async function repaired(work: Repair, damaged: DamagedImage): Promise<Finding[]> {
  try {
    const users = await work.repair(damaged);
    const done = `repaired: ${inWords(damaged)}`;
    return users.length > 0
      ? warning(
          `${done}; running containers keep the damaged files until they are recreated: ${users.join(', ')}`,
          `crictl rm --force ${users.join(' ')}`,
        )
      : ok(done);
  } catch (error) {
    return failure(
      `${inWords(damaged)}; not repaired: ${toCrispError(error).report}`,
      `make its registry available, or remove the image (crictl rmi ${nameOf(damaged)}) and load its archive again`,
    );
  }
}

function nameOf({ image }: DamagedImage): string {
  return image.names?.[0] ?? image.id;
}

function inWords(damaged: DamagedImage): string {
  return [
    nameOf(damaged),
    ...[...damaged.layers].map(([id, reason]) => `layer ${id}: ${reason}`),
    ...[...damaged.data].map(([name, reason]) => `${name}: ${reason}`),
    ...(damaged.incomplete === undefined ? [] : [damaged.incomplete]),
  ].join('; ');
}
