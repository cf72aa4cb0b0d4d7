# Sourced by the scripts that start Node, from the top of the checkout: reports in
# one line the required and the found Node, before npm prints many lines.
wanted_node=$(sed -n 's/.*"node": ">=\([0-9.]*\)".*/\1/p' package.json)
found_node=$(node --version 2>/dev/null || true)
if ! printf '%s\n' "$wanted_node" "${found_node#v}" | sort -CV; then
  echo "Node $wanted_node or newer is required, and ${found_node:-none} was found; README.md says how to install it on Debian 12" >&2
  exit 1
fi
