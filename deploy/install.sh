#!/usr/bin/env bash
# Makes the built checkout that holds this script the crisp of this machine: the
# command, its manual and completions, an AppArmor profile, and a systemd service that
# runs now and after each boot. Files and places are those of the package
# (deploy/files), the program is the checkout itself. Configuration that is there
# already stays as it is. With the argument "remove" it takes all of that away again;
# configuration, images and records stay.
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
# Of an earlier version, which would hide those of now.
rm -f /etc/systemd/system/crisp.service /usr/local/share/man/man1/crisp.1

unless_there deploy/crictl.yaml /etc/crictl.yaml
# A network that is there, of Calico or the like, is not to be taken over by ours.
compgen -G '/etc/cni/net.d/*.conf*' >/dev/null || unless_there deploy/cni/10-crisp.conflist /etc/cni/net.d/10-crisp.conflist
# The profile of RuntimeDefault; at the next boot apparmor.service loads it.
if [ -e /sys/kernel/security/apparmor/profiles ] && command -v apparmor_parser >/dev/null; then
  apparmor_parser --replace /etc/apparmor.d/crisp-default
fi

systemctl daemon-reload
# Now as at each boot; a kernel without one of the modules is no reason to stop.
systemctl restart systemd-modules-load.service || echo 'install: not all kernel modules could be loaded; see `crisp check`' >&2
systemctl restart systemd-sysctl.service
systemctl --quiet enable crisp.service
systemctl restart crisp.service
