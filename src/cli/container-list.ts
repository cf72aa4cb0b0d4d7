// `crisp list` and `crisp state`.
import { toCrispError } from '../errors.js';
import type { StandaloneRecord } from '../records/standalone.js';
import { setAside } from '../set-aside.js';
import { stateOf, type ContainerState } from './container-state.js';
import { ago, facts, printJson, table, time } from './output.js';
import { type Services, type PlaceFlags, withParts } from './services.js';

/** An error of one container does not hide the others. */
async function stateOrUnknown(services: Services, record: StandaloneRecord): Promise<ContainerState> {
  try {
    return await stateOf(services, record);
  } catch (error) {
    process.stderr.write(`${record.name}: ${toCrispError(error).report}\n`);
    return { status: 'unknown' };
  }
}

export async function listCommand(
  flags: PlaceFlags & { readonly json: boolean; readonly quiet: boolean },
): Promise<number> {
  return withParts(flags, async (services) => {
    let records = await services.records.all();
    if (records.some(({ removeAtEnd }) => removeAtEnd)) {
      await (await import('./container-remove.js')).removeEnded(services);
      records = await services.records.all();
    }
    const found = await Promise.all(
      records.map(async (record) => ({
        record,
        state: await stateOrUnknown(services, record),
      })),
    );
    if (flags.json) printJson(found.map(({ record, state }) => shown(record, state)));
    else if (flags.quiet) process.stdout.write(found.map(({ record }) => `${record.id}\n`).join(''));
    else {
      process.stdout.write(
        table(
          ['ID', 'NAME', 'STATUS', 'BACKEND', 'CREATED', 'IMAGE'],
          found.map(({ record, state }) => [
            record.id.slice(0, 12),
            record.name,
            inWords(state),
            record.handler,
            ago(record.createdAt),
            record.image,
          ]),
        ),
      );
    }
    for (const { name, reason } of setAside.all())
      process.stderr.write(`not listed, since this version of crisp cannot read it: ${name}: ${reason}\n`);
    return 0;
  });
}

function inWords({ status, exitCode, oomKilled }: ContainerState): string {
  if (status !== 'stopped') return status;
  return `stopped (${exitCode === undefined ? 'exit code unknown' : exitCode}${oomKilled ? ', out of memory' : ''})`;
}

export async function stateCommand(
  flags: PlaceFlags & { readonly json: boolean },
  [id = '']: readonly string[],
): Promise<number> {
  return withParts(flags, async (services) => {
    const record = await services.records.find(id);
    const state = await stateOf(services, record);
    if (flags.json) printJson(shown(record, state));
    else {
      process.stdout.write(
        facts([
          ['id', record.id],
          ['name', record.name],
          ['status', inWords(state)],
          ['pid', state.pid === undefined ? undefined : String(state.pid)],
          ['address', state.addresses?.join(', ') || undefined],
          ['ports', record.ports?.join(', ')],
          ['image', record.image],
          ['backend', `${record.handler} (${record.rule})`],
          ['bundle', record.folder],
          ['log', record.logPath],
          ['created', time(record.createdAt)],
          ['started', record.startedAt && time(record.startedAt)],
          ['finished', state.finishedAt && time(state.finishedAt)],
          ['not honoured', record.notHonoured.join(', ') || undefined],
        ]),
      );
    }
    return 0;
  });
}

/** The state of the runtime-spec (runtime.md, "State"), and additional fields of crisp. */
function shown(record: StandaloneRecord, state: ContainerState): object {
  return {
    ociVersion: '1.0.2',
    id: record.id,
    status: state.status === 'incomplete' ? 'creating' : state.status,
    ...(state.pid === undefined ? {} : { pid: state.pid }),
    bundle: record.folder,
    annotations: record.plan.annotations,
    name: record.name,
    image: record.image,
    imageId: record.imageId,
    handler: record.handler,
    rule: record.rule,
    logPath: record.logPath,
    createdAt: time(record.createdAt),
    ...(record.startedAt ? { startedAt: time(record.startedAt) } : {}),
    ...(state.finishedAt ? { finishedAt: time(state.finishedAt) } : {}),
    ...(state.exitCode === undefined ? {} : { exitCode: state.exitCode, oomKilled: state.oomKilled }),
    ...(state.addresses ? { addresses: state.addresses } : {}),
    ...(record.ports ? { ports: record.ports } : {}),
    notHonoured: record.notHonoured,
  };
}
