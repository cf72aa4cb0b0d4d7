#!/usr/bin/env bash
# npm run test:kubelet: static pods of a real kubelet on crisp.  Builds the
# kubelet from its Go module first (once, a few minutes, into a cache folder).
set -euo pipefail
cd "$(dirname "$0")/../.."
if ! command -v go >/dev/null; then
  echo 'skipped: building the kubelet needs Go (https://go.dev/dl, or the package golang)' >&2
  [ -z "${CI:-}" ] || exit 1
  exit 0
fi
[ "$(id -u)" -eq 0 ] || { echo 'test:kubelet needs root' >&2; exit 1; }
bash deploy/setup.sh tests
[ -d node_modules/.bin ] || npm ci --loglevel=error
npm run --silent build
KUBELET=$(bash test/kubelet/build-kubelet.sh)
export KUBELET
NODE_OPTIONS=--experimental-vm-modules exec npx jest --selectProjects kubelet --runInBand "$@"
