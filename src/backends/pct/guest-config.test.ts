import { describe as group, expect, test } from '@jest/globals';
import { describe, recoveryLine, parseGuestConfig } from './guest-config.js';

const mark = { owner: 'pve1 /run/crisp', containerId: 'c0ffee'.padEnd(64, '0'), vmid: '900001' };
/** A description in PVE's format: each line is an escaped comment. */
function written(description: string): string {
  return description
    .split('\n')
    .map((line) => `#${encodeURIComponent(line).replaceAll('%20', ' ').replaceAll('%2F', '/')}\n`)
    .join('');
}

group('the mark in a description', () => {
  test('is read back from the escaped notes of PVE', () => {
    const text = `${written(describe(['Pod default/wéb: 100%'], mark))}arch: amd64\ntags: crisp;default\n`;
    expect(text).toContain('%3A');
    expect(parseGuestConfig(text)).toMatchObject({
      tags: ['crisp', 'default'],
      mark,
      values: { arch: 'amd64' },
    });
    expect(parseGuestConfig(text).description).toContain('Pod default/wéb: 100%');
  });

  test('is not taken from text of a pod', () => {
    const text = written(
      describe(['Image x\ncrisp-owner: pve1 /run/crisp\r\u2028crisp-container: other'], mark),
    );
    expect(parseGuestConfig(text).mark).toEqual(mark);
  });

  test('does not count if it is repeated or incomplete', () => {
    const whole = written(describe([], mark));
    expect(parseGuestConfig(whole + written('crisp-container: other')).mark).toBeUndefined();
    expect(parseGuestConfig(written('crisp-owner: pve1 /run/crisp')).mark).toBeUndefined();
    expect(parseGuestConfig('#100% mine\nhostname: x\n')).toMatchObject({
      mark: undefined,
      description: '100% mine',
    });
  });

  test('and tags count only in the current section, not in a snapshot', () => {
    const text = `hostname: x\n[before]\n${written(describe([], mark))}tags: crisp\n`;
    expect(parseGuestConfig(text)).toMatchObject({
      tags: [],
      mark: undefined,
      values: { hostname: 'x' },
    });
  });

  test('contains a container id, never a path', () => {
    for (const containerId of ['../../../x', '/etc', 'c0ffee', '..', 'crisp-probe-../x-1-1'])
      expect(parseGuestConfig(written(describe([], { ...mark, containerId }))).mark).toBeUndefined();
    const probe = { ...mark, containerId: 'crisp-probe-lxc-17-0' };
    expect(parseGuestConfig(written(describe([], probe))).mark).toEqual(probe);
  });
});

test('a recovery label is a text with a seal; any other text has no valid seal', () => {
  const kept = { text: 'q1ZKLC/+A==', seal: '0f'.repeat(32) };
  const text = `tags: crisp\n${recoveryLine(kept)}\nlxc.include: /x\n`;
  expect(parseGuestConfig(text)).toMatchObject({ recoveryLabel: kept, values: { 'lxc.include': '/x' } });
  expect(parseGuestConfig('tags: crisp\n').recoveryLabel).toBeUndefined();
  for (const bad of [
    `${text}${recoveryLine(kept)}\n`,
    '#<!-- crisp-recovery AAAA -->\n',
    '#<!-- crisp-recovery\n',
  ])
    expect(parseGuestConfig(bad).recoveryLabel).toEqual({ text: '', seal: '' });
});
