#!/usr/bin/env bash
# Writes the bill of materials of the binary: make.sh VERSION OUTPUT
# By cdxgen (Apache-2.0), of the CycloneDX project, at the version pinned beside this script. It reads go.mod; what it adds of this
# machine, paths and times, is taken out, so that the same tree gives the same file.
set -euo pipefail
from=$(cd "$(dirname "$0")" && pwd)
to=${XDG_CACHE_HOME:-$HOME/.cache}/cellgate/sbom
if ! cmp -s "$from/package-lock.json" "$to/package-lock.json"; then
  echo "==> npm install cdxgen"
  rm -rf "$to" "$to.part"
  mkdir -p "$to.part"
  cp "$from/package.json" "$from/package-lock.json" "$to.part/"
  # Not ci: it wants the packages of other machines, which are optional, to be in the registry too.
  npm install --prefix "$to.part" --ignore-scripts --omit=optional --no-save --no-audit --no-fund --loglevel error
  mv "$to.part" "$to"
fi
raw=$(mktemp -d)
trap 'rm -rf "$raw"' EXIT
"$to/node_modules/.bin/cdxgen" --type go --no-recurse --no-install-deps --spec-version 1.6 --validate --fail-on-error \
  --project-name cellgate --project-version "$1" --output "$raw/bom.json" "$from/../../.." >"$raw/log" 2>&1 || { cat "$raw/log" >&2; exit 1; }
node -e '
  const fs = require("fs"), bom = JSON.parse(fs.readFileSync(process.argv[1]));
  delete bom.serialNumber; delete bom.annotations; delete bom.metadata.timestamp;
  for (const c of bom.components) { delete c.properties; delete c.evidence; }
  fs.writeFileSync(process.argv[2], JSON.stringify(bom, null, 1) + "\n");
' "$raw/bom.json" "$2"
