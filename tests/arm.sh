#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# The kernels for AArch64, cross-compiled and run under QEMU: tests/test_kernels.cc with what it needs. Debian packages:
# g++-aarch64-linux-gnu, qemu-user-static.
set -eu
cd "$(dirname "$0")/.."
out=build/arm
mkdir -p $out/include
# (The same false overflows of GCC 12 as in the main CMakeLists.txt are silenced.)
# Header-only libraries, without the host's other headers.
for library in fmt doctest; do ln -sfn /usr/include/$library $out/include/$library; done
sources="codec/rans codec/kernels codec/kernels_scalar codec/kernels_neon codec/kernels_avx2 codec/kernels_avx512
  formats/bytes formats/result tests/main tests/test_kernels"
compiler="$(command -v ccache || true) aarch64-linux-gnu-g++"
for source in $sources; do echo "$source"; done | xargs -P "$(nproc)" -I '{}' sh -c "
  $compiler -std=c++20 -O2 -ffp-contract=off -Wall -Wextra -Wpedantic -Wshadow -Werror -Wno-array-bounds \
    -Wno-stringop-overflow -Wno-stringop-overread -DFMT_HEADER_ONLY -I. -isystem $out/include -c {}.cc -o $out/\$(basename {}).o"
objects=
for source in $sources; do objects="$objects $out/$(basename "$source").o"; done
# shellcheck disable=SC2086
aarch64-linux-gnu-g++ -static $objects -o $out/kernel_tests
qemu-aarch64-static $out/kernel_tests
