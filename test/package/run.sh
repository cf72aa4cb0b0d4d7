#!/usr/bin/env bash
# npm run test:package [-- SUITE...]: builds the Debian package and installs, upgrades,
# removes and purges it in a minimal root of each Debian release (bookworm and trixie,
# or those named), made by mmdebstrap. The roots have no Node and no systemd; crisp
# under systemd is tested in the VM. Prints "N passed, N failed".
set -uo pipefail
cd "$(dirname "$0")/../.."
[ "$(id -u)" -eq 0 ] || { echo 'test:package needs root: it makes root file systems' >&2; exit 1; }
suites=("${@:-bookworm trixie}")
read -ra suites <<<"${suites[*]}"

missing=()
for package in mmdebstrap lintian; do
  [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || missing+=("$package")
done
if [ ${#missing[@]} -gt 0 ]; then
  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null || exit 1
fi
[ -d node_modules/.bin ] || npm ci --loglevel=error
npm run --silent package || exit 1
version=$(node -p 'require("./package.json").version')
deb=build/crisp_${version}_amd64.deb

passed=0 failed=0
expect() { # what command...
  local what=$1 output
  shift
  if output=$("$@" 2>&1); then
    passed=$((passed + 1))
    echo "ok      $what"
  else
    failed=$((failed + 1))
    printf 'FAILED  %s\n%s\n' "$what" "$(tail -n 20 <<<"$output")"
  fi
}

work=$(mktemp -d "${TMPDIR:-/tmp}/crisp-package-XXXXXX")
trap 'rm -rf --one-file-system "$work"' EXIT
# The version before this one: the same files under a lower number.
dpkg-deb --raw-extract "$deb" "$work/before"
sed -i 's/^Version: .*/Version: 0.0.1/' "$work/before/DEBIAN/control"
dpkg-deb --build --root-owner-group -Zgzip -z1 "$work/before" "$work/crisp_0.0.1_amd64.deb" >/dev/null
rm -rf "$work/before"

expect 'lintian has nothing to say' lintian --fail-on error,warning --suppress-tags-from-file deploy/debian/lintian-suppressed "$deb"

for suite in "${suites[@]}"; do
  root=$work/$suite
  in_root() { env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin DEBIAN_FRONTEND=noninteractive LC_ALL=C chroot "$root" "$@"; }
  mirror=$(awk '$1 == "deb" { for (i = 2; i <= NF; i++) if ($i ~ /^https?:/) { print $i; exit } } $1 == "URIs:" { print $2; exit }' /etc/apt/sources.list /etc/apt/sources.list.d/*.sources /etc/apt/sources.list.d/*.list 2>/dev/null)
  if ! mmdebstrap --quiet --variant=apt "$suite" "$root" "${mirror:-http://deb.debian.org/debian}" 2>"$work/log"; then
    failed=$((failed + 1))
    printf 'FAILED  %s: cannot make a root\n%s\n' "$suite" "$(tail -n 5 "$work/log")"
    continue
  fi
  cp "$deb" "$work/crisp_0.0.1_amd64.deb" "$root/tmp/"
  files() { (cd "$root" && find etc usr var/lib/crisp var/cache/crisp run -not -path 'etc/alternatives*' 2>/dev/null | grep -i crisp | sort); }

  expect "$suite: installs the version before" in_root apt-get install -y -qq --no-install-recommends /tmp/crisp_0.0.1_amd64.deb
  expect "$suite: has no node on PATH" in_root sh -c '! command -v node'
  expect "$suite: the command runs" in_root crisp version
  expect "$suite: a changed configuration is read" in_root sh -c 'echo "log_level: warn" >/etc/crisp/config.d/mine.yaml && crisp config | grep "log_level: warn"'
  expect "$suite: the shipped configuration is valid and changes nothing" in_root sh -c 'rm /etc/crisp/config.d/mine.yaml; crisp config >/dev/null && ! grep -v "^#" /etc/crisp/config.yaml | grep .'
  expect "$suite: the manual pages are there" in_root sh -c 'for page in 1/crisp.1 5/crisp.yaml.5 8/crisp-serve.8; do [ -s /usr/share/man/man$page.gz ] || exit 1; done'
  expect "$suite: upgrades" in_root apt-get install -y -qq --no-install-recommends "/tmp/$(basename "$deb")"
  expect "$suite: is the new version" in_root sh -c "dpkg-query -W -f '\${Version}' crisp | grep -Fx '$version'"
  expect "$suite: no installed file is damaged" in_root sh -c '! dpkg --verify crisp | grep .'
  expect "$suite: removes" in_root apt-get remove -y -qq crisp
  expect "$suite: leaves only configuration" sh -c "! (cd '$root' && find usr -iname '*crisp*' | grep .)"
  expect "$suite: purges" in_root apt-get purge -y -qq crisp
  left=$(files)
  expect "$suite: leaves nothing (${left//$'\n'/ })" test -z "$left"
done
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
