#!/usr/bin/env bash
# Writes Sources/Wire/Generated from protos/. With --check, fails if the committed files differ.
# Needs python3; takes protoc from PyPI's grpcio-tools and protoc-gen-swift from the package's own dependency.
set -euo pipefail
cd "$(dirname "$0")/.."
# Other flags than the rest of the build uses would compile the dependencies once more.
read -ra flags <<<"${SWIFT_FLAGS:--c release -Xswiftc -enable-testing --no-color-diagnostics}"
python="$(ops/python-environment.sh)"
swift build "${flags[@]}" --product protoc-gen-swift
plugin="$(swift build "${flags[@]}" --show-bin-path)/protoc-gen-swift"

out=Sources/Wire/Generated
if [ "${1:-}" = --check ]; then
    out=$(mktemp -d)
    trap 'rm -rf "$out"' EXIT
fi
mkdir -p "$out"
"$python" -m grpc_tools.protoc -Iprotos \
    --plugin=protoc-gen-swift="$plugin" \
    --swift_out="$out" \
    --swift_opt=Visibility=Package,FileNaming=DropPath,UseAccessLevelOnImports=true \
    protos/tramontane/v1/*.proto
if [ "${1:-}" = --check ]; then
    diff -r "$out" Sources/Wire/Generated || { echo "Sources/Wire/Generated is not up to date: run protos/generate.sh" >&2; exit 1; }
fi
