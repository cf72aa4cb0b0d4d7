// Stop signals, by their names in the CRI, in an image and in the kernel.
import { constants } from 'node:os';
import type { Signal__Output as Signal } from '../cri/generated/runtime/v1/Signal.js';

/** glibc's range of real-time signals (signal(7)). */
const realTimeMin = 34;
const realTimeMax = 64;

/** The number of a CRI signal name; SIGTERM by default. */
export function signalNumber(signal: Signal): number {
  const name = signal.replace(/^SIGNAL_/, '');
  const realTime = /^SIGRT(MIN|MAX)(?:PLUS(\d+)|MINUS(\d+))?$/.exec(name);
  if (realTime)
    return (
      (realTime[1] === 'MIN' ? realTimeMin : realTimeMax) +
      Number(realTime[2] ?? 0) -
      Number(realTime[3] ?? 0)
    );
  if (name === 'SIGCLD') return constants.signals.SIGCHLD;
  return constants.signals[name as NodeJS.Signals] ?? constants.signals.SIGTERM;
}

/**
 * The stop signal of a container: from the request, otherwise from the image, otherwise SIGTERM. An
 * image names it "SIGQUIT", "QUIT", "SIGRTMIN+3" or by number (OCI image-spec, config.StopSignal).
 */
export function stopSignal(requested: Signal, ofImage: string | undefined): Signal {
  if (requested !== 'SIGNAL_RUNTIME_DEFAULT') return requested;
  const text = (ofImage ?? '').trim().toUpperCase();
  if (/^\d+$/.test(text)) {
    const name = Object.entries(constants.signals).find(([, number]) => number === Number(text))?.[0];
    return name ? (`SIGNAL_${name}` as Signal) : realTimeName(Number(text));
  }
  const name = text.replace(/^SIG/, '').replace('+', 'PLUS').replace('-', 'MINUS');
  return name && (`SIG${name}` in constants.signals || /^RT(MIN|MAX)/.test(name))
    ? (`SIGNAL_SIG${name}` as Signal)
    : 'SIGNAL_SIGTERM';
}

function realTimeName(number: number): Signal {
  if (number < realTimeMin || number > realTimeMax) return 'SIGNAL_SIGTERM';
  const above = number - realTimeMin;
  return (
    above === 0
      ? 'SIGNAL_SIGRTMIN'
      : above <= 15
        ? `SIGNAL_SIGRTMINPLUS${above}`
        : number === realTimeMax
          ? 'SIGNAL_SIGRTMAX'
          : `SIGNAL_SIGRTMAXMINUS${realTimeMax - number}`
  ) as Signal;
}
