#!/usr/bin/env bash
# Installs playwright-core (Apache-2.0) and axe-core (MPL-2.0) at the versions pinned beside this script: install.sh FOLDER
# The browser is Debian's.
set -euo pipefail
from=$(cd "$(dirname "$0")" && pwd)
to=$1
cmp -s "$from/package-lock.json" "$to/package-lock.json" && exit 0
echo "==> npm ci playwright-core axe-core"
rm -rf "$to" "$to.part"
mkdir -p "$to.part"
cp "$from/package.json" "$from/package-lock.json" "$to.part/"
npm ci --prefix "$to.part" --ignore-scripts --no-audit --no-fund --loglevel error
mv "$to.part" "$to"
