import { describe, expect, test } from '@jest/globals';
import { authFileFor } from './credentials.js';

const nothing = {
  username: '',
  password: '',
  auth: '',
  serverAddress: '',
  identityToken: '',
  registryToken: '',
};
const base64 = (text: string): string => Buffer.from(text).toString('base64');
const parsed = (...args: Parameters<typeof authFileFor>): unknown => {
  const text = authFileFor(...args);
  return text === undefined ? undefined : JSON.parse(text);
};
const mine = { ...nothing, username: 'me', password: 'se:cret' };

describe('authFileFor', () => {
  test('limits user and password to the repository, not the whole registry', () => {
    expect(parsed('quay.io/team/app:1', mine, undefined)).toEqual({
      auths: { 'quay.io/team/app': { auth: base64('me:se:cret') } },
      credHelpers: {},
    });
  });
  test('accepts auth unchanged', () => {
    expect(parsed('busybox', { ...nothing, auth: base64('a:b') }, undefined)).toMatchObject({
      auths: { 'docker.io/library/busybox': { auth: base64('a:b') } },
    });
  });
  test.each(['no base64 !', 'YTpi\u0000', base64('no colon'), 'YTpiY'])('refuses auth that is %j', (auth) => {
    expect(() => authFileFor('busybox', { ...nothing, auth }, undefined)).toThrow(
      expect.objectContaining({ id: 'InvalidArgument' }),
    );
  });
  test('adds the user name that skopeo requires for an identity token', () => {
    expect(parsed('quay.io/app', { ...nothing, identityToken: 'T' }, undefined)).toMatchObject({
      auths: { 'quay.io/app': { auth: base64('<token>:'), identitytoken: 'T' } },
    });
  });
  test.each([
    ['https://quay.io/v1/', true],
    ['quay.io', true],
    ['http://quay.io', true],
    ['docker.io', false],
    ['quay.io.evil.example', false],
    ['evil.example/quay.io', false],
  ])('shows credentials for %s to quay.io: %s', (serverAddress, shown) => {
    expect(parsed('quay.io/app', { ...mine, serverAddress }, undefined) !== undefined).toBe(shown);
  });
  test('knows the other names of Docker Hub', () => {
    expect(
      parsed('busybox', { ...mine, serverAddress: 'https://index.docker.io/v1/' }, undefined),
    ).toBeDefined();
  });
  test.each([
    ['no auth', undefined],
    ['an empty one', nothing],
  ])('leaves the node its own file with %s', (_, auth) => {
    expect(authFileFor('quay.io/app', auth, '{}')).toBeUndefined();
  });
  test('keeps the other entries of the node, for mirrors', () => {
    const node = {
      auths: { 'mirror.example': { auth: 'x' } },
      credHelpers: { 'quay.io': 'pass', 'gcr.io': 'gcloud' },
    };
    expect(parsed('quay.io/app', mine, JSON.stringify(node))).toEqual({
      auths: { 'mirror.example': { auth: 'x' }, 'quay.io/app': { auth: base64('me:se:cret') } },
      credHelpers: { 'gcr.io': 'gcloud' },
    });
  });
  test('does not quote a file that it cannot read', () => {
    expect(() => authFileFor('quay.io/app', mine, '{"auths": {"quay.io": open-sesame')).toThrow(
      /^images\.auth_file is not JSON/,
    );
    // JSON.parse() quotes ten characters around the mistake.
    expect(() => authFileFor('quay.io/app', mine, '{"auths": {"quay.io": open-sesame')).not.toThrow(/open/);
  });
  test('refuses a token that could only be passed in the arguments', () => {
    expect(() => authFileFor('quay.io/app', { ...nothing, registryToken: 'open-sesame' }, undefined)).toThrow(
      expect.objectContaining({ id: 'UnsupportedField' }),
    );
  });
});
