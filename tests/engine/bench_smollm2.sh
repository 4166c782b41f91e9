#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# kvpack and the published recipes on SmolLM2-135M, by what each does to the model's predictions:
#
#   sh tests/engine/bench_smollm2.sh [--profile P|none] [--out FOLDER] [TEXT...] [-- BENCH_OPTION...]
#
# Each text fills a cache with its first tokens (PREFIX, 2048), the next ones (CONTINUATION, 512) are predicted. The
# default texts are those of tests/engine/texts, which are short: 700 and 256. The default profile is the shipped one.
# Prints the README's tables as Markdown: every method's figures; bits per value at a KL of .002, .005 and .02 with
# kvpack's bits as a share of them; what nesting costs. FOLDER (default build/bench-smollm2) gets kl.svg and bench.json,
# and keeps the states and the widened model for the next run.
#
# The model is widened to f32 first: with quantized weights llama.cpp rounds activations to 8 bits, which puts a KL of
# about .003 under every comparison.
# Needs build/release as `sh tests/run` leaves it (KVPACK_BUILD names another). About 40 methods of a second or two each
# and a prediction of four seconds on two cores: five minutes for every text of 2,048 tokens. zstd -19, which has no
# loss to compare, is left out for its time: `-- --against all` has it.
set -eu
cd "$(dirname "$0")/../.."

build=${KVPACK_BUILD:-build/release}
out=build/bench-smollm2
prefix=${PREFIX:-2048}
continuation=${CONTINUATION:-512}
profile=samples/profiles/smollm2-135m.kvprofile
texts=
while [ $# -gt 0 ]; do
  case $1 in
    --profile) profile=$2; shift 2 ;;
    --out) out=$2; shift 2 ;;
    --) shift; break ;;
    -*) sed -n '5s/^# *//p' "$0" >&2; exit 2 ;;
    *) texts="$texts
$1"; shift ;;
  esac
done

kvpack=$build/cli/kvpack
compare=$build/tests/engine/kvpack_compare_states
widen=$build/tests/engine/kvpack_widen_model
for program in "$kvpack" "$compare" "$widen"; do
  [ -x "$program" ] || { echo "bench_smollm2.sh: $program is missing: run \`sh tests/run\` first" >&2; exit 1; }
done
eval "$(sh tests/engine/fetch_llama.sh | sed "s/=\(.*\)/='\1'/")"
mkdir -p "$out"
wide=$out/smollm2-f32.gguf
if [ ! -f "$wide" ]; then
  "$widen" "$KVPACK_LLAMA_DIR/lib" "$KVPACK_SMOLLM2_GGUF" "$wide.part" >"$out/widen.log" 2>&1 ||
    { cat "$out/widen.log" >&2; exit 1; }
  mv "$wide.part" "$wide"
fi

if [ -z "$texts" ]; then
  texts=$(ls tests/engine/texts/*.txt)
  prefix=${PREFIX:-700}
  continuation=${CONTINUATION:-256}
fi
arguments=0
old_ifs=$IFS
IFS='
'
for text in $texts; do
  state=$out/$(basename "$text" .txt)-$prefix.bin
  if [ ! -f "$state" ]; then
    if ! "$compare" --llama "$KVPACK_LLAMA_DIR" --model "$wide" --text "$text" --prefix "$prefix" \
      --continuation "$continuation" --reference "$state" 2>"$out/compare.log"; then
      grep -h 'are needed' "$out/compare.log" >&2 || { cat "$out/compare.log" >&2; exit 1; }
      continue
    fi
  fi
  set -- "$@" "$state" --text "$text"
  arguments=$((arguments + 1))
done
IFS=$old_ifs
[ "$arguments" -gt 0 ] || { echo "bench_smollm2.sh: no text is long enough: set PREFIX and CONTINUATION" >&2; exit 1; }
if [ "$profile" = none ]; then
  set -- --no-profile "$@"
else
  set -- --profile "$profile" "$@"
  case " $* " in *" --bits "*) ;; *) set -- --bits 0.6,0.85,1.3 "$@" ;; esac
fi
case " $* " in
  *" --against "*) ;;
  *) set -- --against cachegen,cachegen-free,kivi,kvquant,gear,rotatekv,zipcache,minicache,ggml,kvtc "$@" ;;
esac
exec "$kvpack" bench --model "$KVPACK_SMOLLM2_GGUF" --engine "$wide" --continuation "$continuation" --markdown \
  --plot "$out/kl.svg" --output "$out/bench.json" --force "$@"
