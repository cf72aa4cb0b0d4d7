# Copies between its pipes to crisp and the terminal of a process, or conmon's attach socket. Node has no pty,
# cannot receive a descriptor, and does not support SOCK_SEQPACKET.
#
#   relay.pl terminal SIZE_FILE PROGRAM ARGUMENT...
#       Runs PROGRAM on a new terminal and exits with its status.
#   relay.pl console SIZE_FILE RECVMSG PRCTL SECONDS RUNTIME ARGUMENT...
#       Runs an OCI runtime, for at most SECONDS, that starts a process, writes its pid into the file "pid"
#       and sends its terminal to the socket that replaces the argument CONSOLE.
#       Writes the line "started" to stderr, and exits with the status of the process. RECVMSG
#       and PRCTL are the numbers of these system calls.
#   relay.pl attach SOCKET ENDS
#       Writes the line "connected" to stderr, then copies stdin, stdout and stderr.
#       ENDS 1: exits at the end of stdin. 0: reports the end of stdin to conmon.
#
# SIGWINCH: SIZE_FILE ("ROWS COLUMNS") has a new size.  SIGTERM: end it now.
#
# One direction never waits for the other: all descriptors are non-blocking, and each direction has a buffer
# of its own.
use strict;
use warnings;
use Errno qw(EAGAIN EINTR);
use Fcntl qw(:DEFAULT);
use POSIX qw(setsid dup2 WNOHANG);
use Socket;
use Time::HiRes qw(time);
# linux/ioctls.h and linux/prctl.h; the same on all architectures that Debian and Proxmox have.
use constant { TIOCSCTTY => 0x540e, TIOCSWINSZ => 0x5414, TIOCGPTN => 0x80045430, TIOCSPTLCK => 0x40045431 };
use constant PR_SET_CHILD_SUBREAPER => 36;

# Pending bytes for a client at which its terminal is not read any further: the process then blocks, as on a
# slow line.
use constant TERMINAL_FULL => 65536;
# An attached client must not block its container: conmon writes the log and handles the exit only while it
# can write to this relay. This many bytes may be pending for a client; if it does not read half of that
# within this many seconds it is disconnected.
use constant { ATTACH_FULL => 8 << 20, ATTACH_PATIENCE => 1 };
# Seconds to wait for a client that does not read the last output of a process.
use constant LAST_WORDS => 10;
# conmon accepts packets of at most 32 KiB.
use constant PACKET => 8192;
use constant LAGGED => 3;

my ($ended, $gone) = (0, 0);
$SIG{PIPE} = 'IGNORE';
$SIG{CHLD} = sub { };                # interrupts select
$SIG{TERM} = sub { $ended = 1 };

# crisp is gone when the other end of stdout is closed: select(2) reports stdout as readable then.
my $watches_reader = -p STDOUT || -S STDOUT;
# Without an input stdin is /dev/null, and its end has no meaning.
my $has_input = -p STDIN || -S STDIN;

my $mode = shift @ARGV;
if ($mode eq 'terminal') { run_terminal(@ARGV) }
elsif ($mode eq 'console') { run_console(@ARGV) }
else { run_attach(@ARGV) }

sub run_terminal {
    my ($size_file, @command) = @_;
    sysopen(my $master, '/dev/ptmx', O_RDWR | O_NOCTTY) or die "ptmx: $!\n";
    ioctl($master, TIOCSPTLCK, my $unlock = pack('i', 0)) or die "unlock: $!\n";
    ioctl($master, TIOCGPTN, my $number = pack('I', 0)) or die "number: $!\n";
    my $path = '/dev/pts/' . unpack('I', $number);
    follow_size($master, $size_file);
    my $child = fork() // die "fork: $!\n";
    if (!$child) {
        $SIG{$_} = 'DEFAULT' for qw(PIPE CHLD TERM WINCH);
        setsid();
        sysopen(my $terminal, $path, O_RDWR) or die "$path: $!\n";
        ioctl($terminal, TIOCSCTTY, 0);
        dup2(fileno($terminal), $_) for 0, 1, 2;
        exec { $command[0] } @command or die "$command[0]: $!\n";
    }
    serve($master, $child);
}

sub run_console {
    my ($size_file, $recvmsg, $prctl, $patience, @command) = @_;
    syscall($prctl, PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);    # the process becomes our child when the runtime ends
    my $door;
    socket($door, AF_UNIX, SOCK_STREAM, 0) && bind($door, pack_sockaddr_un('console')) && listen($door, 1) or die "console: $!\n";
    # The path of a unix socket has room for 107 bytes.
    my $path = "/proc/$$/cwd/console";
    my $runtime = fork() // die "fork: $!\n";
    if (!$runtime) {
        $SIG{$_} = 'DEFAULT' for qw(PIPE CHLD TERM);
        setpgrp(0, 0);    # so that its children can be killed with it
        # Not /dev/null: crun makes the process the owner of its initial streams, and that file is the host's.
        pipe(my $nothing, my $nobody) or die "pipe: $!\n";
        dup2(fileno($nothing), 0);
        dup2(fileno($nobody), 1);
        exec { $command[0] } map { $_ eq 'CONSOLE' ? $path : $_ } @command or die "$command[0]: $!\n";
    }
    my ($master, $status, $deadline) = (undef, undef, time + $patience);
    while (!defined $status) {
        vec(my $ready = '', fileno($door), 1) = 1;
        $ready = '' if $master;
        if (select($ready, undef, undef, 0.05) > 0 && accept(my $connection, $door)) {
            $master = eval { received($connection, $recvmsg) } or print STDERR $@;
        }
        $status = $? if waitpid($runtime, WNOHANG) == $runtime;
        if ($ended || time > $deadline) { kill 'KILL', -$runtime; print STDERR "timeout\n" unless $ended; abandon() }
    }
    abandon() if $status;    # it has printed the reason
    open(my $file, '<', 'pid');
    my ($process) = ($file && <$file> // '') =~ /^(\d+)/;
    if (!$master || !$process) { print STDERR "the runtime sent no terminal, or no pid\n"; abandon() }
    follow_size($master, $size_file);
    syswrite(STDERR, "started\n");
    serve($master, $process);
}

# Kills everything that the runtime may have started: all these processes are or become children of this one.
sub abandon {
    for (my $left = 100; $left && waitpid(-1, WNOHANG) >= 0; $left--) {
        if (open(my $file, '<', "/proc/$$/task/$$/children")) { kill 'KILL', split ' ', <$file> // '' }
        select(undef, undef, undef, 0.02);
    }
    exit 1;
}

# recvmsg(2) of one descriptor: struct msghdr with one cmsg of SCM_RIGHTS.
sub received {
    my ($connection, $recvmsg) = @_;
    my ($text, $control) = ("\0" x 4096, "\0" x 24);
    my $parts = pack('P Q', $text, length $text);
    my $message = pack('Q L x4 P Q P Q l x4', 0, 0, $parts, 1, $control, length $control, 0);
    my $bytes;
    do { $bytes = syscall($recvmsg, fileno($connection), $message, 0) } while $bytes < 0 && $! == EINTR;
    die "recvmsg: $!\n" if $bytes < 0;
    my (undef, $level, $type, $number) = unpack('Q l l l', $control);
    return undef unless $level == SOL_SOCKET && $type == 1;
    open(my $master, '+<&=', $number) or die "terminal: $!\n";
    return $master;
}

sub follow_size {
    my ($master, $size_file) = @_;
    my $resize = sub {
        open(my $file, '<', $size_file) or return;
        my ($rows, $columns) = split ' ', <$file> // '';
        ioctl($master, TIOCSWINSZ, my $size = pack('S4', $rows, $columns, 0, 0)) if $columns;
    };
    $SIG{WINCH} = $resize;
    $resize->();    # the first signal may have come before the handler was set
}

# Copies between a terminal and crisp until the process has ended and its output is delivered; exits with its
# status.
sub serve {
    my ($master, $process) = @_;
    non_blocking($master, \*STDIN, \*STDOUT);
    my $keys = { handle => $master, buffer => '', took_at => time };
    my $screen = { handle => \*STDOUT, buffer => '', took_at => time };
    # The end of the input on a terminal (^D).
    my $input = { handle => \*STDIN, over => !$has_input, sinks => [$keys], full => 1, take => sub { $keys->{buffer} .= $_[0] }, end => sub { $keys->{buffer} .= "\4" } };
    my $output = { handle => $master, sinks => [$screen], full => TERMINAL_FULL, take => sub { $screen->{buffer} .= $_[0] }, end => sub { } };
    my ($status, $ended_at, $killed);
    while (1) {
        if (!defined $status) {
            my $child;
            while (($child = waitpid(-1, WNOHANG)) > 0) { ($status, $ended_at) = ($?, time) if $child == $process }
        }
        if (defined $status) {
            last if $ended || $gone || ($output->{over} && $screen->{buffer} eq '');
            last if time - ($screen->{took_at} > $ended_at ? $screen->{took_at} : $ended_at) > LAST_WORDS;
        }
        elsif (($ended || $gone) && !$killed) {
            kill 'KILL', -$process, $process;
            $killed = 1;
        }
        # EIO means that the terminal is not open in any process; it may be opened again while the process
        # runs.
        my $unopened = $output->{over} && !defined $status;
        turn($unopened ? 0.05 : 1, [$input, $unopened ? () : $output], [$keys, $screen]);
        $output->{over} = 0 if $unopened;
    }
    exit($status & 127 ? 128 + ($status & 127) : $status >> 8);
}

sub run_attach {
    my ($name, $ends) = @_;
    socket(my $socket, AF_UNIX, SOCK_SEQPACKET, 0) or die "socket: $!\n";
    connect($socket, pack_sockaddr_un($name)) or die "connect: $!\n";
    syswrite(STDERR, "connected\n");
    non_blocking($socket, \*STDIN, \*STDOUT, \*STDERR);
    my $to_container = { handle => $socket, buffer => '', took_at => time };
    my $stdout = { handle => \*STDOUT, buffer => '', took_at => time };
    my $stderr = { handle => \*STDERR, buffer => '', took_at => time };
    my $input = { handle => \*STDIN, over => !$has_input, sinks => [$to_container], full => 1, take => sub { $to_container->{buffer} .= $_[0] }, end => sub { } };
    # Each packet begins with a byte for the stream: 2 stdout, 3 stderr.
    my $take = sub { (ord($_[0]) == 3 ? $stderr : $stdout)->{buffer} .= substr($_[0], 1) };
    my $output = { handle => $socket, sinks => [$stdout, $stderr], full => ATTACH_FULL, take => $take, end => sub { } };
    my ($full_since, $shut, $over_since);
    while (!$ended && !$gone) {
        turn(1, [$input, $output], [$to_container, $stdout, $stderr]);
        my $held = held($output);
        if ($output->{over}) {
            $over_since //= time;
            last if !$held;
            my $moved = (sort { $b <=> $a } $over_since, $stdout->{took_at}, $stderr->{took_at})[0];
            last if time - $moved > LAST_WORDS;
        }
        if ($held >= ATTACH_FULL) { $full_since //= time }
        elsif ($held < ATTACH_FULL / 2) { undef $full_since }
        exit LAGGED if $full_since && time - $full_since > ATTACH_PATIENCE;
        if ($has_input && $input->{over} && $to_container->{buffer} eq '' && !$shut) {
            last if $ends;
            $shut = shutdown($socket, 1);
        }
    }
    exit 0;
}

sub non_blocking { for my $handle (@_) { fcntl($handle, F_SETFL, fcntl($handle, F_GETFL, 0) | O_NONBLOCK) } }

sub held { my $bytes = 0; $bytes += length $_->{buffer} for @{ $_[0]{sinks} }; return $bytes }

# Waits up to the given number of seconds until data can be copied, and copies it.
sub turn {
    my ($seconds, $sources, $sinks) = @_;
    my ($readable, $writable) = ('', '');
    for my $source (grep { !$_->{over} && held($_) < $_->{full} } @$sources) { vec($readable, fileno($source->{handle}), 1) = 1 }
    for my $sink (grep { length $_->{buffer} } @$sinks) { vec($writable, fileno($sink->{handle}), 1) = 1 }
    vec($readable, fileno(STDOUT), 1) = 1 if $watches_reader;
    return if select($readable, $writable, undef, $seconds) <= 0;
    $gone = 1 if $watches_reader && vec($readable, fileno(STDOUT), 1);
    for my $source (grep { vec($readable, fileno($_->{handle}), 1) } @$sources) {
        for (my $pieces = 0; $pieces < 16 && !$source->{over} && held($source) < $source->{full}; $pieces++) {
            my $bytes = sysread($source->{handle}, my $data, 65536);
            last if !defined $bytes && ($! == EAGAIN || $! == EINTR);
            if ($bytes) { $source->{take}->($data); next }
            $source->{over} = 1;
            $source->{end}->();
        }
    }
    deliver($_) for @$sinks;
}

sub deliver {
    my ($sink) = @_;
    while (length $sink->{buffer}) {
        my $bytes = syswrite($sink->{handle}, $sink->{buffer}, PACKET);
        if (!defined $bytes) {
            return if $! == EAGAIN || $! == EINTR;
            $sink->{buffer} = '';    # the reader is gone
            return;
        }
        substr($sink->{buffer}, 0, $bytes, '');
        $sink->{took_at} = time;
    }
}
