# The main process of a CT's unit, which executes lxc-start.
#
# PVE's unit has an ExecStop, which inherits the standard streams of the unit: with the
# watcher's FIFOs there, systemd would wait for a reader that is gone when the CT has
# ended. So only lxc-start gets them, from this script.
#
# The watcher permits one start, by the file "permit". A start from the GUI has no
# permit, and is refused with a message on the unit's own stderr, which the GUI shows.
# lxc-start runs nevertheless, and fails at once, because pct waits until liblxc
# reports the end.
#
# argv: VMID BUNDLE PROGRAM ARGUMENT...; in the bundle:
#   permit       may be absent
#   stdin        a FIFO; may be absent
#   stdout, stderr   FIFOs
#   environment  NAME=value, each terminated by a NUL byte; may be absent.  Only root can
#                read it: all users of the host can read the arguments of a process.
use strict;
use warnings;
use Fcntl;
use POSIX qw(dup2);

my ($vmid, $bundle, @command) = @ARGV;

sub refuse {
    my ($why) = @_;
    print STDERR "CT $vmid is a container that crisp made, and only crisp starts it: $why\n";
    open(STDERR, '>', '/dev/null');    # the failure that follows needs no further message
    my ($program, @given) = @command;
    my @options = ();
    while (@given && $given[0] ne '-s' && $given[0] ne '--') { push @options, shift @given }
    my @hooks = map { ('-s', "lxc.hook.$_=") } qw(pre-start stop post-stop);
    exec { $program } $program, '-o', '/dev/null', @options, @hooks, '-s', 'lxc.hook.pre-start=/bin/false', '--', '/bin/false'
      or die "exec $program: $!\n";
}

# Does not wait for the other end of a FIFO.
sub take {
    my ($name, $number, $flags) = @_;
    my $end;
    sysopen($end, $name, $flags | O_NONBLOCK | O_NOFOLLOW) && -p $end or refuse("its $name has no reader ($!)");
    fcntl($end, F_SETFL, fcntl($end, F_GETFL, 0) & ~O_NONBLOCK) or die "fcntl: $!\n";
    dup2(fileno($end), $number) // die "dup2: $!\n";
}

chdir($bundle) && unlink('permit') or refuse('a container of Kubernetes is made anew and not started again');
take('stdin', 0, O_RDONLY) if -p 'stdin';
take('stdout', 1, O_WRONLY);
take('stderr', 2, O_WRONLY);

if (open(my $file, '<', 'environment')) {
    local $/ = "\0";
    while (my $entry = <$file>) {
        chomp $entry;
        my ($name, $value) = split /=/, $entry, 2;
        $ENV{$name} = $value;
    }
    close $file;
}
chdir '/';
exec { $command[0] } @command or die "exec $command[0]: $!\n";
