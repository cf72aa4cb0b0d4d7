# The main process of a CT's unit, which becomes lxc-start.
#
# PVE's unit has an ExecStop, which inherits the standard streams that the unit
# names: with the FIFOs of the watcher there, systemd would wait for a reader that
# is gone when the CT has ended.  So lxc-start alone gets them, from here.
#
# The watcher lets one start happen: the file "permit" is the right to it.  A start
# from the GUI has none, and is refused where the GUI shows it: the unit's own
# stderr.  lxc-start runs all the same, and fails at once, because pct waits until
# liblxc tells of an end.
#
# argv: VMID BUNDLE PROGRAM ARGUMENT...; in the bundle:
#   permit       may be absent
#   stdin        a FIFO; may be absent
#   stdout, stderr   FIFOs
#   environment  NAME=value, each ended by a zero byte; may be absent.  Only root can
#                read it: the arguments of a process are open to all users of the host.
use strict;
use warnings;
use Fcntl;
use POSIX qw(dup2);

my ($vmid, $bundle, @command) = @ARGV;

sub refuse {
    my ($why) = @_;
    print STDERR "CT $vmid is a container that crisp made, and only crisp starts it: $why\n";
    open(STDERR, '>', '/dev/null');    # of the end that follows there is nothing more to say
    my ($program, @given) = @command;
    my @options = ();
    while (@given && $given[0] ne '-s' && $given[0] ne '--') { push @options, shift @given }
    my @hooks = map { ('-s', "lxc.hook.$_=") } qw(pre-start stop post-stop);
    exec { $program } $program, '-o', '/dev/null', @options, @hooks, '-s', 'lxc.hook.pre-start=/bin/false', '--', '/bin/false'
      or die "exec $program: $!\n";
}

# The end of a FIFO that nobody has the other end of is not waited for.
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
