#!/usr/bin/env bash
# `npm test`: sets everything up, then runs types, lint, unit, integration, pct
# (on a fake of it) and conformance tests.  One line per step; what a failed step said is shown.  The
# last line is "N passed, N failed, N skipped", over all tests of jest and all
# specs of critest; a step that fails without a test of its own counts as one.
# After a failure the logs and reports of all steps are kept, and named.
set -uo pipefail
cd "$(dirname "$0")/.."

if [ "$(id -u)" -ne 0 ]; then
  echo "npm test needs root: it makes namespaces, mounts and control groups (try: sudo npm test)" >&2
  exit 1
fi

out=$(mktemp -d "${TMPDIR:-/tmp}/crisp-test-XXXXXX")
keep=false
trap '$keep || rm -rf "$out"' EXIT
passed=0 failed=0 skipped=0

step() { # name command...
  local name=$1 start=$SECONDS
  shift
  log=$out/${name// /-}.log
  if "$@" >"$log" 2>&1; then
    printf '%-12s ok      %4d s\n' "$name" $((SECONDS - start))
    return 0
  fi
  printf '%-12s FAILED  %4d s\n' "$name" $((SECONDS - start))
  return 1
}

# A step that must succeed for the rest to mean anything.
need() { step "$@" || { tail -n 60 "$log"; failed=$((failed + 1)); finish; }; }

# A step that is a check of its own.
check() { step "$@" || { tail -n 60 "$log"; failed=$((failed + 1)); }; }

# A project of jest, counted test by test.
suite() { # name project arguments...
  local name=$1 project=$2 report=$out/$2.json ok=true p f s
  shift 2
  step "$name" npx jest --selectProjects "$project" --silent --json --outputFile "$report" "$@" || ok=false
  if [ -s "$report" ] && read -r p f s < <(node test/count.mjs "$report"); then
    printf '%-12s %d passed, %d failed, %d skipped\n' '' "$p" "$f" "$s"
    passed=$((passed + p)) failed=$((failed + f)) skipped=$((skipped + s))
    $ok || node test/count.mjs --failures "$report"
    if ! $ok && [ "$f" -eq 0 ]; then failed=$((failed + 1)); tail -n 60 "$log"; fi
  else
    failed=$((failed + 1))
    tail -n 60 "$log"
  fi
  grep -hE '^(critest: |crictl version)' "$log" || true
}

finish() {
  if [ "$failed" -gt 0 ]; then
    keep=true
    echo "logs and reports: $out"
  fi
  echo "$passed passed, $failed failed, $skipped skipped"
  [ "$failed" -eq 0 ] && [ "$passed" -gt 0 ]
  exit
}

need setup bash deploy/setup.sh tests
[ -d node_modules ] || need 'npm ci' npm ci
need build npm run --silent build
check types npm run --silent types
check lint npm run --silent lint
check documents npm run --silent lint:docs
if command -v go >/dev/null; then
  check workflows npm run --silent lint:workflows
else
  echo 'workflows    skipped: actionlint is built with Go, which is not installed'
  skipped=$((skipped + 1))
  [ -z "${CI:-}" ] || failed=$((failed + 1))
fi
export NODE_OPTIONS=--experimental-vm-modules NODE_NO_WARNINGS=1
suite unit unit
suite integration integration --runInBand
suite pct pct --runInBand
suite critest conformance
finish
