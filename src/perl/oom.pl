# Run by liblxc as lxc.hook.stop of a CT: after its last process has ended, and
# before its cgroup with the count of OOM kills is removed.
# argv: BUNDLE FILE... (and arguments of liblxc, which are not files)
use strict;
use warnings;

my ($bundle, @files) = @ARGV;
for my $file (@files) {
    open(my $events, '<', $file) or next;
    next unless join('', <$events>) =~ /^oom_kill [1-9]/m;
    open(my $mark, '>', "$bundle/oom");
    last;
}
