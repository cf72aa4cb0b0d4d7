#!/usr/bin/env bash
# npm run demo: crisp's main job on a real pod, on private folders and a private
# network, with all set-up.  For Debian 12 and 13 with Node 20.19 or newer.
set -euo pipefail
cd "$(dirname "$0")/.."
. deploy/need-node.sh

if [ "$(id -u)" -ne 0 ]; then
  echo "demo: needs root, for namespaces, mounts and cgroups: sudo npm run demo" >&2
  exit 1
fi
step() { printf '\033[1m%s\033[0m\n' "$*"; }
step '1. Set-up'
echo '   Debian packages'
bash deploy/setup.sh tests
if [ ! -d node_modules/.bin ]; then echo '   npm ci (a minute or so)'; npm ci --loglevel=error --no-progress; fi
echo '   build'
npm run --silent build

# The rest runs in a mount namespace of its own: whatever happens, its mounts go
# with it.  A cgroup v2 tree on a v1 host (hybrid) is hidden there, since Debian
# 12's crun refuses such a host.
exec unshare --mount --propagation private sh -c '
  if mountpoint -q /sys/fs/cgroup/unified; then umount /sys/fs/cgroup/unified; fi
  exec node deploy/demo.mjs'
