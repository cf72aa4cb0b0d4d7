#!/usr/bin/env bash
# images.sh SCRIPT: makes the stand-ins for the suite's images in the folder OUT, unless it is complete.
# SCRIPT makes them from packages of Debian 12, by their names and with their paths. On any
# machine they are downloaded here, to where SCRIPT looks before it downloads any: apt
# of another release has other packages.
set -euo pipefail
[ -e "$OUT/complete" ] && exit

apt=$(mktemp -d)
trap 'rm -rf "$apt"' EXIT
rm -rf "$OUT/debs"
mkdir -p "$OUT/debs" "$apt/lists/partial"
echo 'deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/debian bookworm main' >"$apt/sources.list"
: >"$apt/status" # no package is installed
apt() {
  apt-get -qq -o Dir::Etc::sourcelist="$apt/sources.list" -o Dir::Etc::sourceparts=/dev/null -o Dir::Etc::preferencesparts=/dev/null \
    -o Dir::State="$apt" -o Dir::State::status="$apt/status" -o Dir::Cache="$apt" -o APT::Sandbox::User=root "$@"
}
apt update
(cd "$OUT/debs" && apt download busybox-static nginx libc6 libcrypt1 libpcre2-8-0 libssl3 zlib1g)

bash "$1" build
touch "$OUT/complete"
