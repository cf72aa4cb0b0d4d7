# !/usr/bin/env bash Installs the built checkout of this script on this machine: the
# command, its manual and completions, an AppArmor profile, and a systemd service that
# is started now and at each boot. Files and places are the same as in the package
# (deploy/files), but the program is the checkout itself. Existing configuration is
# not changed. With the argument "remove" it removes all of this again; configuration,
# images and records are kept.
set -euo pipefail
cd "$(dirname "$0")/.."
if [ "$(id -u)" -ne 0 ]; then
  echo 'install: needs root: sudo bash deploy/install.sh' >&2
  exit 1
fi
if [ "$(dpkg-query -W -f '${db:Status-Status}' crisp 2>/dev/null)" = installed ]; then
  echo 'install: the package crisp is installed; remove it first: apt remove crisp' >&2
  exit 1
fi

completions='bash:bash-completion/completions/crisp zsh:zsh/vendor-completions/_crisp fish:fish/vendor_completions.d/crisp.fish'
if [ "${1:-}" = remove ]; then
  systemctl --quiet disable --now crisp.service
  while read -r from to; do
    case $from in '' | '#'* | deploy/apparmor/*) continue ;; esac
    rm -f "/$to"
  done <deploy/files
  for completion in $completions; do rm -f "/usr/share/${completion#*:}"; done
  rm -f /usr/bin/crisp
  systemctl daemon-reload
  exit
fi

unless_there() { [ -e "$2" ] || install -D -m 644 "$1" "$2"; }
ln -sfn "$PWD/bin/crisp" /usr/bin/crisp
while read -r from to; do
  case $from in '' | '#'*) continue ;; esac
  install -D -m 644 "$from" "/$to"
done <deploy/files
for completion in $completions; do
  mkdir -p "$(dirname "/usr/share/${completion#*:}")"
  bin/crisp completion "${completion%%:*}" >"/usr/share/${completion#*:}"
done
# Files of an earlier version, which would hide the current ones.
rm -f /etc/systemd/system/crisp.service /usr/local/share/man/man1/crisp.1

unless_there deploy/crictl.yaml /etc/crictl.yaml
# An existing network, of Calico for example, must not be replaced.
compgen -G '/etc/cni/net.d/*.conf*' >/dev/null || unless_there deploy/cni/10-crisp.conflist /etc/cni/net.d/10-crisp.conflist
# The profile of RuntimeDefault; at the next boot apparmor.service loads it.
if [ -e /sys/kernel/security/apparmor/profiles ] && command -v apparmor_parser >/dev/null; then
  apparmor_parser --replace /etc/apparmor.d/crisp-default
fi

systemctl daemon-reload
# As at each boot; a kernel without one of the modules is not an error.
systemctl restart systemd-modules-load.service || echo 'install: not all kernel modules could be loaded; see `crisp check`' >&2
systemctl restart systemd-sysctl.service
systemctl --quiet enable crisp.service
systemctl restart crisp.service
