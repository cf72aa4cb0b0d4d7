#!/usr/bin/env bash
# `npm run test:mutation`: puts small faults into the source, one by one, and says
# which of them no unit test notices (docs/testing.md).
#   --integration        tries those with integration and pct tests as well
#   --files PREFIX,...   only sources whose path begins so
#   --changed REF        only sources that differ from REF: the short form for a change
#   --sample N           so many mutants, chosen by --seed (default 1), not all
#   --jobs N             so many processes (default 1)
#   --list               says the mutants, and runs nothing
# A mutant may remove any file and signal any process, so all of it happens in
# namespaces of its own: every mount but /tmp is read-only, and nothing is left behind.
set -euo pipefail
cd "$(dirname "$0")/../.."

if [ "${CRISP_MUTATION_INSIDE:-}" != 1 ]; then
  if [ "$(id -u)" -ne 0 ]; then
    echo "test:mutation needs root: it makes namespaces for the mutants (try: sudo npm run test:mutation)" >&2
    exit 1
  fi
  export CRISP_MUTATION_INSIDE=1
  exec unshare --mount --pid --net --ipc --uts --fork --kill-child --mount-proc bash test/mutation/run.sh "$@"
fi

findmnt -rno FSTYPE,TARGET | while read -r type target; do
  case $type:$target in
    # Groups can be made and removed; that of a test bears its name.
    *:/proc | *:/proc/* | devpts:* | cgroup:* | cgroup2:*) ;;
    *) mount -o remount,bind,ro "$target" ;;
  esac
done
mount -t tmpfs tmpfs /tmp
ip link set lo up
TMPDIR=/tmp NODE_NO_WARNINGS=1 nice -n 10 node test/mutation/run.mjs "$@"
exit $? # not by exec: a signal to the first process of a namespace has no effect without a handler
