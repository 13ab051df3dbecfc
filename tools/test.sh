#!/bin/sh
# Sets up, checks the format, builds everything and runs all tests.
#
#   tools/test.sh [--no-setup] [--asan] [ctest options]
#
#   --no-setup   install nothing
#   --asan       also build with AddressSanitizer and UndefinedBehaviorSanitizer and test that, without the
#                programs and the tests tagged [long], and with fewer random steps and shapes
# Whatever else is given goes to ctest: `tools/test.sh -R attention` runs what matches.
set -eu
cd "$(dirname "$0")/.."

setup=yes
asan=no
while [ $# -gt 0 ]; do
  case "$1" in
    --no-setup) setup=no ;;
    --asan) asan=yes ;;
    -h | --help)
      sed -n '2,9s/^# \{0,1\}//p' tools/test.sh
      exit 0
      ;;
    *) break ;;
  esac
  shift
done

if [ "$setup" = yes ]; then
  tools/setup.sh --tests
fi

tools/format.sh --check

# build_and_test PRESET [ctest options]
build_and_test() {
  preset=$1
  shift
  programs=ON
  if [ "$preset" = asan ]; then programs=OFF; fi
  cmake --preset "$preset" -DMOBA_BUILD_TESTS=ON -DMOBA_BUILD_TOOLS=$programs -DMOBA_BUILD_BENCH=$programs \
    --log-level=WARNING
  cmake --build --preset "$preset"
  ctest --preset "$preset" --no-tests=error "$@"
}

if [ "$asan" = yes ]; then
  build_and_test asan "$@"
fi
build_and_test cpu "$@"
