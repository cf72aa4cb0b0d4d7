// Attach: a client's streams on conmon's socket BUNDLE/attach.
//
// The socket is AF_UNIX SOCK_SEQPACKET, which Node cannot open, and each packet
// from conmon opens with a byte that names the stream (2 stdout, 3 stderr), so
// packet borders matter and must not be lost in a pipe.  Perl, which every
// Debian has (perl-base is essential), takes the packets apart (docs/adr/0004).
import { Writable } from 'node:stream';
import { CrispError } from '../../errors.js';
import { runStreaming } from '../../host/run.js';
import type { ContainerRef } from '../backend.js';
import type { Io } from '../../shapes/io.js';
import { followSizes } from '../terminal-sizes.js';
import { resize } from './conmon.js';

/**
 * argv: the socket's name in the working folder.  Says "connected" in one line
 * on stderr first.  Packets go to stdout and stderr, stdin goes back in packets
 * below conmon's buffer of 32 KiB, and its end half-closes the socket.  Writes
 * block, which is the back-pressure: conmon waits for us, the container for conmon.
 */
const bridge = `
use strict; use Socket;
socket(my $s, AF_UNIX, SOCK_SEQPACKET, 0) or die "socket: $!\\n";
connect($s, sockaddr_un($ARGV[0])) or die "connect: $!\\n";
syswrite(STDERR, "connected\\n");
sub put { my ($to, $d) = @_; while (length $d) { my $n = syswrite($to, $d); exit 0 unless defined $n; substr($d, 0, $n) = '' } }
my $want = ''; vec($want, fileno($s), 1) = 1; vec($want, 0, 1) = 1;
while (1) {
  select(my $ready = $want, undef, undef, undef) > 0 or next;
  if (vec($ready, fileno($s), 1)) {
    my $n = sysread($s, my $d, 65536);
    last unless $n;
    put(ord($d) == 3 ? \\*STDERR : \\*STDOUT, substr($d, 1));
  }
  if (vec($ready, 0, 1)) {
    my $n = sysread(STDIN, my $d, 8192);
    if ($n) { defined syswrite($s, $d) or last } else { shutdown($s, 1); vec($want, 0, 1) = 0 }
  }
}
`;

const greeting = Buffer.from('connected\n');

export interface Attached {
  /** Output from now on is ours. */
  readonly connected: Promise<void>;
  /** The process closed its output, or the client went away. */
  readonly ended: Promise<void>;
}

export function attach(
  container: Pick<ContainerRef, 'id' | 'folder'>,
  io: Io,
  signal: AbortSignal,
): Attached {
  let connected: () => void;
  const whenConnected = new Promise<void>((resolve) => {
    connected = resolve;
  });
  let said: Buffer | undefined = Buffer.alloc(0);
  const stderr = new Writable({
    write(chunk: Buffer, _encoding, done) {
      if (said !== undefined) {
        said = Buffer.concat([said, chunk]);
        if (!said.subarray(0, greeting.length).equals(greeting)) {
          done();
          return;
        } // more is to come, or it says why it is not
        connected();
        chunk = said.subarray(greeting.length);
        said = undefined;
      }
      if (chunk.length === 0 || !io.stderr) done();
      else io.stderr.write(chunk, () => done());
    },
  });
  const running = runStreaming(
    ['perl', '-e', bridge, 'attach'],
    {
      stdin: io.stdin ?? undefined,
      stdout: io.stdout ?? new Writable({ write: (_chunk, _encoding, done) => done() }),
      stderr,
    },
    {
      timeoutMs: 0,
      cwd: container.folder,
      signal,
      okExitCodes: 'any',
      stage: 'attach',
    },
  );
  followSizes(io, (size) => resize(container.folder, size));
  const ended = running.ended.then(({ exitCode }) => {
    if (exitCode === 0) return;
    throw new CrispError(
      'RuntimeFailed',
      `attach failed: ${said?.toString().trim() || 'the bridge to conmon broke'}`,
      { stage: 'attach', tool: 'conmon', hint: 'a container that ends meanwhile refuses the connection' },
    );
  });
  const begun = Promise.race([whenConnected, ended]);
  begun.catch(() => undefined); // not everybody asks for it, and `ended` tells the same
  return { connected: begun, ended };
}
