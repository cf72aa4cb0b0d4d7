#!/usr/bin/env bash
# Makes the built checkout that holds this script the crisp of this machine: the
# command, its manual, an AppArmor profile, and a systemd service that runs now and
# after each boot. Configuration that is there already stays as it is.
set -euo pipefail
cd "$(dirname "$0")/.."
if [ "$(id -u)" -ne 0 ]; then
  echo 'install: needs root: sudo bash deploy/install.sh' >&2
  exit 1
fi

unless_there() { [ -e "$2" ] || install -D -m 644 "$1" "$2"; }
ln -sfn "$PWD/bin/crisp" /usr/bin/crisp
install -D -m 644 docs/man/crisp.1 /usr/local/share/man/man1/crisp.1
install -D -m 644 deploy/crisp.service /etc/systemd/system/crisp.service
unless_there deploy/crictl.yaml /etc/crictl.yaml
# A network that is there, of Calico or the like, is not to be taken over by ours.
compgen -G '/etc/cni/net.d/*.conf*' >/dev/null || unless_there deploy/cni/10-crisp.conflist /etc/cni/net.d/10-crisp.conflist
# The profile of RuntimeDefault; at the next boot apparmor.service loads it.
if [ -e /sys/kernel/security/apparmor/profiles ] && command -v apparmor_parser >/dev/null; then
  install -D -m 644 deploy/apparmor/crisp-default /etc/apparmor.d/crisp-default
  apparmor_parser --replace /etc/apparmor.d/crisp-default
fi

systemctl daemon-reload
systemctl --quiet enable crisp.service
systemctl restart crisp.service
