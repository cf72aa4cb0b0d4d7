#!/usr/bin/env bash
# try.sh NAME SECONDS MUTANT JEST-ARGUMENTS...: runs integration tests on /tmp/tree with a mutant on, or
# without one ("") to see which are reached. Called by integration.mjs, which reads "ready", the notes of
# switch.mjs, and "passed". The tests and the mutant have namespaces, files and control groups of their
# own, which are removed at the end.
set -euo pipefail
name=$1 seconds=$2 mutant=$3
shift 3
trees=$(findmnt -rno TARGET -t cgroup,cgroup2)

if [ "$CRISP_MUTATION_INSIDE" = 1 ]; then
  for tree in $trees; do
    mkdir "$tree/$name"
    # A group of v1 without processors takes no process.
    for file in cpuset.cpus cpuset.mems; do
      if [ -e "$tree/$file" ]; then cat "$tree/$file" >"$tree/$name/$file"; fi
    done
  done
  CRISP_MUTATION_INSIDE=try timeout --foreground --signal KILL "$seconds" \
    unshare --mount --pid --net --ipc --uts --fork --kill-child --mount-proc \
    bash "$0" "$name" "$seconds" "$mutant" "$@" || true # it has said whether they passed
  # A process that is frozen does not end.
  for tree in $trees; do
    find "$tree/$name" -name freezer.state -exec sh -c 'echo THAWED >"$1"' sh {} \;
  done
  for tree in $trees; do
    for _ in {1..100}; do
      find "$tree/$name" -depth -type d -exec rmdir {} + 2>/dev/null && break
      sleep 0.1 # its processes are still ending
    done
  done
  exit
fi
if [ "$CRISP_MUTATION_INSIDE" = try ]; then
  # Only now: the parents stay outside of the groups, which become the roots of all trees.
  for tree in $trees; do echo 0 >"$tree/$name/cgroup.procs"; done
  CRISP_MUTATION_INSIDE=groups exec unshare --cgroup bash "$0" "$name" "$seconds" "$mutant" "$@"
fi

for folder in /run /var/tmp /var/cache; do mount -t tmpfs tmpfs "$folder"; done
mkdir /run/lock
mount -t tmpfs tmpfs /mnt
mkdir /mnt/tree /mnt/upper /mnt/work
mount -t overlay -o lowerdir=/tmp/tree,upperdir=/mnt/upper,workdir=/mnt/work overlay /mnt/tree
mount --move /mnt /tmp
# Their groups take the places of the trees, and on v1 the folder that the trees are in is one of their own:
# crun makes folders in it.
if [ "$(stat --file-system --format %T /sys/fs/cgroup)" = tmpfs ]; then
  mount -t tmpfs tmpfs /mnt
  find /sys/fs/cgroup -maxdepth 1 -type l -exec cp --no-dereference {} /mnt \;
  for tree in $trees; do
    mkdir "/mnt/${tree##*/}"
    mount --bind "$tree/$name" "/mnt/${tree##*/}"
  done
else
  mount --bind "/sys/fs/cgroup/$name" /mnt
fi
# That of this network namespace. The second one is not read-only, as otherwise the kernel refuses a sysfs to
# user namespaces, which lxc-start mounts.
umount --recursive /sys
mkdir /tmp/sys
for folder in /sys /tmp/sys; do mount -t sysfs sysfs "$folder"; done
mount -o remount,bind,ro /sys
mount --move /mnt /sys/fs/cgroup
# A group of v2 with processes gives no controllers to those below it, unless it is the host's root.
for tree in $(findmnt -rno TARGET -t cgroup2); do
  mkdir "$tree/tests"
  echo $$ >"$tree/tests/cgroup.procs"
  sed 's/[^ ]\+/+&/g' "$tree/cgroup.controllers" >"$tree/cgroup.subtree_control"
done
ip link set lo up
renice --priority 0 $$ >/tmp/said # that of a service, which tests check
cd /tmp/tree
echo "$mutant" >mutant
: >notes
echo ready
passed=passed
node --experimental-vm-modules node_modules/jest/bin/jest.js \
  --config test/mutation/integration.config.mjs --runInBand --forceExit "$@" >/tmp/said 2>&1 || passed=
cat notes
tail -n 40 /tmp/said >&2
echo $passed
