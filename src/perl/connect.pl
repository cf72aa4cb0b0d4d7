#!/usr/bin/perl
# Connects to localhost:PORT, IPv4 first, in the network namespace that it is
# started in, and hands the connection to the Node process that started it.
# Called by port-forward.ts: connect.pl PORT SENDMSG, the latter the number of
# sendmsg(2) on this architecture.
#
# Descriptor 3 is the channel that Node has to its children.  With the line below
# a child of Node's own hands over a socket (NODE_HANDLE in child_process.js of
# Node's library); it goes when that is acknowledged, since what is on its way to
# a channel that is closed may be lost.
use strict; use Fcntl; use Socket qw(:DEFAULT AF_INET6 inet_pton pack_sockaddr_in6);
my ($port, $sendmsg) = @ARGV;
my @refused;
for (["127.0.0.1", AF_INET, pack_sockaddr_in($port, inet_aton("127.0.0.1"))], ["[::1]", AF_INET6, pack_sockaddr_in6($port, inet_pton(AF_INET6, "::1"))]) {
  my ($name, $family, $address) = @$_;
  my $socket;
  socket($socket, $family, SOCK_STREAM, 0) && connect($socket, $address) or do { push @refused, "$name:$port: $!"; next };
  fcntl($socket, F_SETFL, O_NONBLOCK) or die "fcntl: $!\n";                                           # libuv takes it as it comes
  my $line = qq({"cmd":"NODE_HANDLE","type":"net.Socket","msg":"connected"}\n);
  my $parts = pack("P Q", $line, length $line);
  my $control = pack("Q l l l x4", 20, SOL_SOCKET, 1, fileno $socket);                                # cmsg(3): SCM_RIGHTS
  my $message = pack("Q L x4 P Q P Q l x4", 0, 0, $parts, 1, $control, length $control, 0);           # struct msghdr
  syscall($sendmsg, 3, $message, 0) == length $line or die "sendmsg: $!\n";
  open(my $channel, "+<&=", 3) or die "channel: $!\n";
  sysread($channel, my $acknowledged, 4096);
  exit 0;
}
print STDERR join(", ", @refused);
exit 1;
