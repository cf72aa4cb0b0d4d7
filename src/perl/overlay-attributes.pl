# Removes overlay's own attributes from the files of layers. Called by
# overlay-attributes.ts: overlay-attributes.pl LLISTXATTR LGETXATTR LREMOVEXATTR
# FOLDER..., the first three the numbers of these system calls.
#
# Paths are relative to the layer, since with the folder of the store the longest
# ones would be too long. A file that cannot be checked is an error.
use strict; use warnings; use Errno qw(ENODATA ENOTSUP ERANGE);
my ($list, $get, $remove, @folders) = @ARGV;
my $prefix = "trusted.overlay.";

for my $folder (@folders) {
  chdir($folder) or die "$folder: $!\n";
  my @waiting = (".");
  while (defined(my $path = pop @waiting)) {
    clean($path);
    lstat($path) or die "$folder/$path: $!\n";
    next unless -d _;
    opendir(my $entries, $path) or die "$folder/$path: $!\n";
    push @waiting, map { $path eq "." ? $_ : "$path/$_" } grep { $_ ne "." && $_ ne ".." } readdir $entries;
  }
}

sub clean {
  my ($path) = @_;
  my $names = "\0" x 65536;                                              # XATTR_LIST_MAX
  my $length = syscall($list, $path, $names, length $names);
  return if $length < 0 && $! == ENOTSUP;
  die "$path: list attributes: $!\n" if $length < 0;
  for my $name (split /\0/, substr($names, 0, $length)) {
    next unless index($name, $prefix) == 0;
    # Written by containers-storage if an image empties a folder (.wh..wh..opq).
    next if $name eq "${prefix}opaque" && value($path, $name) eq "y";
    next if syscall($remove, $path, $name) == 0 || $! == ENODATA;
    die "$path: remove $name: $!\n";
  }
}

sub value {
  my ($path, $name) = @_;
  my $value = "\0" x 16;
  my $length = syscall($get, $path, $name, $value, length $value);
  die "$path: $name: $!\n" if $length < 0 && $! != ENODATA && $! != ERANGE;
  return $length < 0 ? "" : substr($value, 0, $length);
}
