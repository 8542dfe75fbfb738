#!/usr/bin/env bash
# Installs the Debian packages that the build and the tests need, or those that are named, if any is missing. Asks nothing.
set -euo pipefail
wanted=(libopenblas-dev libnuma-dev python3 python3-venv)
[ $# -eq 0 ] || wanted=("$@")

missing=()
for package in "${wanted[@]}"; do
    if [ "$(dpkg-query --show --showformat='${db:Status-Status}' "$package" 2>/dev/null)" != installed ]; then
        missing+=("$package")
    fi
done
[ "${#missing[@]}" -eq 0 ] && exit 0

if ! command -v apt-get >/dev/null; then
    echo "these Debian packages are missing, and there is no apt-get to install them: ${missing[*]}" >&2
    exit 1
fi
root=()
if [ "$(id -u)" -ne 0 ]; then
    command -v sudo >/dev/null || {
        echo "these packages are missing and there is no sudo to install them with: ${missing[*]}" >&2
        exit 1
    }
    root=(sudo)
fi
echo "installing ${missing[*]}" >&2
"${root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get update -qq </dev/null >&2
"${root[@]}" env DEBIAN_FRONTEND=noninteractive \
    apt-get install -y -qq --no-install-recommends "${missing[@]}" </dev/null >&2
