#!/usr/bin/env bash
# npm run test:pct [-- --real] [-- JEST ARGUMENTS]: pods as Proxmox CTs; on a fake
# pct around the real liblxc, or with --real on the Proxmox VE node that this is
# run on, with its own pct (docs/proxmox.md says what the node must have).
#
# CRISP_TEST_PATIENCE: how much longer everything may take; pct is slow, so 4 with --real.
set -euo pipefail
cd "$(dirname "$0")/../.."

arguments=()
for argument in "$@"; do
  if [ "$argument" = --real ]; then export CRISP_REAL_PCT=1; else arguments+=("$argument"); fi
done
[ "$(id -u)" -eq 0 ] || { echo 'test:pct needs root: it makes containers (try: sudo npm run test:pct)' >&2; exit 1; }
if [ -n "${CRISP_REAL_PCT:-}" ]; then
  if ! command -v pct >/dev/null || [ ! -d /etc/pve/lxc ]; then
    echo 'test:pct --real runs on a node of Proxmox VE: pct or /etc/pve/lxc is missing here' >&2
    exit 1
  fi
  export CRISP_TEST_PATIENCE=${CRISP_TEST_PATIENCE:-4}
fi
bash deploy/setup.sh tests
[ -d node_modules/.bin ] || npm ci --loglevel=error
npm run --silent build
export NODE_OPTIONS=--experimental-vm-modules NODE_NO_WARNINGS=1
exec npx jest --selectProjects pct --runInBand --testTimeout $((60000 * ${CRISP_TEST_PATIENCE:-1})) "${arguments[@]}"
