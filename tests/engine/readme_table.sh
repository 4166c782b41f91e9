#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Measures what the README's table shows, and prints it as it stands there:
#
#   sh tests/engine/readme_table.sh            to standard output
#   sh tests/engine/readme_table.sh --update   into README.md, between its two "measured" comments
#
# Exits with 1 when a quality is beyond its bounds (quality_bounds.h), after it has done its work.
# Needs build/release as `sh tests/run` leaves it (KVPACK_BUILD names another). Fetches Gemma 3 270M if it is not there.
set -eu
cd "$(dirname "$0")/../.."

update=
case "$#${1:-}" in
  0) ;;
  1--update) update=1 ;;
  *) sed -n '5,6s/^# *//p' "$0" >&2; exit 2 ;;
esac
build=${KVPACK_BUILD:-build/release}
report=$build/tests/engine/kvpack_engine_report
kvpack=$build/cli/kvpack
for program in "$report" "$kvpack"; do
  [ -x "$program" ] || { echo "readme_table.sh: $program is missing: run \`sh tests/run\` first" >&2; exit 1; }
done
eval "$(sh tests/engine/fetch_llama.sh --gemma | sed "s/=\(.*\)/='\1'/")"

status=0
block=$(mktemp) log=$(mktemp)
trap 'rm -f "$block" "$log"' EXIT

# table NAME MODEL_AS_TYPED TEXT TOKENS [PROFILE]: a heading, the command, what it prints.
table() {
  command="$report --llama \$KVPACK_LLAMA_DIR --model $2 --text $3 --prefix $4 --continuation 256 --kvpack $kvpack${5:+ --profile $5}"
  {
    echo
    echo "**$1**"
    echo
    echo "    $command" | sed 's/ --text/ \\\n        --text/'
    echo
  } >>"$block"
  eval "$command --markdown" >>"$block" 2>"$log" || status=$?
  grep -v '^llama_\|^$' "$log" >&2 || true
  [ $status -lt 2 ] || exit $status
}

processor=$(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1)
compiler=$("$kvpack" version | sed -n 's/^ *compiler *//p')
cat >"$block" <<TEXT
Measured with $("$kvpack" --version) ($compiler) and llama.cpp v0.5.0 on one thread of an $processor. The commands
need \`eval "\$(sh tests/engine/fetch_llama.sh --gemma)"\` before them.
TEXT
table "SmolLM2 135M" '$KVPACK_SMOLLM2_GGUF' tests/engine/texts/story.txt 700 samples/profiles/smollm2-135m.kvprofile
table "Gemma 3 270M" '$KVPACK_GEMMA_GGUF' tests/engine/texts/report.txt 700
table "nano" samples/nano-f16.gguf samples/lighthouse.txt 1024 samples/profiles/nano.kvprofile

if [ -z "$update" ]; then
  cat "$block"
  exit $status
fi
new=$(mktemp README.md.XXXXXX)
trap 'rm -f "$block" "$log" "$new"' EXIT
awk -v block="$block" '
  /^<!-- measured: begin/ { print; while ((getline line < block) > 0) print line; inside = 1; found++ }
  /^<!-- measured: end/ { inside = 0; found++ }
  !inside { print }
  END { exit found != 2 }' README.md >"$new" ||
  { echo "readme_table.sh: README.md lacks its two comments" >&2; exit 1; }
chmod 644 "$new"
mv "$new" README.md
exit $status
