#!/bin/sh
# Lays out all C, C++ and CUDA sources with clang-format 14, or says which are not laid out so.
#
#   tools/format.sh           rewrites them
#   tools/format.sh --check   changes nothing; exits 1 and names the lines if any differ
set -eu
cd "$(dirname "$0")/.."

# Other versions lay some code out differently; with none at hand the check is left to CI.
clang_format=$(command -v clang-format-14 || true)
if [ -z "$clang_format" ]; then
  echo "format: clang-format-14 is not installed" >&2
  [ "${1:-}" = --check ] && [ "${CI:-}" != true ] && exit 0
  exit 1
fi

case "${1:-}" in
  "") options="-i" ;;
  --check) options="--dry-run --Werror" ;;
  *)
    echo "format: unknown option '$1'; usage: tools/format.sh [--check]" >&2
    exit 1
    ;;
esac

# shellcheck disable=SC2086 # a list of words
find . \( -path './.*' -o -path ./build \) -prune -o -type f \
  \( -name '*.h' -o -name '*.c' -o -name '*.cpp' -o -name '*.cu' -o -name '*.cuh' \) -print0 |
  xargs -0 -r "$clang_format" $options || {
  echo "format: not laid out as .clang-format says; tools/format.sh does it" >&2
  exit 1
}
