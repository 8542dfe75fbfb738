#!/usr/bin/env bash
# Compiles the kernels for 64-bit Arm, with gcc and with Swift's clang, and compares NEON with the portable kernels bit
# for bit under qemu (check.c). Also looks whether a processor without the dot product gets the portable ones.
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
kernels=$root/Sources/CKernels

"$root/ops/install-packages.sh" gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user

built=$(mktemp -d)
trap 'rm -rf "$built"' EXIT

flags=(-std=gnu11 -ffp-contract=off -Wall -Wextra -Werror "-I$kernels" "-I$kernels/include")
gcc=(aarch64-linux-gnu-gcc "${flags[@]}")
clang=(clang --target=aarch64-linux-gnu -isystem /usr/aarch64-linux-gnu/include "${flags[@]}")

# Only NEON's own file is optimised in full: the portable one takes long, and its bits are the same.
sources=("$root/ops/neon/check.c")
for source in "$kernels"/*.c; do
    [ "${source##*/}" = isa_neon.c ] || sources+=("$source")
done
common=()
for source in "${sources[@]}"; do
    object=$built/$(basename "$source" .c).o
    "${gcc[@]}" -O1 -c "$source" -o "$object"
    common+=("$object")
done
"${gcc[@]}" -O2 -c "$kernels/isa_neon.c" -o "$built/neon-gcc.o"
"${clang[@]}" -O2 -c "$kernels/isa_neon.c" -o "$built/neon-clang.o"

for compiler in gcc clang; do
    "${gcc[@]}" -static "${common[@]}" "$built/neon-$compiler.o" -lm -o "$built/check-$compiler"
    printf '%s: ' "$compiler"
    qemu-aarch64 -cpu max "$built/check-$compiler" neon
done
printf 'without the dot product: '
qemu-aarch64 -cpu cortex-a53 "$built/check-gcc" portable
