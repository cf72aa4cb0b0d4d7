#!/usr/bin/env bash
# Builds the kubelet from its Go module into a cache folder outside this
# repository and prints the path of the binary.  The first build takes minutes.
#
#   build-kubelet.sh [VERSION]        e.g. v1.37.2
set -euo pipefail
version=${1:-${KUBELET_VERSION:-v1.37.2}}
cache=${CRISP_TEST_CACHE:-/var/tmp/crisp-test}/kubelet-$version
binary=$cache/kubelet
[ -x "$binary" ] && { echo "$binary"; exit 0; }
mkdir -p "$cache/module"
cd "$cache/module"

# k8s.io/kubernetes replaces its staging modules by folders that its own module
# does not carry, so `go install` cannot build it: a module of our own names the
# published versions of the same modules instead.
[ -f go.mod ] || go mod init crisp.test/kubelet >&2
source=$(go mod download -json "k8s.io/kubernetes@$version" | sed -n 's/.*"GoMod": "\(.*\)".*/\1/p')
staging=v0.${version#v1.}
go mod edit -require="k8s.io/kubernetes@$version"
sed -n 's#^\s*\(k8s.io/[a-z0-9-]*\) => ./staging/.*#\1#p' "$source" | while read -r module; do
  go mod edit -replace="$module=$module@$staging"
done
printf 'package tools\n\nimport _ "k8s.io/kubernetes/cmd/kubelet"\n' >tools.go
printf '//go:build tools\n\n%s' "$(cat tools.go)" >tools.go
go mod tidy >&2
go build -ldflags="-s -w -X k8s.io/component-base/version.gitVersion=$version" -o "$binary.new" k8s.io/kubernetes/cmd/kubelet >&2
mv "$binary.new" "$binary"
echo "$binary"
