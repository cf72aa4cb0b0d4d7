# NOT systemd: pve-container@VMID.service of the fake node, from its start to its end.
#
# As PVE has it, the unit has an ExecStop (pve-container-stop-wrapper), which
# systemd also runs when the CT has ended by itself, with the unit's own standard
# streams, and for which it waits.  What this wrapper does besides (a CT that wants
# a reboot is started again) is not here.
#
#   unit.pl STATE_FILE STOP_SECONDS STDIN STDOUT STDERR PROGRAM ARGUMENT...
#
# Ends when the main process has ended, with 1 where that has failed.  STATE_FILE says "active", "deactivating" or
# "failed", and is gone when systemd would have forgotten the unit.
use strict;
use warnings;
use Fcntl;
use POSIX qw(setsid dup2 _exit);

my ($state_file, $stop_seconds, $stdin, $stdout, $stderr, @command) = @ARGV;
setsid();
chdir '/';
%ENV = (PATH => $ENV{PATH});

# An end of a FIFO is waited for, as systemd waits for it.
sub execute {
    my @words = @_;
    my $child = fork() // die "fork: $!\n";
    return $child if $child;
    my $append = O_WRONLY | O_APPEND | O_CREAT;
    my @streams = ([$stdin, O_RDONLY, 0], [$stdout, $append, 1], [$stderr, $append, 2]);
    for my $stream (@streams) {
        my ($path, $flags, $number) = @$stream;
        sysopen(my $file, $path, $flags, 0640) or _exit(209);
        dup2(fileno($file), $number);
    }
    exec { $words[0] } @words or _exit(203);
}

sub note {
    my ($state) = @_;
    open(my $file, '>', "$state_file.new") or die "$state_file: $!\n";
    print $file $state;
    close $file;
    rename("$state_file.new", $state_file) or die "$state_file: $!\n";
}

note('active');
waitpid(execute(@command), 0);
my $failed = $? != 0;
note('deactivating');
exit $failed if fork();
my $stop = execute('/bin/true');
local $SIG{ALRM} = sub { kill 'KILL', $stop; note('failed'); exit 1 };
alarm $stop_seconds;
waitpid($stop, 0);
unlink $state_file;
