# Sourced by the scripts that start Node, from the top of the checkout: says in one
# line which Node is needed and which was found, before npm says it in many.
wanted_node=$(sed -n 's/.*"node": ">=\([0-9.]*\)".*/\1/p' package.json)
found_node=$(node --version 2>/dev/null || true)
if ! printf '%s\n' "$wanted_node" "${found_node#v}" | sort -CV; then
  echo "Node $wanted_node or newer is required, and ${found_node:-none} was found; README.md says where Debian 12 gets it" >&2
  exit 1
fi
