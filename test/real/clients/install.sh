#!/usr/bin/env bash
# Installs paho-mqtt (Python) and MQTT.js at the versions pinned beside this script: install.sh FOLDER
set -euo pipefail
from=$(cd "$(dirname "$0")" && pwd)
to=$1

# A copy of what pins a version is left when its installation is complete, and tells that there is nothing to do.
if ! cmp -s "$from/requirements.txt" "$to/requirements.txt"; then
  echo "==> pip install $(cut -d' ' -f1 "$from/requirements.txt")"
  rm -rf "$to/venv"
  python3 -m venv "$to/venv"
  "$to/venv/bin/pip" install --quiet --no-deps --only-binary :all: --require-hashes -r "$from/requirements.txt"
  cp "$from/requirements.txt" "$to/"
fi
if ! cmp -s "$from/package-lock.json" "$to/node/package-lock.json"; then
  echo "==> npm ci $(sed -n 's/.*"\(mqtt\)": "\(.*\)".*/\1@\2/p' "$from/package.json")"
  rm -rf "$to/node" "$to/node.part"
  mkdir -p "$to/node.part"
  cp "$from/package.json" "$from/package-lock.json" "$to/node.part/"
  npm ci --prefix "$to/node.part" --ignore-scripts --no-audit --no-fund --loglevel error
  mv "$to/node.part" "$to/node"
fi
