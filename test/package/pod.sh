#!/bin/sh
# Runs inside a root that run.sh has made: a namespace with this root as its own, for
# as long as this process lives. The cgroup v2 tree beside v1's (a hybrid host) is
# hidden, since Debian 12's crun refuses such a host.
#   pod.sh ROOT
set -e
ip link set lo up # crictl exec goes through the streaming server on 127.0.0.1
mount --make-rprivate /
mount --bind "$1" "$1"
cd "$1"
mount -t proc proc proc # of this pid namespace
for folder in sys dev; do mount --rbind "/$folder" "$folder"; done
if mountpoint -q sys/fs/cgroup/unified; then umount sys/fs/cgroup/unified; fi
mount -t tmpfs -o mode=755 run run
pivot_root . mnt
# The new root has no mount(8), and need not have: crisp does without.
/mnt/bin/busybox mount --make-rshared /
/mnt/bin/busybox umount -l /mnt
# catatonit reaps what loses its parent.
exec /usr/bin/catatonit -- /bin/sleep infinity
