import { CrispError } from '../errors.js';
const no = (): never => { throw new CrispError('Unsupported', 'statistics are not there yet'); };
export const containerStats = async (): Promise<never> => no();
export const listContainerStats = async (): Promise<never> => no();
export const podSandboxStats = async (): Promise<never> => no();
export const listPodSandboxStats = async (): Promise<never> => no();
export async function* streamContainerStats(): AsyncGenerator<never> { no(); }
export async function* streamPodSandboxStats(): AsyncGenerator<never> { no(); }
