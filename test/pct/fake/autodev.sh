# NOT PVE's lxc-pve-autodev-hook: binds the device nodes below a folder into a CT.
#
#   autodev.sh FOLDER ...    with LXC_ROOTFS_MOUNT, in the namespaces of the CT
set -e
cd "$1"
find dev ! -type d | while read -r node; do
  mkdir -p "$LXC_ROOTFS_MOUNT/${node%/*}"
  : >"$LXC_ROOTFS_MOUNT/$node"
  mount --bind "$node" "$LXC_ROOTFS_MOUNT/$node"
done
