import { CrispError } from '../errors.js';
const no = (): never => { throw new CrispError('Unsupported', 'metrics are not there yet'); };
export const listMetricDescriptors = async (): Promise<never> => no();
export const listPodSandboxMetrics = async (): Promise<never> => no();
export async function* streamPodSandboxMetrics(): AsyncGenerator<never> { no(); }
