#!/usr/bin/env bash
# npm run test:package [-- SUITE...]: makes a release and checks its files; then installs,
# upgrades, removes and purges the Debian package in a minimal root of each Debian
# release (bookworm and trixie, or those named; noble is Ubuntu 24.04), made by mmdebstrap, and runs a pod
# there. The roots have no Node and no systemd; crisp under systemd is tested in the VM.
# Prints "N passed, N failed". With CRISP_ROOTS=FOLDER the roots are unpacked from
# FOLDER/SUITE.tar, which is made where it is missing.
set -uo pipefail
cd "$(dirname "$0")/../.."
[ "$(id -u)" -eq 0 ] || { echo 'test:package needs root: it makes root file systems' >&2; exit 1; }
suites=("${@:-bookworm trixie}")
read -ra suites <<<"${suites[*]}"

missing=()
for package in mmdebstrap lintian busybox-static iproute2; do
  [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || missing+=("$package")
done
if [ ${#missing[@]} -gt 0 ]; then
  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null || exit 1
fi
[ -d node_modules/.bin ] || npm ci --loglevel=error
npm run --silent release -- --fast || exit 1
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
holder=
# Ends the namespaces of the pod, and with them all processes and mounts in it.
leave() {
  [ -n "$holder" ] && kill -9 "$holder" && wait "$holder"
  holder=
} 2>/dev/null
trap 'leave; rm -rf --one-file-system "$work"' EXIT
# The version before this one: the same files under a lower number.
dpkg-deb --raw-extract "$deb" "$work/before"
sed -i 's/^Version: .*/Version: 0.0.1/' "$work/before/DEBIAN/control"
dpkg-deb --build --root-owner-group -Zgzip -z1 "$work/before" "$work/crisp_0.0.1_amd64.deb" >/dev/null
rm -rf "$work/before"
# Stand-ins for packages of Proxmox VE, empty, with the conflicts that the real ones have
# with packages of Debian.
stand_in() { # name conflicts
  mkdir -p "$work/stand-ins/$1/DEBIAN"
  printf 'Package: %s\nVersion: 1\nArchitecture: all\nMaintainer: tests <tests@localhost>\nDescription: stand-in\n%s' "$1" "${2:+Conflicts: $2
Provides: $2
}" >"$work/stand-ins/$1/DEBIAN/control"
  dpkg-deb --build --root-owner-group -Zgzip "$work/stand-ins/$1" "$work/stand-ins/$1.deb" >/dev/null
  rm -r "$work/stand-ins/$1"
}
stand_in lxc-pve 'lxc, liblxc1'
stand_in pve-qemu-kvm 'qemu-system-x86, qemu-utils'
stand_in ifupdown2 ifupdown
stand_in pve-container
stand_in pve-manager

# A pod of the installed command, which an upgrade and a purge do not touch.
pod_from_package() {
  # In namespaces with the root as their own: a chroot cannot make user namespaces, nor a pod its mounts.
  unshare --mount --net --pid --fork --kill-child sh test/package/pod.sh "$root" &
  local unshared=$! init
  for _ in $(seq 100); do
    init=$(pgrep -P "$unshared" -x catatonit) && break
    sleep 0.1
  done
  holder=$unshared
  in_pod() { nsenter --target "$init" --mount --net --pid --root --wd env -i PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin DEBIAN_FRONTEND=noninteractive LC_ALL=C "$@"; }
  daemon() { in_pod sh -c 'crisp serve >>/tmp/crisp.log 2>&1 & echo $! >/tmp/crisp.pid; for i in $(seq 600); do crictl version >/dev/null 2>&1 && exit 0; [ -e /proc/$(cat /tmp/crisp.pid) ] || break; sleep 0.1; done; tail -n 5 /tmp/crisp.log; exit 1'; }
  end_daemon() { in_pod sh -c 'pid=$(cat /tmp/crisp.pid); kill $pid; for i in $(seq 200); do [ -e /proc/$pid ] || exit 0; sleep 0.1; done; exit 1'; }
  container() { in_pod sh -c "crictl inspect -o go-template --template '{{.status.state}} {{.info.pid}}' \"\$(cat /tmp/container)\""; }
  still_runs() { [[ $state == "CONTAINER_RUNNING "* ]] && [ "$(container)" = "$state" ]; }

  cp "$(command -v crictl)" "$root/usr/local/bin/crictl"
  mkdir -p "$root/tmp/images"
  node -e 'import("./deploy/busybox-archive.mjs").then((m) => m.makeArchive(process.argv[1], "localhost/busybox:1", ["sh"]))' "$root/tmp/images/busybox.tar"
  echo 'images: { preload_dir: /tmp/images }' >"$root/etc/crisp/config.d/test.yaml"
  echo '{"metadata":{"name":"pod","namespace":"default","uid":"uid-1","attempt":0},"log_directory":"/tmp/logs"}' >"$root/tmp/pod.json"
  echo '{"metadata":{"name":"container"},"image":{"image":"localhost/busybox:1"},"command":["sh","-c","echo started; sleep 100000"],"log_path":"log"}' >"$root/tmp/container.json"

  expect "$suite: starts without systemd" daemon
  expect "$suite: runs a pod" in_pod sh -c 'crictl run --no-pull /tmp/container.json /tmp/pod.json >/tmp/container'
  local state=
  state=$(container)
  expect "$suite: its container runs ($state)" grep -q '^CONTAINER_RUNNING [1-9]' <<<"$state"
  expect "$suite: a command in it" in_pod sh -c 'crictl exec "$(cat /tmp/container)" hostname'
  expect "$suite: upgrades while it runs" in_pod dpkg -i "/tmp/$(basename "$deb")"
  expect "$suite: the old daemon serves until it is restarted" still_runs
  expect "$suite: the daemon ends" end_daemon
  expect "$suite: the new one starts" daemon
  expect "$suite: the container has run on" still_runs
  expect "$suite: a command in it, by the new version" in_pod sh -c 'crictl exec "$(cat /tmp/container)" hostname'
  expect "$suite: the daemon ends" end_daemon
  expect "$suite: a purge keeps the files of what runs, and says so" in_pod sh -c 'dpkg --purge crisp 2>&1 | grep "containers still run" && [ -e /run/crisp/containers ] && [ -d /var/lib/crisp ]'
  expect "$suite: installs again" in_pod dpkg -i "/tmp/$(basename "$deb")"
  expect "$suite: starts again" daemon
  expect "$suite: the container has run on" still_runs
  expect "$suite: removes the pod" in_pod crictl rmp --all --force
  expect "$suite: the daemon ends" end_daemon
  expect "$suite: a purge without containers leaves no state" in_pod sh -c 'rm /etc/crisp/config.d/test.yaml; dpkg --purge crisp && [ ! -e /run/crisp ] && [ ! -e /var/lib/crisp ]'
  expect "$suite: installs for the rest" in_pod dpkg -i "/tmp/$(basename "$deb")"
  rm -rf "$root/usr/local/bin/crictl" "$root/tmp/images"
  leave
}

for suite in "${suites[@]}"; do
  root=$work/$suite
  in_root() { env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin DEBIAN_FRONTEND=noninteractive LC_ALL=C chroot "$root" "$@"; }
  mirror=$(awk '$1 == "deb" { for (i = 2; i <= NF; i++) if ($i ~ /^https?:/) { print $i; exit } } $1 == "URIs:" { print $2; exit }' /etc/apt/sources.list /etc/apt/sources.list.d/*.sources /etc/apt/sources.list.d/*.list 2>/dev/null)
  source=${mirror:-http://deb.debian.org/debian}
  # Debian has no key of Ubuntu's archive; the root is thrown away.
  if [ "$suite" = noble ]; then source='deb [trusted=yes] http://archive.ubuntu.com/ubuntu noble main universe'; fi
  archive=${CRISP_ROOTS:-$work}/$suite.tar
  if ! { [ -s "$archive" ] || mmdebstrap --quiet --variant=apt "$suite" "$archive" "$source"; } 2>"$work/log" ||
    ! mkdir "$root" || ! tar -xf "$archive" -C "$root"; then
    failed=$((failed + 1))
    printf 'FAILED  %s: cannot make a root\n%s\n' "$suite" "$(tail -n 5 "$work/log")"
    continue
  fi
  cp "$deb" "$work/crisp_0.0.1_amd64.deb" "$root/tmp/"
  files() { (cd "$root" && find etc usr var/lib/crisp var/cache/crisp run -not -path 'etc/alternatives*' 2>/dev/null | grep -i crisp | sort); }

  # mmdebstrap leaves no lists of packages behind.
  expect "$suite: apt-get update" in_root apt-get update -qq
  expect "$suite: installs the version before" in_root apt-get install -y -qq --no-install-recommends /tmp/crisp_0.0.1_amd64.deb
  expect "$suite: has no node on PATH" in_root sh -c '! command -v node'
  expect "$suite: the command runs" in_root crisp version
  expect "$suite: a changed configuration is read" in_root sh -c 'echo "log_level: warn" >/etc/crisp/config.d/mine.yaml && crisp config | grep "log_level: warn"'
  expect "$suite: the shipped configuration is valid and changes nothing" in_root sh -c 'rm /etc/crisp/config.d/mine.yaml; crisp config >/dev/null && ! grep -v "^#" /etc/crisp/config.yaml | grep .'
  expect "$suite: the Perl programs find their modules" in_root sh -c 'for program in /usr/lib/crisp/dist/perl/*.pl; do perl -c "$program" || exit 1; done'
  expect "$suite: the manual pages are there" in_root sh -c 'for page in 1/crisp.1 5/crisp.yaml.5 8/crisp-serve.8; do [ -s /usr/share/man/man$page.gz ] || exit 1; done'
  pod_from_package
  expect "$suite: downgrades" in_root dpkg -i /tmp/crisp_0.0.1_amd64.deb
  expect "$suite: upgrades" in_root apt-get install -y -qq --no-install-recommends "/tmp/$(basename "$deb")"
  expect "$suite: is the new version" in_root sh -c "dpkg-query -W -f '\${Version}' crisp | grep -Fx '$version'"
  expect "$suite: no installed file is damaged" in_root sh -c '! dpkg --verify crisp | grep .'
  expect "$suite: removes" in_root apt-get remove -y -qq crisp
  expect "$suite: leaves only configuration" sh -c "! (cd '$root' && find usr -iname '*crisp*' | grep .)"
  expect "$suite: purges" in_root apt-get purge -y -qq crisp
  for file in "$work"/stand-ins/*.deb; do cp "$file" "$root/tmp/" && in_root dpkg -i "/tmp/$(basename "$file")" >/dev/null; done
  expect "$suite: beside packages of Proxmox VE, with all that is recommended, it removes none" in_root sh -c "apt-get install --simulate --install-recommends '/tmp/$(basename "$deb")' >/tmp/plan && grep '^Inst crisp ' /tmp/plan && ! grep ^Remv /tmp/plan"
  left=$(files)
  expect "$suite: leaves nothing (${left//$'\n'/ })" test -z "$left"
done
expect 'release: the checksums are those of the files' sh -c 'cd build/release && sha256sum --check --strict SHA256SUMS && [ "$(ls | wc -l)" -eq 5 ]'
expect 'release: the tarball has the tree of the package' diff <(dpkg-deb --fsys-tarfile "$deb" | tar -t | sort) <(tar -tzf "build/release/crisp-$version-linux-amd64.tar.gz" | sort)
expect 'release: the bills of materials list what is shipped' node test/package/bills-of-materials.mjs build/release
expect 'lintian has nothing to say' lintian --allow-root --fail-on error,warning "$deb"
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
