#!/usr/bin/env bash
# npm run bench: crisp, Debian's containerd with crun, and the floor (the bare
# commands that a pod needs) side by side, in turns, in one run; prints ratios.
# Cores are shared and noisy: read the ratios, not the milliseconds.
# `npm run bench -- streaming` does so with large transfers through exec and port-forward,
# `npm run bench -- cts` with Proxmox CTs and the bare pct, on a Proxmox VE node.
set -euo pipefail
cd "$(dirname "$0")/.."
. deploy/need-node.sh
[ "$(id -u)" -eq 0 ] || { echo 'bench: needs root: sudo npm run bench' >&2; exit 1; }
bash deploy/setup.sh tests
program=bench
case "${1:-}" in streaming | cts) program=$1; shift ;; esac
if [ "$program" != cts ] && ! command -v containerd >/dev/null; then
  echo 'bench: installing containerd, to compare with (its service is not started)' >&2
  DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 apt-get install -y -qq --no-install-recommends containerd >/dev/null
fi
[ -d node_modules/.bin ] || npm ci --loglevel=error
npm run --silent build
[ "$program" = cts ] && exec node bench/cts.mjs "$@" # systemd starts the CTs, so not in a mount namespace
exec unshare --mount --propagation private sh -c '
  mount --make-rshared /
  if mountpoint -q /sys/fs/cgroup/unified; then umount /sys/fs/cgroup/unified; fi
  exec node "bench/$0.mjs" "$@"' "$program" "$@"
