#!/usr/bin/env bash
# Installs Debian packages for the commands that are missing: install.sh COMMAND:PACKAGE …
# python3.MODULE stands for a module that python3 needs.
set -euo pipefail
PATH=$PATH:/usr/sbin
missing=()
has() {
  case $1 in
    python3.*) python3 -c "import ${1#python3.}" ;;
    *) command -v "$1" ;;
  esac >/dev/null 2>&1
}
for want in "$@"; do
  has "${want%%:*}" || missing+=("${want##*:}")
done
[ ${#missing[@]} -eq 0 ] && exit 0
echo "==> apt-get install ${missing[*]}"
sudo=()
[ "$(id -u)" -eq 0 ] || sudo=(sudo)
export DEBIAN_FRONTEND=noninteractive
# The packages' own services are not wanted: the tests start the programs themselves.
printf '#!/bin/sh\nexit 101\n' > /tmp/policy-rc.d.$$
[ -e /usr/sbin/policy-rc.d ] || { "${sudo[@]}" install -m 755 /tmp/policy-rc.d.$$ /usr/sbin/policy-rc.d; placed=1; }
rm -f /tmp/policy-rc.d.$$
trap '[ -z "${placed:-}" ] || "${sudo[@]}" rm -f /usr/sbin/policy-rc.d' EXIT
"${sudo[@]}" apt-get update -qq
"${sudo[@]}" apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
