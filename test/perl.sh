#!/usr/bin/env bash
# `npm run lint:perl`: the Perl of crisp and of its tests compiles without a warning, and perlcritic has no objection.
set -euo pipefail
cd "$(dirname "$0")/.."

mapfile -t programs < <(git ls-files '*.pl' '*.pm')
[ ${#programs[@]} -gt 0 ]
failed=0
for program in "${programs[@]}"; do
  said=$(perl -wc "$program" 2>&1) || failed=1
  if [ "$said" != "$program syntax OK" ]; then
    echo "$said" >&2
    failed=1
  fi
done
perlcritic --quiet --profile .perlcriticrc --verbose '%f:%l:%c: %m (%p)\n' "${programs[@]}" || failed=1
exit $failed
