# Starts lxc-start with variables in its own environment, from a file that only
# root can read: the arguments of a process are open to all users of the host.
# argv: FILE PROGRAM ARGUMENT...; FILE holds NAME=value, each ended by a zero byte.
use strict;
use warnings;

my ($path, @command) = @ARGV;
open(my $file, '<', $path) or die "open $path: $!\n";
{
    local $/ = "\0";
    while (my $entry = <$file>) {
        chomp $entry;
        my ($name, $value) = split /=/, $entry, 2;
        $ENV{$name} = $value;
    }
}
close $file;
exec { $command[0] } @command or die "exec $command[0]: $!\n";
