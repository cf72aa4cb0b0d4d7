#!/usr/bin/env bash
# npm run test:vm [-- JEST ARGUMENTS]: crisp as a service of a Debian VM with
# systemd, cgroup v2 and AppArmor. Needs no KVM and, once its disk is made, no
# network. Installs qemu where it is missing and can be; else it is skipped with
# the reason, which in CI counts as a failure where it could have been installed.
set -euo pipefail
cd "$(dirname "$0")/../.."

skip() { # reason
  echo "skipped: $1" >&2
  echo '0 passed, 0 failed, 1 skipped'
  exit 0
}
cannot() { # reason
  [ -z "${CI:-}" ] || { echo "failed: $1" >&2; echo '0 passed, 1 failed, 0 skipped'; exit 1; }
  skip "$1"
}

[ "$(uname -m)" = x86_64 ] || skip "the VM is an x86_64 one, and this machine is $(uname -m)"
command -v apt-get >/dev/null || skip 'the disk of the VM is made with the tools of Debian, and this machine has no apt-get'
[ "$(id -u)" -eq 0 ] || { echo 'test:vm needs root: it makes a root file system (try: sudo npm run test:vm)' >&2; exit 1; }
command -v "${CRICTL:-crictl}" >/dev/null || cannot 'crictl (kubernetes-sigs/cri-tools) is neither on PATH nor named by CRICTL'

missing=()
for package in qemu-system-x86 mmdebstrap e2fsprogs openssh-client; do
  [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || missing+=("$package")
done
if [ ${#missing[@]} -gt 0 ]; then
  echo "vm: installing ${missing[*]}" >&2
  { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}"; } >/dev/null ||
    cannot "cannot install ${missing[*]}"
fi

bash deploy/setup.sh tests
[ -d node_modules/.bin ] || npm ci --loglevel=error
npm run --silent build
CRISP_VM=$(bash test/vm/build-image.sh) || cannot 'cannot make the disk of the VM; see above'
export CRISP_VM
status=0
NODE_OPTIONS=--experimental-vm-modules NODE_NO_WARNINGS=1 npx jest --selectProjects vm --runInBand --testTimeout 900000 "$@" || status=$?
echo "test:vm took $((SECONDS / 60)) min $((SECONDS % 60)) s"
exit $status
