# Runs a program on a terminal of its own, for exec with a tty: Node has none to
# give, and lxc-attach makes one in the CT only when it stands on one itself.
#
#   crisp ── pipes ── pty.pl ── /dev/ptmx ── terminal ── lxc-attach ── terminal in the CT
#
# argv: SIZE_FILE PROGRAM ARGUMENT...; SIGWINCH says that SIZE_FILE ("ROWS COLUMNS")
# has a new size.  Ends as the program does.
use strict;
use warnings;
use Errno qw(EINTR);
use Fcntl qw(:DEFAULT);
use POSIX qw(setsid dup2);
# linux/ioctls.h; the same on all architectures that Proxmox has.
use constant { TIOCSCTTY => 0x540e, TIOCSWINSZ => 0x5414, TIOCGPTN => 0x80045430, TIOCSPTLCK => 0x40045431 };

my ($size_file, @command) = @ARGV;
sysopen(my $master, '/dev/ptmx', O_RDWR | O_NOCTTY) or die "ptmx: $!\n";
ioctl($master, TIOCSPTLCK, my $unlock = pack('i', 0)) or die "unlock: $!\n";
ioctl($master, TIOCGPTN, my $number = pack('I', 0)) or die "number: $!\n";
my $path = '/dev/pts/' . unpack('I', $number);

sub resize {
    open(my $file, '<', $size_file) or return;
    my ($rows, $columns) = split ' ', <$file> // '';
    ioctl($master, TIOCSWINSZ, my $size = pack('S4', $rows, $columns, 0, 0)) if $columns;
}
resize();

my $child = fork() // die "fork: $!\n";
if (!$child) {
    setsid();
    sysopen(my $terminal, $path, O_RDWR) or die "$path: $!\n";
    ioctl($terminal, TIOCSCTTY, 0);
    dup2(fileno($terminal), $_) for 0, 1, 2;
    exec { $command[0] } @command or die "$command[0]: $!\n";
}
$SIG{WINCH} = \&resize;
# The first size may have come before anybody listened.
resize();

my ($watched, $input) = ('', 1);
while (1) {
    $watched = '';
    vec($watched, fileno($master), 1) = 1;
    vec($watched, 0, 1) = 1 if $input;
    next if select(my $ready = $watched, undef, undef, undef) <= 0;
    if (vec($ready, 0, 1)) {
        my $bytes = sysread(STDIN, my $data, 8192);
        if ($bytes) { put($master, $data) } else { $input = 0; put($master, "\4") }    # its end, as a terminal has it
    }
    if (vec($ready, fileno($master), 1)) {
        my $bytes = sysread($master, my $data, 16384);
        last if !$bytes && !(!defined $bytes && $! == EINTR);                            # EIO: nobody has the terminal any more
        put(\*STDOUT, $data) if $bytes;
    }
}
waitpid($child, 0);
exit($? & 127 ? 128 + ($? & 127) : $? >> 8);

sub put {
    my ($to, $data) = @_;
    while (length $data) {
        my $written = syswrite($to, $data);
        if (!defined $written) { next if $! == EINTR; return }
        substr($data, 0, $written) = '';
    }
}
