#!/usr/bin/env bash
# Writes Sources/Wire/Generated from protos/. With --check, fails if the committed files differ.
# Needs python3; takes protoc from PyPI's grpcio-tools and protoc-gen-swift from the package's own dependency.
set -euo pipefail
cd "$(dirname "$0")/.."
configuration=${CONFIGURATION:-release}
environment=.build/protoc-venv
if [ ! -x "$environment/bin/python" ] || ! "$environment/bin/python" -c 'import grpc_tools' 2>/dev/null; then
    python3 -m venv "$environment"
    "$environment/bin/pip" install --quiet --disable-pip-version-check grpcio-tools
fi
swift build -c "$configuration" --product protoc-gen-swift
plugin="$(swift build -c "$configuration" --show-bin-path)/protoc-gen-swift"

out=Sources/Wire/Generated
if [ "${1:-}" = --check ]; then
    out=$(mktemp -d)
    trap 'rm -rf "$out"' EXIT
fi
mkdir -p "$out"
"$environment/bin/python" -m grpc_tools.protoc -Iprotos \
    --plugin=protoc-gen-swift="$plugin" \
    --swift_out="$out" \
    --swift_opt=Visibility=Package,FileNaming=DropPath,UseAccessLevelOnImports=true \
    protos/tramontane/v1/*.proto
if [ "${1:-}" = --check ]; then
    diff -r "$out" Sources/Wire/Generated || { echo "Sources/Wire/Generated is not up to date: run protos/generate.sh" >&2; exit 1; }
fi
