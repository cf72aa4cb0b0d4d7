#!/usr/bin/env bash
# Makes the disk of the test VM from Debian's packages, once, into a cache folder
# outside this repository, and prints that folder: disk.ext4, vmlinuz, initrd and
# the key for root's ssh.  Run by run.sh; takes about two minutes.
#
# crisp itself is not on the disk: vm.ts brings what was built last.
set -euo pipefail
cd "$(dirname "$0")/../.."
release=${CRISP_VM_RELEASE:-bookworm}
recipe=$(cat test/vm/build-image.sh deploy/setup.sh | sha256sum | cut -c1-12)
cache=${CRISP_TEST_CACHE:-/var/tmp/crisp-test}/vm-$release-$recipe
[ -e "$cache/complete" ] && { echo "$cache"; exit 0; }

echo "vm: making the disk of a Debian $release VM, once; about two minutes" >&2
mkdir -p "$(dirname "$cache")"
work=$(mktemp -d "$cache.XXXXXX")
trap 'rm -rf "$work"' EXIT
ssh-keygen -q -t ed25519 -N '' -C crisp-vm -f "$work/key"

# A plain server: systemd, a kernel, a network by DHCP, ssh, AppArmor, and criu; and,
# for the fake of pct, liblxc with its tools and no service of its own. What crisp
# needs is installed by the script that users run.
packages=criu,lxc,systemd-sysv,udev,dbus,kmod,linux-image-cloud-amd64,openssh-server,apparmor,man-db,libstdc++6
inside() { printf -- '--customize-hook=chroot "$1" %s' "$1"; }
mmdebstrap --quiet --variant=minbase --include="$packages" \
  '--customize-hook=copy-in deploy/setup.sh /root' \
  "$(inside 'bash /root/setup.sh')" \
  "$(inside 'systemctl -q enable systemd-networkd')" \
  "$(inside 'systemctl -q disable lxc lxc-net lxc-monitord')" \
  "--customize-hook=upload $work/key.pub /root/.ssh-key" \
  "$(inside "sh -c 'install -D -m 600 /root/.ssh-key /root/.ssh/authorized_keys; rm /root/.ssh-key /root/setup.sh'")" \
  "$(inside "sh -c 'printf \"[Match]\\nName=en*\\n[Network]\\nDHCP=ipv4\\n\" >/etc/systemd/network/10-user.network; echo crisp-vm >/etc/hostname; echo LABEL=crisp-vm / ext4 defaults 0 1 >/etc/fstab'")" \
  "$release" "$work/root" >&2

cp "$work"/root/boot/vmlinuz-* "$work/vmlinuz"
cp "$work"/root/boot/initrd.img-* "$work/initrd"
mke2fs -q -t ext4 -L crisp-vm -d "$work/root" "$work/disk.ext4" 4G >&2
rm -rf "$work/root"
touch "$work/complete"
rm -rf "${cache%-*}"-???????????? # those of older recipes
mv "$work" "$cache"
trap - EXIT
echo "$cache"
