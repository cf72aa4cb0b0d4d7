// The proto against the wire contract.
import { describe, expect, test } from '@jest/globals';
import { existsSync, readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { containerConfigOf, linuxResourcesOf, loadProto, podSandboxConfigOf } from './proto.js';
import { imageService, runtimeService } from './service.js';

const protoFile = fileURLToPath(new URL('../../proto/runtime/v1/api.proto', import.meta.url));
/** Written from a machine-readable list of the contract, which is checked against where it is at hand. */
const factsFile = fileURLToPath(new URL('../../../shared/facts/cri-v1.json', import.meta.url));

interface Contract {
  readonly enums: Record<string, Record<string, number>>;
  /** Per field number: name, type and, of some, "deprecated". */
  readonly messages: Record<string, { fields: Record<string, string[]> }>;
  readonly services: Record<string, Record<string, { request: string; response: string }>>;
}

/** Reads the text: the parser of the daemon drops comments. @throws for a line that it does not know */
function readProto(): Contract & { silent: string[] } {
  const contract = { enums: {}, messages: {}, services: {}, silent: [] as string[] } as Contract & {
    silent: string[];
  };
  const within: { kind: string; name: string }[] = [];
  let commented = false;
  for (const line of readFileSync(protoFile, 'utf8')
    .split('\n')
    .map((text) => text.trim())) {
    const { kind = '', name: owner = '' } = within.at(-1) ?? {};
    const [, opened, name = ''] = /^(service|message|enum) (\w+) \{$/.exec(line) ?? [];
    const [, call, request = '', response = ''] =
      /^rpc (\w+)\((\w+)\) returns \(((?:stream )?\w+)\);$/.exec(line) ?? [];
    const [, type = '', field, id = '', deprecated] =
      /^((?:repeated )?(?:map<\w+, \w+>|\w+)) (\w+) = (\d+)( \[deprecated = true\])?;$/.exec(line) ?? [];
    const [, value, number] = /^(\w+) = (\d+);$/.exec(line) ?? [];
    if ((opened ?? call) !== undefined && !commented) contract.silent.push(call ?? name);
    if (opened !== undefined) {
      const full = [...within.map((outer) => outer.name), name].join('.');
      within.push({ kind: opened, name: full });
      if (opened === 'message') contract.messages[full] = { fields: {} };
      else contract[opened === 'enum' ? 'enums' : 'services'][full] = {};
    } else if (line === '}') within.pop();
    else if (kind === 'service' && call !== undefined)
      (contract.services[owner] ??= {})[call] = { request, response };
    else if (kind === 'enum' && value !== undefined) (contract.enums[owner] ??= {})[value] = Number(number);
    else if (kind === 'message' && field !== undefined)
      (contract.messages[owner] ??= { fields: {} }).fields[id] = [
        field,
        type,
        ...(deprecated ? ['deprecated'] : []),
      ];
    else if (!/^(|\/\/.*|syntax = "proto3";|package runtime\.v1;)$/.test(line))
      throw new Error(`"${line}" is not understood`);
    commented = line.startsWith('//');
  }
  return contract;
}
const proto = readProto();

test('there are 43 calls, and each has its function', () => {
  const calls = Object.values(proto.services).flatMap((service) => Object.keys(service));
  expect(calls).toHaveLength(43);
  expect([...Object.keys(runtimeService), ...Object.keys(imageService)].sort()).toEqual([...calls].sort());
  const {
    runtime: { v1 },
  } = loadProto();
  expect([...Object.keys(v1.RuntimeService.service), ...Object.keys(v1.ImageService.service)].sort()).toEqual(
    calls.sort(),
  );
});

test('each service, call, message and enum has a comment', () => {
  expect(proto.silent).toEqual([]);
});

(existsSync(factsFile) ? describe : describe.skip)('the contract', () => {
  const facts = (): Contract => JSON.parse(readFileSync(factsFile, 'utf8')) as Contract;

  test('messages, with the number, name and type of each field', () => {
    expect(proto.messages).toEqual(facts().messages);
  });
  test('enums and their numbers', () => {
    expect(proto.enums).toEqual(facts().enums);
  });
  test('services, with the request and response of each call', () => {
    expect(proto.services).toEqual(facts().services);
  });
});

test.each([null, undefined, 'text', 7])('a stored message cannot be %j', (value) => {
  for (const read of [podSandboxConfigOf, containerConfigOf, linuxResourcesOf])
    expect(() => read(value)).toThrow(TypeError);
});
