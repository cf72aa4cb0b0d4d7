// Idmapped mounts: a view of a folder in which the owners of files are shifted
// into a user namespace (mount_setattr(2), MOUNT_ATTR_IDMAP; Linux 5.12).
//
// mount(8) learnt it in util-linux 2.39, after Debian 12, so three system calls
// are made by Perl, which every Debian has (perl-base is essential).
import { run } from './run.js';

/** argv: source, target, the file of a user namespace. The numbers of the system calls are the same on all architectures since 5.1. */
const script = `
use strict;
my ($source, $target, $namespace) = @ARGV;
my $empty = "";
open(my $ns, "<", $namespace) or die "open $namespace: $!\\n";
my $tree = syscall(428, -100, $source, 1 | 02000000);                 # open_tree: OPEN_TREE_CLONE, CLOEXEC
$tree >= 0 or die "open_tree $source: $!\\n";
my $attr = pack("Q4", 0x00100000, 0, 0, fileno($ns));                  # MOUNT_ATTR_IDMAP
syscall(442, $tree, $empty, 0x1000, $attr, length $attr) == 0 or die "mount_setattr $source: $!\\n";
syscall(429, $tree, $empty, -100, $target, 4) == 0 or die "move_mount $target: $!\\n";
`;

/**
 * Mounts `source` at `target` with owners shifted into the user namespace that
 * `namespaceFile` is. Submounts are not taken along.
 * @throws StorageFailed where the kernel or the filesystem cannot do it
 */
export async function mountIdMapped(source: string, target: string, namespaceFile: string): Promise<void> {
  await run(['perl', '-e', script, source, target, namespaceFile], {
    timeoutMs: 20_000,
    stage: 'mount idmapped',
    errorId: 'StorageFailed',
  });
}
