#!/usr/bin/env bash
# Installs the missing Debian packages that crisp needs; with the argument "tests"
# also those of the tests, the demo and the benchmark. For Debian 12 and 13.
set -euo pipefail

packages=(
  crun runc conmon catatonit                  # run and monitor containers
  skopeo containers-storage                   # pull and store images
  golang-github-containers-common             # the signature policy for images (policy.json)
  containernetworking-plugins iptables
  util-linux procps perl ca-certificates       # user namespaces and their sysctls, attach, registries
)
if [ "${1:-}" = tests ]; then
  packages+=(
    busybox-static docker-registry zstd openssl  # images for the tests, and a registry for them
    curl jq gcc libc6-dev criu iproute2 mount
    groff-base                                   # the manual pages are checked
    libperl-critic-perl                          # so is the Perl
    prometheus                                   # the alerts and the dashboard of deploy/monitoring
  )
  command -v pct >/dev/null || packages+=(lxc)   # the containers of the fake pct; Proxmox VE has an lxc of its own
fi

missing=()
for package in "${packages[@]}"; do
  [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || missing+=("$package")
done
[ ${#missing[@]} -eq 0 ] && exit 0

if [ "$(id -u)" -ne 0 ]; then
  echo "setup: needs root to install packages: sudo apt-get install --no-install-recommends ${missing[*]}" >&2
  exit 1
fi
echo "setup: installing ${missing[*]}" >&2
export DEBIAN_FRONTEND=noninteractive
# The service of a package (docker-registry) must not be started.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
  printf '#!/bin/sh\nexit 101\n' >"$policy"
  chmod 755 "$policy"
  trap 'rm -f "$policy"' EXIT
fi
apt-get update -qq
apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
