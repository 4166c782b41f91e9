# SPDX-License-Identifier: Apache-2.0
# Sourced by tests/run and samples/run: installs what is missing on Debian 12, configures and builds.
# shellcheck shell=sh

kvpack_packages="g++ cmake ninja-build pkg-config libzstd-dev libcurl4-openssl-dev libssl-dev libcpp-httplib-dev
  libcli11-dev libeigen3-dev libfmt-dev doctest-dev libxxhash-dev nlohmann-json3-dev libbenchmark-dev libhtscodecs-dev
  liblz4-dev"
# What only the tests start.
test_packages="python3 nginx-light openssl curl iproute2"

# install_packages PACKAGE...: those that are not there yet, with sudo where needed.
install_packages() {
  missing=
  for package in "$@"; do
    dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing="$missing $package"
  done
  [ -n "$missing" ] || return 0
  echo "installing:$missing" >&2
  as_root=
  [ "$(id -u)" = 0 ] || as_root=sudo
  # shellcheck disable=SC2086
  { $as_root apt-get update -q && DEBIAN_FRONTEND=noninteractive $as_root apt-get install -q -y --no-install-recommends $missing; } >&2
}

# build DIR TARGET [CMAKE_ARGUMENT...]
build() {
  build_dir=$1 build_target=$2
  shift 2
  cmake -S . -B "$build_dir" -G Ninja "$@" >"$build_dir.log" 2>&1 || { cat "$build_dir.log" >&2; return 1; }
  cmake --build "$build_dir" --target "$build_target" >&2
}
