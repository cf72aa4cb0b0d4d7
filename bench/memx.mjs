import { readFileSync } from 'node:fs';
import { makeArchives, metricsPort, run, sleep, startCrisp } from './peers.mjs';
import { podUp, podDown, withCalls } from './pods.mjs';
async function atOnce(width, n, work) { let i = 0; await Promise.all(Array.from({ length: width }, async () => { while (i++ < n) await work(); })); }
await run(async () => {
  makeArchives();
  const crisp = withCalls(await startCrisp());
  const show = async (what, ms = 5000) => {
    await sleep(ms);
    const pss = /^Pss:\s+(\d+)/m.exec(readFileSync(`/proc/${crisp.pid}/smaps_rollup`, 'utf8'))[1] / 1024;
    const anon = /^Pss_Anon:\s+(\d+)/m.exec(readFileSync(`/proc/${crisp.pid}/smaps_rollup`, 'utf8'))?.[1] / 1024;
    const text = await (await fetch(`http://127.0.0.1:${metricsPort}/metrics`)).text();
    console.log(what, pss.toFixed(0), anon.toFixed(0), text.split('\n').filter((l) => /heap|resident|external|array_buf|memory/i.test(l) && !l.startsWith('#')).slice(0, 8).join(' | '));
  };
  const pods = [];
  await atOnce(10, 150, async () => pods.push(await podUp(crisp, true)));
  await show('150 pods');
  await atOnce(10, 200, async () => podDown(crisp, await podUp(crisp, true)));
  await show('150 pods + 200 lives'); await show('10', 5000); await show('20', 10000); await show('40', 20000); await show('70', 30000);
  const { execFileSync } = await import('node:child_process');
  console.log(readFileSync(`/proc/${crisp.pid}/maps`, 'utf8').split('\n').filter((l) => /heap/.test(l)).join(' '));
  console.log(execFileSync('sh', ['-c', `awk '/^[0-9a-f]+-/{n=$6} /^Pss_Anon|^Anonymous/{if($1=="Anonymous:"){s[n==""?"anon":n]+=$2}} END{for(k in s) if(s[k]>1000) print k, s[k]}' /proc/${crisp.pid}/smaps`], { encoding: 'utf8' }));
  console.log('restart', await crisp.restart());
  await show('restarted'); await show('10', 5000); await show('40', 30000);
  await atOnce(10, 150, async () => podDown(crisp, pods.pop()));
  return true;
});
