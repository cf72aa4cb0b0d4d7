#!/usr/bin/env bash
# npm run test:load [-- --pods N] [--minutes N] [--write-docs]: pods that run, and churn
# beside them: no call fails, and the daemon needs no more at the end than after its
# warm-up. Not part of npm test.
#
#   --pods N       pods that run all the time (200)
#   --minutes N    how long the churn takes (30)
#   --write-docs   writes the table and the plot of docs/reliability.md; use an idle machine
set -euo pipefail
cd "$(dirname "$0")/../.."
. deploy/need-node.sh

while [ $# -gt 0 ]; do
  case $1 in
    --pods) export LOAD_PODS=$2; shift 2 ;;
    --minutes) export LOAD_MINUTES=$2; shift 2 ;;
    --write-docs) export LOAD_WRITE_DOCS=1; shift ;;
    *) echo "test:load: unknown argument $1" >&2; exit 2 ;;
  esac
done
[ "$(id -u)" -eq 0 ] || { echo 'test:load needs root: sudo npm run test:load' >&2; exit 1; }
bash deploy/setup.sh tests
[ -d node_modules/.bin ] || npm ci --loglevel=error
npm run --silent build
export NODE_OPTIONS=--experimental-vm-modules NODE_NO_WARNINGS=1
exec npx jest --selectProjects load
