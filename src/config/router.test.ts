import { describe, expect, test } from '@jest/globals';
import { checkConfig, type Config } from './config.js';
import { flagSource } from './source.js';
import { CrispError } from '../errors.js';
import { chooseHandler, route, type RouteInput } from './router.js';

function config(value: object): Config {
  return checkConfig([flagSource(value as Record<string, unknown>)]);
}
function pod(over: Partial<RouteInput> = {}): RouteInput {
  return { handler: '', namespace: 'default', name: 'web-1', labels: {}, annotations: {}, ...over };
}
function idOf(work: () => unknown): string | undefined {
  try {
    work();
  } catch (error) {
    return error instanceof CrispError ? error.id : String(error);
  }
  return undefined;
}

describe('route', () => {
  const routed = config({
    default_container_type: 'runc',
    handlers: { lxc: { type: 'pct' } },
    routing: {
      rules: [
        { namespace: 'guest-*', handler: 'lxc' },
        { labels: { app: 'web', tier: '/front|back/' }, handler: 'crun' },
        { annotations: { 'example.org/guest': '*' }, pod: 'db-?', handler: 'lxc' },
        { image: 'docker.io/library/*', handler: 'crun' },
      ],
      crun_name_patterns: ['kube-*', '/coredns-[a-z0-9]+/'],
    },
  });

  test.each<[string, Partial<RouteInput>, string, string]>([
    [
      'the RuntimeClass is before any rule',
      { handler: 'crun', namespace: 'guest-1' },
      'crun',
      'RuntimeClass handler crun',
    ],
    ['a namespace', { namespace: 'guest-1' }, 'lxc', 'routing.rules[0] (namespace "guest-*")'],
    [
      'the first rule that matches',
      { namespace: 'guest-1', labels: { app: 'web', tier: 'back' } },
      'lxc',
      'routing.rules[0] (namespace "guest-*")',
    ],
    [
      'all labels of a rule',
      { labels: { app: 'web', tier: 'back' } },
      'crun',
      'routing.rules[1] (label app "web", label tier "/front|back/")',
    ],
    ['one label of two is not enough', { labels: { app: 'web' } }, 'runc', 'default_container_type'],
    [
      'an annotation with a name',
      { name: 'db-1', annotations: { 'example.org/guest': '' } },
      'lxc',
      'routing.rules[2] (pod "db-?", annotation example.org/guest "*")',
    ],
    [
      'an annotation that is missing matches nothing, not even *',
      { name: 'db-1' },
      'runc',
      'default_container_type',
    ],
    [
      'an image, where it is known',
      { image: 'docker.io/library/busybox:latest' },
      'crun',
      'routing.rules[3] (image "docker.io/library/*")',
    ],
    ['a name pattern', { name: 'kube-proxy-x' }, 'crun', 'routing.crun_name_patterns kube-*'],
    [
      'a name pattern as an expression',
      { name: 'coredns-5d7' },
      'crun',
      'routing.crun_name_patterns /coredns-[a-z0-9]+/',
    ],
    ['the default', {}, 'runc', 'default_container_type'],
  ])('%s', (_what, input, handler, rule) => {
    expect(route(routed, pod(input))).toEqual({ handler, rule });
  });

  test.each(['kata', 'constructor', '__proto__', 'toString'])('refuses the unknown handler %s', (handler) => {
    expect(idOf(() => route(routed, pod({ handler })))).toBe('UnknownHandler');
  });

  test('a property of the prototype is not a label', () => {
    const strange = config({ routing: { rules: [{ labels: { constructor: '*' }, handler: 'runc' }] } });
    expect(route(strange, pod()).handler).toBe('crun');
  });

  test('a value that makes a backtracking engine slow is matched', () => {
    const slow = config({ routing: { rules: [{ labels: { app: '/(a+)+b/' }, handler: 'runc' }] } });
    expect(route(slow, pod({ labels: { app: 'a'.repeat(60) } })).handler).toBe('crun');
    expect(route(slow, pod({ labels: { app: `${'a'.repeat(60)}b` } })).handler).toBe('runc');
  });
});

describe('chooseHandler', () => {
  const good = { probe: { ready: true, reason: '' } };
  const bad = { probe: { ready: false, reason: 'it is broken' } };
  const handlers = (crun: typeof good, runc: typeof good) =>
    new Map([
      ['crun', crun],
      ['runc', runc],
    ]);

  test('uses the routed handler while it is ready', () => {
    expect(chooseHandler({ config: config({}), handlers: handlers(good, good) }, pod())).toEqual({
      handler: 'crun',
      rule: 'default_container_type',
    });
  });

  test('uses the fallback of a default that is not ready, and reports it', () => {
    expect(chooseHandler({ config: config({}), handlers: handlers(bad, good) }, pod())).toEqual({
      handler: 'runc',
      rule: 'default_container_type, with runc as the fallback of crun',
      insteadOf: 'crun',
    });
  });

  test('uses the fallback of a handler that a rule names', () => {
    const ruled = config({ routing: { crun_name_patterns: ['*'] }, default_container_type: 'runc' });
    expect(chooseHandler({ config: ruled, handlers: handlers(bad, good) }, pod()).handler).toBe('runc');
  });

  test('never replaces a handler that the pod requests', () => {
    expect(
      idOf(() =>
        chooseHandler({ config: config({}), handlers: handlers(bad, good) }, pod({ handler: 'crun' })),
      ),
    ).toBe('HandlerNotReady');
  });

  test('uses no fallback that the configuration does not allow', () => {
    expect(
      idOf(() => chooseHandler({ config: config({ fallback: {} }), handlers: handlers(bad, good) }, pod())),
    ).toBe('HandlerNotReady');
  });

  test('returns the reasons of all handlers if none is ready', () => {
    expect(() =>
      chooseHandler(
        { config: config({}), handlers: handlers(bad, { probe: { ready: false, reason: 'not installed' } }) },
        pod(),
      ),
    ).toThrow('crun: it is broken; runc: not installed');
  });

  test('an unprobed handler is not ready', () => {
    expect(idOf(() => chooseHandler({ config: config({ fallback: {} }), handlers: new Map() }, pod()))).toBe(
      'HandlerNotReady',
    );
  });

  test('follows a chain of fallbacks', () => {
    const chained = config({
      handlers: { youki: { type: 'oci' } },
      default_container_type: 'youki',
      fallback: { youki: 'crun', crun: 'runc' },
    });
    const chosen = chooseHandler(
      {
        config: chained,
        handlers: new Map([
          ['youki', bad],
          ['crun', bad],
          ['runc', good],
        ]),
      },
      pod(),
    );
    expect(chosen).toEqual({
      handler: 'runc',
      rule: 'default_container_type, with runc as the fallback of youki and crun',
      insteadOf: 'youki',
    });
  });
});
