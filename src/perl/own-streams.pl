# Runs a program that passes its standard streams on to a container, such as an OCI
# runtime, with pipes without a peer instead of /dev/null: that file is the host's,
# the process could change its mode, and crun makes the root of a user namespace
# its owner. conmon itself opens /dev/null. Started by conmon:
# own-streams.pl PROGRAM ARGUMENT...
use strict;
use warnings;
use POSIX qw(dup2);

my $null = (stat '/dev/null')[6];
for my $stream (\*STDIN, \*STDOUT, \*STDERR) {
    next unless -c $stream && (stat _)[6] == $null;
    pipe(my $reader, my $writer) or die "pipe: $!\n";
    dup2(fileno($stream == \*STDIN ? $reader : $writer), fileno $stream) // die "dup2: $!\n";
}
exec { $ARGV[0] } @ARGV or die "$ARGV[0]: $!\n";
