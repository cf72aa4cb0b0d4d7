#!/usr/bin/env bash
# load.sh COMMAND...: runs a command as a slow and busy machine would: with a lower
# priority than two loops that take all the time they get, one for each of two cores.
set -euo pipefail

loops=()
# A loop dies with this script, also when that is killed.
for _ in 1 2; do
  setpriv --pdeathsig KILL sh -c 'while :; do :; done' &
  loops+=($!)
done
trap 'kill "${loops[@]}"' EXIT
nice -n 5 "$@"
