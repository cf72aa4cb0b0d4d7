# Replaces a dead monitor for one purpose: to get the exit status of its
# container's first process. The kernel reports each exit on the process connector
# (linux/cn_proc.h), which only root of the host may use. Started by
# exit-watch.ts; runs as long as the process, also without crisp.
#
# argv: PID START_TIME EXIT_FILE; fd 3 gets "ready" or the error.
use strict;
use warnings;
use Errno qw(EINTR ENOBUFS);
use Socket;

# linux/netlink.h, linux/connector.h, linux/cn_proc.h
use constant { AF_NETLINK => 16, NETLINK_CONNECTOR => 11, NLMSG_DONE => 3, CN_IDX_PROC => 1, CN_VAL_PROC => 1, PROC_CN_MCAST_LISTEN => 1, PROC_EVENT_EXIT => 0x80000000 };

my ($pid, $start_time, $exit_file) = @ARGV;
open(my $starter, '>&=', 3) or die "fd 3: $!\n";
sub give_up { syswrite($starter, "$_[0]\n"); exit 1 }

sub alive {
    open(my $stat, '<', "/proc/$pid/stat") or return 0;
    my $text = <$stat> // return 0;
    my @fields = split ' ', substr($text, rindex($text, ')') + 2);
    return $fields[0] ne 'Z' && $fields[19] eq $start_time;
}

socket(my $socket, AF_NETLINK, SOCK_DGRAM, NETLINK_CONNECTOR) or give_up("socket: $!");
bind($socket, pack('SSLL', AF_NETLINK, 0, 0, CN_IDX_PROC)) or give_up("bind: $!");
my $order = pack('L', PROC_CN_MCAST_LISTEN);
my $message = pack('LLLLSS', CN_IDX_PROC, CN_VAL_PROC, 0, 0, length $order, 0) . $order;
defined send($socket, pack('LSSLL', 16 + length $message, NLMSG_DONE, 0, 0, 0) . $message, 0) or give_up("send: $!");
alive() or give_up('the process has ended');
syswrite($starter, "ready\n");
close $starter;

while (1) {
    vec(my $readable = '', fileno($socket), 1) = 1;
    my $found = select($readable, undef, undef, 5);
    if ($found <= 0) { alive() or exit 0; next }    # an exit that was not reported: the status is unknown
    # If events were lost because this process was too slow, recv fails with ENOBUFS.
    my $received = recv($socket, my $data, 4096, 0);
    if (!defined $received) { $! == EINTR || $! == ENOBUFS or exit 1; alive() or exit 0; next }
    next if length $data < 64;
    # after the headers of netlink (16) and connector (20): event, cpu, time; then pid of the thread and of
    # the process, wait(2) status
    my ($what) = unpack('L', substr($data, 36, 4));
    next if $what != PROC_EVENT_EXIT;
    my ($thread, $process, $status) = unpack('LLL', substr($data, 52, 12));
    next if $thread != $pid || $process != $pid;
    my $code = $status & 127 ? 128 + ($status & 127) : $status >> 8 & 255;
    my ($folder, $file) = $exit_file =~ m{^(.*)/(.*)$};
    if (open(my $out, '>', "$folder/.$file")) { print $out $code; close $out; rename("$folder/.$file", $exit_file) }
    exit 0;
}
