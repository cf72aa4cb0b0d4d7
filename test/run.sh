#!/usr/bin/env bash
# `npm test`: sets everything up, then runs types, lint, unit, integration, pct
# (on a fake of it) and conformance tests. It says first what it will do, then one line
# per file of tests, and at the end one table of all steps; what a failed step said is
# shown.  The last line is "N passed, N failed, N skipped", over all tests of jest and
# all specs of critest; a step that fails without a test of its own counts as one.
# After a failure the logs and reports of all steps are kept, and named.
set -uo pipefail
cd "$(dirname "$0")/.."
. deploy/need-node.sh

if [ "$(id -u)" -ne 0 ]; then
  echo "npm test needs root: it makes namespaces, mounts and control groups (try: sudo npm test)" >&2
  exit 1
fi

out=$(mktemp -d "${TMPDIR:-/tmp}/crisp-test-XXXXXX")
keep=false
trap '$keep || rm -rf "$out"' EXIT
# What the steps found, in files, because some of them run at the same time.
: >"$out/rows" >"$out/counts"
row() { # name result seconds counts
  printf '%-12s %-8s %5s  %s\n' "$1" "$2" "$3" "${4:-}" >>"$out/rows"
}
count() { # passed failed skipped
  echo "$@" >>"$out/counts"
}

step() { # name command...
  local name=$1 start=$SECONDS
  shift
  log=$out/${name// /-}.log
  printf '%s ...\n' "$name"
  if "$@" >"$log" 2>&1; then
    result=ok
  else
    result=FAILED
  fi
  seconds=$((SECONDS - start))
  printf '%-12s %-8s %4d s\n' "$name" "$result" "$seconds"
  [ "$result" = ok ]
}

# A step that must succeed for the rest to mean anything.
need() { step "$@" || { tail -n 60 "$log"; count 0 1 0; row "$1" FAILED "$seconds"; finish; }; row "$1" ok "$seconds"; }

# A step that is a check of its own.
check() { step "$@" || { tail -n 60 "$log"; count 0 1 0; }; row "$1" "$result" "$seconds"; }

# A project of jest, counted test by test.
suite() { # name projects arguments...
  local name=$1 projects=$2 report=$out/${1// /-}.json ok=true p f s
  shift 2
  # Not by npx, which does not pass descriptor 3 on.
  step "$name" ${under:-} node node_modules/jest/bin/jest.js --selectProjects $projects --silent --json --outputFile "$report" \
    --reporters default --reporters ./test/progress.mjs "$@" || ok=false
  if [ -s "$report" ] && read -r p f s < <(node test/count.mjs "$report"); then
    row "$name" "$result" "$seconds" "$p passed, $f failed, $s skipped"
    node test/count.mjs --skipped "$report" >>"$out/skipped"
    count "$p" "$f" "$s"
    $ok || { node test/count.mjs --failures "$report"; grep '^Seed:' "$log"; }
    if ! $ok && [ "$f" -eq 0 ]; then count 0 1 0; tail -n 60 "$log"; fi
  else
    count 0 1 0
    row "$name" FAILED "$seconds" 'no report'
    tail -n 60 "$log"
  fi
  grep -hE '^(critest: |crictl version)' "$log" || true
}

finish() {
  local passed failed skipped
  read -r passed failed skipped < <(awk '{ p += $1; f += $2; s += $3 } END { print p + 0, f + 0, s + 0 }' "$out/counts")
  printf '\n%-12s %-8s %5s\n' step result 's'
  cat "$out/rows"
  if [ -s "$out/skipped" ]; then
    printf '\nskipped:\n'
    cat "$out/skipped"
  fi
  if [ "$failed" -gt 0 ]; then
    keep=true
    echo "logs and reports: $out"
  fi
  echo "$passed passed, $failed failed, $skipped skipped"
  [ "$failed" -eq 0 ] && [ "$passed" -gt 0 ]
  exit
}

exec 3>&1 # for test/progress.mjs
echo 'npm test: installs the Debian packages that are missing, builds, and runs types, lint, Perl,
documents, workflows, unit, integration and pct tests and critest; about 15 minutes on two cores.'

need setup bash deploy/setup.sh tests
[ -d node_modules ] || need 'npm ci' npm ci
need build npm run --silent build
check lint npm run --silent lint &
check types npm run --silent types
check perl npm run --silent lint:perl
check documents npm run --silent lint:docs
if command -v go >/dev/null; then
  check workflows npm run --silent lint:workflows
else
  row workflows skipped 0 'actionlint is built with Go, which is not installed'
  count 0 "$([ -n "${CI:-}" ] && echo 1 || echo 0)" 1
fi
wait
export NODE_OPTIONS=--experimental-vm-modules NODE_NO_WARNINGS=1
# In random order, of which a failure says the seed: --randomize --seed=N repeats it.
suite unit unit --randomize --maxWorkers=100%
# What waits, times and ends processes, on a machine that is busy with other things.
for time in 1 2; do
  under='bash test/load.sh' suite "under load $time" unit --randomize --maxWorkers=100% --testPathPatterns \
    'src/(host/(run|wait|proc)|records/(locks|creations)|cri/(racing|exits|events|container-stop)|streaming/session|systemd|backends/(relay|terminal-sizes))\.test'
done
# Four files at the same time on two cores, since a part of their time is waiting.
suite 'real parts' 'integration pct conformance' --maxWorkers=4 --testSequencer ./test/sequencer.mjs
finish
