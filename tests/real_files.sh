#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Every KV file of a folder (and of its subfolders) through the program: lossless to the identical bytes, medium to a
# file of the same layout. A model beside the files is used where it fits them: the .gguf or .model.json whose name
# begins as the file's does (nano-f16.gguf serves nano-book.slot.bin), else none.
#
#   sh tests/real_files.sh [--kvpack PROGRAM] DIR      prints a line per file; ends with 1 if any fails
set -eu
kvpack=$(dirname "$0")/../build/release/cli/kvpack
if [ "${1:-}" = --kvpack ]; then
  kvpack=$2
  shift 2
fi
[ $# = 1 ] && [ -d "$1" ] || { sed -n '3,8s/^# \{0,1\}//p' "$0" >&2; exit 2; }
samples=$1
scratch=$(mktemp -d "${TMPDIR:-/tmp}/kvpack-real-XXXXXX")
trap 'rm -rf "$scratch"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# The first model in the file's folder or in DIR that is named after the same model and can be read with the file.
model_of() {
  word=$(basename "$1")
  word=${word%%[-.]*}
  for candidate in "$(dirname "$1")/$word"*.gguf "$(dirname "$1")/$word"*.model.json "$samples/$word"*.gguf; do
    [ -f "$candidate" ] || continue
    echo "$candidate"
    return
  done
}

# What a file is apart from its values: sizes, positions, types, streams, token ids, and everything that is kept as it
# is. Two files have the same layout if a lossless archive of each has the same shape and the same container.
layout_of() {
  "$kvpack" encode "$1" ${2:+--model "$2"} --quality lossless -q -o - | "$kvpack" inspect - --json | python3 -c '
import json, sys
archive = json.load(sys.stdin)
for plane in archive["planes"]:
    for field in "level_bytes", "level_distortion":
        del plane[field]
kept = [section["raw_bytes"] for section in archive["sections"] if section["kind"] in ("container", "tokens")]
print(archive["identity"]["source"], archive["token_sets"], archive["planes"], archive["ropes"], kept)'
}

failed=0 tried=0
printf '%-52s %9s %9s %9s %8s  %s\n' file bytes lossless medium 'rel. L2' model
for file in $(find "$samples" -type f \( -name '*.bin' -o -name '*.safetensors' -o -name '*.npy' \) | sort); do
  tried=$((tried + 1))
  name=${file#"$samples"/}
  model=$(model_of "$file")
  problem=
  for quality in lossless medium; do
    "$kvpack" encode "$file" ${model:+--model "$model"} --quality $quality -q -o - >"$scratch/$quality.kvp" &&
      "$kvpack" verify -q "$scratch/$quality.kvp" &&
      "$kvpack" decode "$scratch/$quality.kvp" --no-swa-guard-cell -q -o - >"$scratch/$quality.out" ||
      problem="$quality: exit code $?"
    [ -z "$problem" ] || break
  done
  error=-
  if [ -z "$problem" ]; then
    cmp -s "$file" "$scratch/lossless.out" || problem='lossless: other bytes'
    layout=$(layout_of "$file" "$model")
    [ -n "$layout" ] && [ "$layout" = "$(layout_of "$scratch/medium.out" "$model")" ] ||
      problem='medium: another layout'
    if "$kvpack" inspect --json "$scratch/medium.kvp" | grep -q '"planes": \[\]'; then
      cmp -s "$file" "$scratch/medium.out" || problem='medium: other bytes, though there are no values'
    else
      error=$("$kvpack" diff "$file" "$scratch/medium.out" ${model:+--model "$model"} --json |
        python3 -c 'import json, sys; print("%.4f" % json.load(sys.stdin)["total"]["relative_l2"])')
    fi
  fi
  size() { wc -c <"$1" | tr -d ' '; }
  printf '%-52s %9s %9s %9s %8s  %s\n' "$name" "$(size "$file")" "$(size "$scratch/lossless.kvp")" \
    "$(size "$scratch/medium.kvp")" "$error" "${model:+${model##*/}}${problem:+ FAILED: $problem}"
  [ -z "$problem" ] || failed=$((failed + 1))
done
echo "$tried files, $failed failed"
[ "$tried" -gt 0 ] && [ "$failed" = 0 ]
