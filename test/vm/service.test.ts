// crisp as a service of a Debian machine: installed, started by systemd, inspected,
// restarted, killed, and running again after a reboot.
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import {
  containerStatus,
  removePods,
  runPod,
  startContainer,
  traces,
  waitForExit,
  type Pod,
} from './pods.js';
import { Vm } from './vm.js';

let vm: Vm;
beforeAll(async () => {
  vm = await Vm.start();
});
afterAll(() => vm?.stop());

/** Property of the unit. */
const show = (property: string): Promise<string> =>
  vm.must(`systemctl show --value --property=${property} crisp.service`);

/** A script that blocks the event loop of a daemon with Node's debugger. */
const block = `
import { WebSocket } from '/opt/crisp/node_modules/ws/wrapper.mjs';
const [{ webSocketDebuggerUrl }] = await (await fetch('http://127.0.0.1:9229/json')).json();
const socket = new WebSocket(webSocketDebuggerUrl);
socket.on('open', () => {
  const evaluate = { id: 1, method: 'Runtime.evaluate', params: { expression: 'for (;;);' } };
  socket.send(JSON.stringify(evaluate), () => setTimeout(() => process.exit(), 1000));
});`;

/**
 * Stalls the daemon ($old) and waits for the next one. The timeout of the installed
 * unit is shortened for the test; the daemon learns of it when it starts.
 * @param start lines of the unit
 */
function untilWatchdogEnds(stall: string, start = ''): string {
  return `mkdir -p /run/systemd/system/crisp.service.d
    printf '[Service]\\nWatchdogSec=20\\nTimeoutAbortSec=2\\n${start}' >/run/systemd/system/crisp.service.d/test.conf
    systemctl daemon-reload
    systemctl restart crisp
    old=$(systemctl show --value --property=MainPID crisp)
    since=$(date +%s)
    ${stall}
    until [ "$(systemctl show --value --property=MainPID crisp)" != "$old" ] && systemctl -q is-active crisp; do sleep 0.2; done
    journalctl -u crisp -o cat --since "@$since" | grep -q "Watchdog timeout"
    rm -r /run/systemd/system/crisp.service.d
    systemctl daemon-reload
    systemctl restart crisp`;
}

test('starts by systemd notify, and again at boot', async () => {
  expect(await show('Type')).toBe('notify');
  expect(await show('ActiveState')).toBe('active');
  expect(await show('UnitFileState')).toBe('enabled');
  expect(await show('KillMode')).toBe('process');
  expect(await show('WatchdogUSec')).toBe('1min');
  // systemd counted it as started when the socket answered, and no sooner.
  const log = await vm.must('journalctl -u crisp -o cat');
  expect(log.indexOf('"msg":"crisp is ready"')).toBeGreaterThan(-1);
  expect(log.indexOf('Started crisp.service')).toBeGreaterThan(log.indexOf('"msg":"crisp is ready"'));
});

test('systemctl status is readable', async () => {
  const status = await vm.must('systemctl status --no-pager --lines=0 crisp');
  expect(status).toContain('crisp.service - crisp container runtime');
  expect(status).toContain('Active: active (running)');
  expect(status).toMatch(/Status: "ready: crun, runc/);
  expect(status).toMatch(/CGroup: .*\n +└─\d+ .*crisp serve/);
  expect(await vm.must('man --where crisp')).toContain('crisp.1');
});

test('crisp status and crisp check report a healthy machine', async () => {
  const status = await vm.must('crisp status');
  expect(status).toMatch(/^RuntimeReady: yes$/m);
  expect(status).toMatch(/^NetworkReady: yes$/m);
  expect(status).toMatch(/^handler crun: ready/m);
  expect(status).toMatch(/^handler runc: ready/m);
  const check = await vm.must('crisp check');
  expect(check).toMatch(/^ok +Control groups: v2$/m);
  expect(check).toMatch(/^ok +Control group driver: systemd/m);
  expect(check).toMatch(/^0 failures, \d+ warnings?$/m);
});

test('a machine without pods has no leftovers, also after pods are removed', async () => {
  const before = await traces(vm);
  const pod = await runPod(vm);
  await startContainer(vm, pod, 'sleep 1000');
  expect(await traces(vm)).not.toBe(before);
  await removePods(vm);
  expect(await traces(vm)).toBe(before);
});

test('crisp run needs no daemon, and leaves nothing behind', async () => {
  const before = await traces(vm);
  const { stdout, exitCode } = await vm.run(
    'crisp run --rm --memory 64m localhost/busybox sh -c "echo hello; exit 4"',
  );
  expect([stdout, exitCode]).toEqual(['hello\n', 4]);
  expect(await vm.must('ls /run/crisp-cli/bundles')).toBe('');
  expect(await traces(vm)).toBe(before);
});

describe('containers run on', () => {
  let pod: Pod;
  let container: string;
  let pid: number;
  beforeAll(async () => {
    pod = await runPod(vm);
    container = await startContainer(
      vm,
      pod,
      'trap "exit 7" TERM; i=0; while :; do i=$((i+1)); echo tick $i; sleep 1; done',
    );
    ({ pid } = await containerStatus(vm, container));
    await vm.must('cat >/run/block.mjs', block);
  });
  afterAll(() => removePods(vm));

  test.each([
    ['systemctl restart', 'systemctl restart crisp'],
    [
      'kill -9',
      'old=$(systemctl show --value --property=MainPID crisp); kill -9 $old; until [ "$(systemctl show --value --property=MainPID crisp)" != "$old" ] && systemctl -q is-active crisp; do sleep 0.2; done',
    ],
    ['the watchdog, which ends a stopped daemon', untilWatchdogEnds('kill -STOP $old')],
    [
      'the watchdog, which ends a daemon whose loop is blocked',
      untilWatchdogEnds(
        'node /run/block.mjs',
        'ExecStart=\\nExecStart=/usr/local/bin/node --inspect -- /usr/bin/crisp serve\\n',
      ),
    ],
  ])('through %s', async (_, how) => {
    const lines = async (): Promise<number> => Number(await vm.must(`crictl logs ${container} | wc -l`));
    const before = await lines();
    await vm.must(how);
    expect(await containerStatus(vm, container)).toMatchObject({ state: 'CONTAINER_RUNNING', pid });
    expect(await vm.must(`crictl exec ${container} echo here`)).toBe('here');
    expect(await lines()).toBeGreaterThan(before);
    expect(await vm.must('systemctl is-active crisp')).toBe('active');
  });

  test('and end correctly', async () => {
    await vm.must(`crictl stop --timeout 30 ${container}`);
    expect(await waitForExit(vm, container)).toMatchObject({ exitCode: 7 });
  });
});

test('a checkpoint contains the dump of criu, and the container continues; a runtime without criu refuses', async () => {
  const script = 'echo written >/file; i=0; while :; do i=$((i+1)); echo tick $i; sleep 1; done';
  const container = await startContainer(vm, await runPod(vm, {}, 'runc'), script);
  await vm.until(`crictl logs ${container} | grep -q tick`);
  const { pid } = await containerStatus(vm, container);
  await vm.must(`crictl checkpoint --export=/var/tmp/checkpoint.tar ${container}`);
  const archive = await vm.must('tar --list --file /var/tmp/checkpoint.tar');
  expect(archive.split('\n')).toEqual(
    expect.arrayContaining([
      './config.dump',
      './spec.dump',
      './rootfs-diff.tar',
      './checkpoint/inventory.img',
      './checkpoint/pages-1.img',
      './checkpoint/core-1.img',
    ]),
  );
  const lines = Number(await vm.must(`crictl logs ${container} | wc -l`));
  await vm.until(`[ "$(crictl logs ${container} | wc -l)" -gt ${lines + 1} ]`);
  expect(await containerStatus(vm, container)).toMatchObject({ state: 'CONTAINER_RUNNING', pid });

  const plain = await startContainer(vm, await runPod(vm), script); // Debian builds crun without criu
  const { exitCode, stderr } = await vm.run(`crictl checkpoint --export=/var/tmp/other.tar ${plain}`);
  expect([exitCode === 0, stderr]).toEqual([
    false,
    expect.stringMatching(
      /Unimplemented.*Unsupported: crun checkpoint failed: unknown command checkpoint.*lacks the command/,
    ),
  ]);
  expect(await vm.must('ls /var/tmp | grep -c tar')).toBe('1');
  await vm.must('rm /var/tmp/checkpoint.tar');
  await removePods(vm);
});

test('systemctl reload applies reloadable settings', async () => {
  await vm.must(
    'mkdir -p /etc/crisp/config.d; echo "log_level: debug" >/etc/crisp/config.d/log.yaml; systemctl reload crisp',
  );
  await vm.until('journalctl -u crisp -o cat | grep -q "configuration reloaded"');
  await vm.must('rm /etc/crisp/config.d/log.yaml; systemctl reload crisp');
});

test('a reboot: what ran is gone, nothing of it is left, and new pods run', async () => {
  const before = await traces(vm);
  const pod = await runPod(vm);
  // It is the first process of its pid namespace, so SIGTERM is nothing to it: the machine waits as long as the kubelet would.
  const container = await startContainer(vm, pod, 'sleep 1000', {
    annotations: { 'io.kubernetes.pod.terminationGracePeriod': '2' },
  });
  expect(await vm.must(`systemctl show --value --property=TimeoutStopUSec crisp-${container}.scope`)).toBe(
    '2s',
  );
  await vm.reboot();
  expect(await show('ActiveState')).toBe('active');
  expect(await vm.must('crictl pods -q; crictl ps -a -q')).toBe('');
  expect(await traces(vm)).toBe(before);
  expect((await vm.run(`crictl inspect ${container}`)).stderr).toContain('NotFound');
  const again = await runPod(vm, pod.config);
  expect(await waitForExit(vm, await startContainer(vm, again, 'exit 3'))).toMatchObject({ exitCode: 3 });
  await removePods(vm);
  expect(await traces(vm)).toBe(before);
});
