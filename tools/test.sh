#!/bin/sh
# Sets up, checks the format, builds everything and runs all tests.
#
#   tools/test.sh [--no-setup] [--asan] [--no-cuda] [ctest options]
#
# Where nvcc is found, 12.4 or newer, the CUDA configuration is compiled too, for one architecture, and tests that need no GPU are run of
# what it has of its own; tools/gpu_check.sh runs those that need one.
#
#   --no-setup   install nothing
#   --asan       also build with AddressSanitizer and UndefinedBehaviorSanitizer and test that, without the
#                programs and the tests tagged [long], and with fewer random steps and shapes
#   --no-cuda    leave out the CUDA configuration
# Whatever else is given goes to ctest: `tools/test.sh -R attention` runs what matches.
set -eu
cd "$(dirname "$0")/.."

setup=yes
asan=no
cuda=yes
while [ $# -gt 0 ]; do
  case "$1" in
    --no-setup) setup=no ;;
    --asan) asan=yes ;;
    --no-cuda) cuda=no ;;
    -h | --help)
      sed -n '2,13s/^# \{0,1\}//p' tools/test.sh
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

# Whether the CUDA configuration can be compiled here; says why where nvcc is there and it cannot.
has_cuda() {
  nvcc=$(command -v nvcc || echo /usr/local/cuda/bin/nvcc)
  [ -x "$nvcc" ] || return 1
  release=$("$nvcc" --version | sed -n 's/.*release \([0-9]*\)\.\([0-9]*\).*/\1 \2/p')
  # shellcheck disable=SC2086 # two numbers
  set -- $release
  if [ "${1:-0}" -lt 12 ] || { [ "$1" -eq 12 ] && [ "$2" -lt 4 ]; }; then
    echo "test: $nvcc is CUDA ${1:-?}.${2:-?}, older than 12.4: the CUDA configuration is left out" >&2
    return 1
  fi
  include=$(dirname "$(dirname "$(readlink -f "$nvcc")")")/include
  for header in cublasLt.h cuda_runtime_api.h; do
    if ! find -L "$include" "$include/../targets" /usr/include -maxdepth 4 -name $header 2>/dev/null | grep -q .; then
      echo "test: no $header beside $nvcc: the CUDA configuration is left out" >&2
      return 1
    fi
  done
}

# build_and_test PRESET [ctest options]
build_and_test() {
  preset=$1
  shift
  programs=ON
  if [ "$preset" = asan ]; then programs=OFF; fi
  architectures=""
  # Of the architectures the one that has all kernels: others compile some of them again.
  if [ "$preset" = cuda ]; then architectures=-DMOBA_CUDA_ARCHITECTURES=90a-real; fi
  # shellcheck disable=SC2086 # one word or none
  cmake --preset "$preset" $architectures -DMOBA_BUILD_TESTS=ON -DMOBA_BUILD_TOOLS=$programs -DMOBA_BUILD_BENCH=$programs \
    --log-level=WARNING
  cmake --build --preset "$preset"
  ctest --preset "$preset" --no-tests=error "$@"
}

if [ "$asan" = yes ]; then
  build_and_test asan "$@"
fi
if [ "$cuda" = yes ] && has_cuda; then
  # What that build has of its own; all else runs below, from the same sources.
  build_and_test cuda -R '^(device|kvcache|attention_cuda_plan|engine_exports|engine_c_api|package_.*)$'
fi
build_and_test cpu "$@"
