// Attach: a client's streams on conmon's socket BUNDLE/attach.
//
// conmon 2.1 writes to an attached client with blocking calls, and while it is
// blocked it neither reads the output of the container, nor writes the log, nor
// handles the exit. So relay.pl always reads the output, and a client that is too
// slow is disconnected (docs/adr/0004).
import { Writable } from 'node:stream';
import { CrispError } from '../../errors.js';
import { runStreaming } from '../../host/run.js';
import type { ContainerRef } from '../backend.js';
import type { Io } from '../../shapes/io.js';
import { laggedCode, relay } from '../relay.js';
import { followSizes } from '../terminal-sizes.js';
import { resize } from './conmon.js';

const greeting = Buffer.from('connected\n');

/**
 * Resolves when the process has closed its output, or at the end of input for a session that ends with it.
 * @throws Cancelled if the client disconnected, ClientTooSlow, RuntimeFailed
 */
export async function attach(
  container: Pick<ContainerRef, 'id' | 'folder'>,
  io: Io,
  signal: AbortSignal,
): Promise<void> {
  let said: Buffer | undefined = Buffer.alloc(0);
  const stderr = new Writable({
    write(chunk: Buffer, _encoding, done) {
      if (said !== undefined) {
        said = Buffer.concat([said, chunk]);
        if (!said.subarray(0, greeting.length).equals(greeting)) {
          done();
          return;
        } // more output follows, or the reason of the failure
        chunk = said.subarray(greeting.length);
        said = undefined;
      }
      if (chunk.length === 0 || !io.stderr) done();
      else io.stderr.write(chunk, () => done());
    },
  });
  const running = await runStreaming(
    ['perl', relay, 'attach', 'attach', io.endsWithStdin ? '1' : '0'],
    { stdin: io.stdin, stdout: io.stdout ?? nowhere(), stderr },
    { timeoutMs: 0, cwd: container.folder, signal, okExitCodes: 'any', stage: 'attach' },
  );
  followSizes(io, (size) => resize(container.folder, size));
  const { exitCode } = await running.ended;
  if (exitCode === laggedCode)
    throw new CrispError(
      'ClientTooSlow',
      'the client did not take the output of the container in time, and 8 MiB wait for it',
      { stage: 'attach' },
    );
  if (exitCode !== 0)
    throw new CrispError(
      'RuntimeFailed',
      `attach failed: ${said?.toString().trim() || 'the bridge to conmon broke'}`,
      { stage: 'attach', tool: 'conmon', hint: 'a container that ends meanwhile refuses the connection' },
    );
}

/** For output that was not requested; still a pipe, so that the relay detects the end of crisp. */
function nowhere(): Writable {
  return new Writable({ write: (_chunk, _encoding, done) => done() });
}
