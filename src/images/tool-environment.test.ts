import { expect, test } from '@jest/globals';
import { toolEnvironment } from './tool-environment.js';

test('proxies and certificates of the service are passed on in both spellings, and nothing else', () => {
  const service = {
    HTTP_PROXY: 'http://p:1',
    https_proxy: 'http://p:2',
    NO_PROXY: 'a,b',
    no_proxy: 'c',
    SSL_CERT_FILE: '/ca.pem',
    SSL_CERT_DIR: '/cas',
    SECRET: 's',
    PATH: '/x',
  };
  const { RES_OPTIONS: _, ...passed } = toolEnvironment(service, {});
  expect(passed).toEqual({
    HTTP_PROXY: 'http://p:1',
    https_proxy: 'http://p:2',
    NO_PROXY: 'a,b',
    no_proxy: 'c',
    SSL_CERT_FILE: '/ca.pem',
    SSL_CERT_DIR: '/cas',
  });
});

test('the configuration takes precedence', () => {
  expect(toolEnvironment({ NO_PROXY: 'a' }, { NO_PROXY: 'b', AWS_REGION: 'r' })).toMatchObject({
    NO_PROXY: 'b',
    AWS_REGION: 'r',
  });
});
