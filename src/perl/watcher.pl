# The watcher of one CT, which does the work of conmon. crisp starts it before the
# CT, and it runs as long as the CT, also without crisp.
#
#   lxc-start ── FIFO stdout, stderr ──► watcher ──► log file in CRI format
#   lxc-monitord ── abstract socket ───►    │    ──► EXIT_FILE (exit code)
#   crisp ◄── socket watch: "attach", "reopen", "resize ROWS COLUMNS", "quit" ──┘
#
# With a terminal, lxc-start copies between the console of the CT and BUNDLE/console,
# of which the watcher has the other side; lxc-start's own output still comes through
# the FIFOs.
#
# Perl, because every Proxmox node has it (pct is Perl) and Node cannot connect to
# abstract sockets with the name length that liblxc uses: it pads names to 108 bytes.
#
# argv: VMID MONITOR UID LOG EXIT_FILE STDIN(none|open|once); the working folder is
# the bundle; fd 3 gets "ready" or the error.
use strict;
use warnings;
use Errno qw(EAGAIN EINTR);
use Fcntl qw(:DEFAULT);
use POSIX qw(mkfifo strftime);
use Socket;
use Time::HiRes qw(gettimeofday);

my ($vmid, $monitor_name, $uid, $log_path, $exit_file, $stdin_mode, $wants_terminal) = @ARGV;
open(my $starter, '>&=', 3) or die "fd 3: $!\n";
sub give_up { syswrite($starter, "$_[0]\n"); exit 1 }

$SIG{PIPE} = 'IGNORE';
umask 0077;

# 1. The permit for the only start of this CT (ct-start.pl), before the FIFOs: FIFOs without a permit mean that the CT was started.
open(my $permit, '>', 'permit') or give_up("permit: $!");
close $permit;

# 2. The FIFOs of the CT's streams. Owned by its process, which may open them again through /dev/stdout. Without O_NONBLOCK an open would wait for the CT.
my (%fifo, $stdin);
for my $name (qw(stdout stderr), $stdin_mode eq 'none' || $wants_terminal ? () : 'stdin') {
    unlink $name;
    mkfifo($name, 0600) && chown($uid, -1, $name) or give_up("mkfifo $name: $!");
    sysopen(my $end, $name, ($name eq 'stdin' ? O_RDWR : O_RDONLY) | O_NONBLOCK) or give_up("open $name: $!");
    if ($name eq 'stdin') { $stdin = $end } else { $fifo{$name} = $end }
}

# linux/ioctls.h; the same on all architectures that Proxmox has.
use constant { TIOCSWINSZ => 0x5414, TIOCGPTN => 0x80045430, TIOCSPTLCK => 0x40045431 };
my ($terminal, $held);
if ($wants_terminal) {
    sysopen($terminal, '/dev/ptmx', O_RDWR | O_NOCTTY | O_NONBLOCK) or give_up("ptmx: $!");
    ioctl($terminal, TIOCSPTLCK, my $unlock = pack('i', 0)) && ioctl($terminal, TIOCGPTN, my $number = pack('I', 0)) or give_up("terminal: $!");
    unlink 'console';
    symlink('/dev/pts/' . unpack('I', $number), 'console') or give_up("console: $!");
    # Kept open: otherwise opening the CT's end first would be an error.
    sysopen($held, 'console', O_RDWR | O_NOCTTY) or give_up("console: $!");
    $fifo{terminal} = $terminal;
    $stdin = $terminal if $stdin_mode ne 'none';
}

# 3. The connection that reports its end; before the CT starts, since nothing is reported twice.
my $monitor;
sub listen_to_monitor {
    socket(my $socket, AF_UNIX, SOCK_STREAM, 0) or return 0;
    connect($socket, pack_sockaddr_un("\0$monitor_name")) or return 0;
    $monitor = $socket;
    return 1;
}
listen_to_monitor() or give_up("lxc-monitord does not answer on \@$monitor_name: $!");

# 4. The socket for crisp. SIGHUP means that the bundle was lost and is a new, empty folder: its content is then restored for the running CT.
my $bundle = readlink('/proc/self/cwd');
my (%kept, $door, $door_is, $lost);
for my $name ('config.json', 'lxc.conf') {
    open(my $file, '<', $name) or next;
    local $/;
    $kept{$name} = <$file>;
}
sub restore {
    chdir $bundle or return;
    for my $name (keys %kept) {
        next if -e $name;
        open(my $file, '>', $name) or next;
        print $file $kept{$name};
    }
    # A second SIGHUP may come when it is there again: a new one would reset the connections that wait at this one.
    open_door() if door() ne $door_is;
}
sub open_door {
    unlink 'watch';
    socket($door, AF_UNIX, SOCK_STREAM, 0) && bind($door, pack_sockaddr_un('watch')) && listen($door, 16) or return 0;
    $door_is = door();
    return 1;
}
sub door { return join ':', (stat 'watch')[0, 1, 10] }    # device, inode and ctime, since an inode is used again
open_door() or give_up("socket watch: $!");
$SIG{HUP} = sub { $lost = 1 };

# Its path is a link in the bundle to a file that crisp has open (log-file.ts).
my $log;
sub open_log {
    return 1 if $log_path eq '';
    sysopen(my $new, $log_path, O_WRONLY | O_APPEND) or return 0;
    $log = $new;
    return 1;
}
open_log();
defined $log or $log_path eq '' or give_up("open $log_path: $!");

# An attached client that is slower than the CT blocks it, like the reader of a pipe, when this many bytes
# are pending; but a client that does not read half of that within this many seconds is disconnected.
use constant { FULL => 65536, PATIENCE => 10 };

my (%clients, %closed, $exited, $code, $alone_since);    # clients: fd -> { socket, line, attached, unsent, took_at, full_since, deaf, ended }
my ($to_stdin, $heard, $stdin_closes) = ('', '', 0);
syswrite($starter, "ready\n");
close $starter;

while (!$exited || !$closed{stdout} || !$closed{stderr} || behind()) {
    my ($readable, $writable) = ('', '');
    if ($lost) { $lost = 0; restore() }
    listen_to_monitor() if !$monitor && !$exited;
    my $held_up = grep { length $clients{$_}{unsent} >= FULL } behind();
    for my $handle ($door, ($monitor && !$exited ? $monitor : ()), (map { $fifo{$_} } grep { !$closed{$_} && !$held_up } keys %fifo)) { vec($readable, fileno($handle), 1) = 1 }
    # Input that the CT has not read blocks the clients that send more.
    for my $client (values %clients) { vec($readable, fileno($client->{socket}), 1) = 1 unless $client->{ended} || ($client->{attached} && length $to_stdin) }
    vec($writable, fileno($stdin), 1) = 1 if $stdin && length $to_stdin;
    vec($writable, $_, 1) = 1 for behind();
    my $alone = $closed{stdout} && $closed{stderr};    # lxc-start is gone
    my $found = select($readable, $writable, undef, ($exited || ($monitor && !$alone)) && !behind() ? undef : 1);
    next if $found < 0;
    for my $fd (behind()) {
        deliver($fd);    # also if select does not report it: it does only when a socket is three quarters empty
        my $client = $clients{$fd} or next;
        if (length $client->{unsent} >= FULL) { $client->{full_since} //= time }
        elsif (length $client->{unsent} < FULL / 2) { undef $client->{full_since} }
        drop($fd) if time - ($exited ? $client->{took_at} : $client->{full_since} // time) > PATIENCE;
    }
    for my $name (keys %fifo) { copy($name) if !$closed{$name} && vec($readable, fileno($fifo{$name}), 1) }
    for my $fd (keys %clients) { serve($fd) if vec($readable, $fd, 1) }
    feed() if $stdin && vec($writable, fileno($stdin), 1);
    if (vec($readable, fileno($door), 1) && accept(my $socket, $door)) { $clients{fileno $socket} = { socket => $socket, line => '', attached => 0, unsent => '' } }
    hear() if $monitor && !$exited && vec($readable, fileno($monitor), 1);
    # lxc-monitord may forward the message of lxc-start late, on a busy node after the end of lxc-start; and
    # a killed lxc-start has not reported the exit status of its init.
    if (!$exited && $closed{stdout} && $closed{stderr}) { $alone_since //= time; ended($code // 255) if defined $code || time - $alone_since > 5 }
}
unlink 'watch';

# Writes the CT's output in the CRI's log format; a line without an end is
# written at once, and tagged as partial.
sub copy {
    my ($name) = @_;
    my $bytes = sysread($fifo{$name}, my $data, 16384);
    return 0 if !defined $bytes && ($! == EAGAIN || $! == EINTR);
    if (!$bytes) { $closed{$name} = 1; return 0 }
    $name = 'stdout' if $name eq 'terminal';
    my ($seconds, $micros) = gettimeofday();
    my $head = strftime('%Y-%m-%dT%H:%M:%S', gmtime $seconds) . sprintf('.%06d000Z %s', $micros, $name);
    my $text = '';
    while ($data =~ /([^\n]*)(\n|\z)/g) {
        last if $2 eq '' && $1 eq '';
        $text .= "$head " . ($2 eq '' ? 'P' : 'F') . " $1\n";
    }
    put($log, $text) if $log;
    my $frame = pack('CN', $name eq 'stdout' ? 1 : 2, $bytes) . $data;
    for my $fd (grep { $clients{$_}{attached} && !$clients{$_}{deaf} } keys %clients) {
        $clients{$fd}{took_at} = time if $clients{$fd}{unsent} eq '';
        $clients{$fd}{unsent} .= $frame;
        deliver($fd);
    }
    return 1;
}

# The clients with pending output.
sub behind { return grep { length $clients{$_}{unsent} } keys %clients }

# Writes as much as an attached client accepts without blocking. In chunks, so that even a slow client reads
# one in time.
sub deliver {
    my ($fd) = @_;
    my $client = $clients{$fd};
    while (length $client->{unsent}) {
        my $sent = send($client->{socket}, substr($client->{unsent}, 0, 16384), MSG_DONTWAIT);
        if (!defined $sent) {
            return if $! == EAGAIN;
            # It does not read any more. Data that it sent before is still input.
            ($client->{unsent}, $client->{deaf}) = ('', 1);
            drop($fd) if $client->{ended};
            return;
        }
        substr($client->{unsent}, 0, $sent) = '';
        $client->{took_at} = time;
    }
    drop($fd) if $exited;
}

sub put {
    my ($to, $data) = @_;
    while (length $data) {
        my $written = syswrite($to, $data);
        if (!defined $written) { next if $! == EINTR; return 0 }
        substr($data, 0, $written) = '';
    }
    return 1;
}

# A client: one line with its command, then, for attach, the CT's input.
sub serve {
    my ($fd) = @_;
    my $client = $clients{$fd};
    my $bytes = sysread($client->{socket}, my $data, 8192);
    if (!$bytes) {
        if (!$client->{attached}) { drop($fd); return }
        $client->{ended} = 1;
        if ($stdin_mode eq 'once') { $stdin_closes = 1; feed() }
        drop($fd) if $client->{deaf};
        return;
    }
    if ($client->{attached}) { $to_stdin .= $data if $stdin; return }
    $client->{line} .= $data;
    return unless $client->{line} =~ s/^(\w+)(?: (\d+) (\d+))?\n//;
    if ($1 eq 'resize') { ioctl($terminal, TIOCSWINSZ, my $size = pack('S4', $2, $3, 0, 0)) if $terminal && defined $3; put($client->{socket}, "ok\n"); drop($fd) }
    elsif ($1 eq 'attach') { $client->{attached} = 1; $to_stdin .= $client->{line} if $stdin; put($client->{socket}, "ok\n") }
    elsif ($1 eq 'reopen') { put($client->{socket}, open_log() ? "ok\n" : "failed\n"); drop($fd) }
    elsif ($1 eq 'quit') { unlink 'watch', 'permit'; put($client->{socket}, "ok\n"); exit 0 }
    else { drop($fd) }
}

sub drop { delete $clients{$_[0]} }

# Passes input on as the CT reads it; after the last input the stream is closed, if stdin is for the first
# client only.
sub feed {
    if ($stdin && length $to_stdin) {
        my $written = syswrite($stdin, $to_stdin);
        substr($to_stdin, 0, $written) = '' if defined $written;
    }
    undef $stdin if $stdin && !length $to_stdin && $stdin_closes;
}

# lxc-monitord: { int type; char name[256]; int value }; type 2 is an exit, its
# value a status of wait(2); type 0 a state, 0 STOPPED.  The exit is reported
# first; the result of the stop hook (oom.pl) is available when the CT is
# STOPPED.
sub hear {
    my $bytes = sysread($monitor, my $data, 264 * 16);
    if (!$bytes) { undef $monitor; return }    # lxc-monitord restarts with an upgrade of its package
    $heard .= $data;
    while (length $heard >= 264) {
        my ($type, $name, $value) = unpack('iZ256i', substr($heard, 0, 264, ''));
        next unless $name eq $vmid;
        $code = $value & 127 ? 128 + ($value & 127) : $value >> 8 if $type == 2;
        if ($type == 0 && $value == 0 && defined $code) { ended($code); return }
    }
}

sub ended {
    my ($status) = @_;
    # All its output is in the FIFOs already: the log is complete before the exit is reported.
    for my $name (keys %fifo) { next if $closed{$name}; 1 while copy($name) }
    my ($folder, $file) = $exit_file =~ m{^(.*)/(.*)$};
    mkdir $folder;
    if (open(my $out, '>', "$folder/.$file")) { print $out $status; close $out; rename("$folder/.$file", $exit_file) }
    $exited = 1;
    for my $fd (grep { $clients{$_}{attached} } keys %clients) { $clients{$fd}{took_at} = time; deliver($fd) }
}
