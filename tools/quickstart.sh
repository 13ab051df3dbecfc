#!/bin/sh
# From a fresh clone to generated text: installs what is missing, builds, generates with the embedded
# model, then hides a number in 16K tokens of a novel and times finding it with MoBA and with full
# attention.
#
#   tools/quickstart.sh [--no-setup] [--seed N] [PROMPT]
#
#   --no-setup   install nothing
#   --seed N     the same text and the same hidden number every time
set -eu
cd "$(dirname "$0")/.."

setup=yes
seed=$(od -An -N3 -tu4 /dev/urandom | tr -d " ")
while [ $# -gt 0 ]; do
  case "$1" in
    --no-setup) setup=no ;;
    --seed)
      seed=${2:?--seed needs a number}
      shift
      ;;
    -h | --help)
      sed -n '2,9s/^# \{0,1\}//p' tools/quickstart.sh
      exit 0
      ;;
    *) break ;;
  esac
  shift
done
if [ "$setup" = yes ]; then
  tools/setup.sh
fi
prompt=${1:-It was a dark and stormy night when the old captain came to the inn, and}

model=configs/models/moba-books-19m
book=configs/text/pride-and-prejudice-16k.txt
moba=build/cpu/tools/moba

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

fail() {
  echo "quickstart: $*" >&2
  exit 1
}

echo "== Building moba (Release)"
# A build folder that tools/test.sh made already has all this and more.
if [ ! -f build/cpu/build.ninja ]; then
  cmake --preset cpu -DMOBA_BUILD_TESTS=OFF -DMOBA_BUILD_BENCH=OFF >"$work/log" 2>&1 || {
    cat "$work/log" >&2
    fail "cmake could not configure the build"
  }
fi
cmake --build --preset cpu --target moba_program || fail "the build failed"

echo
echo "== Text by the embedded model ($model), with MoBA attention"
echo
printf '%s' "$prompt"
"$moba" generate --model "$model" --prompt "$prompt" --max-tokens 120 \
  --config configs/story.json --seed "$seed" 2>"$work/log" || {
  cat "$work/log" >&2
  fail "moba generate failed"
}
[ -t 1 ] || echo  # on a terminal moba ends the line itself

# Name, number and depth in percent.
hidden=$(awk -v seed="$seed" 'BEGIN {
  n = split("Margaret Edward Eleanor Henry Dorothy Walter Beatrice Samuel Florence Martha Nicholas " \
    "Edith Agnes Stephen Clara Hugh Rosamund Daniel Helen Gilbert Judith Matthew Laura Andrew", names)
  srand(seed)
  printf "%s %05d %d", names[1 + int(rand() * n)], int(rand() * 100000), 10 + int(rand() * 81)
}')
name=${hidden%% *}
depth=${hidden##* }
number=${hidden#* }
number=${number% *}
paragraphs=$(awk -v RS= 'END { print NR }' "$book")
question="What is the secret number of $name?"

# The question as the model was trained on it; it goes on with a space and five digits.
awk -v RS= -v ORS='\n\n' -v at=$((paragraphs * depth / 100 + 1)) \
  -v fact="The secret number of $name is $number." \
  'NR == at { print fact } { print }' "$book" >"$work/prompt"
printf '%s The secret number of %s is' "$question" "$name" >>"$work/prompt"

echo
echo "== A number hidden in the first chapters of Pride and Prejudice"
echo
echo "  hidden at $depth% of the text: \"The secret number of $name is $number.\""
echo "  asked at the end:      \"$question\""
echo

# The number of a key in the one line of JSON that moba writes.
json_number() {
  sed -n "s/.*\"$1\": *\([0-9.eE+-]*\).*/\1/p" "$work/out.json"
}

# ask MODE LABEL: sets seconds, and counts in wrong.
wrong=0
ask() {
  "$moba" generate --model "$model" --file "$work/prompt" --attention "$1" --temperature 0 \
    --max-tokens 6 --json >"$work/out.json" 2>"$work/log" || {
    cat "$work/log" >&2
    fail "moba generate failed"
  }
  answer=$(sed -n 's/.*"text": *" *\([0-9]*\).*/\1/p' "$work/out.json")
  verdict=right
  if [ "$answer" != "$number" ]; then
    verdict="wrong, it is $number"
    wrong=$((wrong + 1))
  fi
  seconds=$(json_number prompt_seconds)
  printf '  %-15s read %s tokens in %.2f s, answered %s (%s)\n' "$2" \
    "$(json_number num_prompt_tokens)" "$seconds" "$answer" "$verdict"
}

ask auto "MoBA"
moba_seconds=$seconds
ask full "full attention"

echo
awk -v full="$seconds" -v moba="$moba_seconds" \
  'BEGIN { printf "  MoBA read the prompt %.1f times as fast as full attention.\n", full / moba }'
[ "$wrong" = 0 ] || fail "the number was not found in $wrong of 2 runs"
