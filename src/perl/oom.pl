# Run by liblxc as lxc.hook.stop of a CT: after its last process, and before its
# cgroup is gone, and with it the count of kills for lack of memory.
# argv: BUNDLE FILE... (and what liblxc adds, which are no files)
use strict;
use warnings;

my ($bundle, @files) = @ARGV;
for my $file (@files) {
    open(my $events, '<', $file) or next;
    next unless join('', <$events>) =~ /^oom_kill [1-9]/m;
    open(my $mark, '>', "$bundle/oom");
    last;
}
