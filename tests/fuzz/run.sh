#!/bin/sh
# Builds the fuzzers with clang and runs each for some seconds (60 unless told): tests/fuzz/run.sh [SECONDS]
#
# Starts from the templates of tests/data/chat, the files of tests/data/gguf and from bodies of its own. Inputs that crash, hang or take too much memory are left in
# build/fuzz as crash-*, timeout-* and oom-*. Exit code 77 where there is no clang with its fuzzer.
set -eu
cd "$(dirname "$0")/../.."
seconds=${1:-60}
# Debian has the fuzzer's library in a package of its own (libclang-rt-dev).
probe='extern "C" int LLVMFuzzerTestOneInput(const unsigned char*, unsigned long) { return 0; }'
echo "$probe" | clang++ -fsanitize=fuzzer,address,undefined -x c++ -o /dev/null - 2>/dev/null || {
  echo "skipped: there is no clang++ that links fuzzers" >&2
  exit 77
}
cmake -S . -B build/fuzz -G Ninja -DCMAKE_BUILD_TYPE=Release -DCMAKE_C_COMPILER=clang -DCMAKE_CXX_COMPILER=clang++ \
  -DMOBA_FUZZ=ON -DMOBA_BUILD_TESTS=OFF -DMOBA_BUILD_TOOLS=OFF -DMOBA_BUILD_BENCH=OFF --log-level=WARNING
cmake --build build/fuzz --target fuzz_request fuzz_template fuzz_gguf
cd build/fuzz
mkdir -p corpus_request corpus_template corpus_gguf
for file in ../../tests/data/gguf/*.gguf; do
  head -c 8000 "$file" >"corpus_gguf/$(basename "$file")"
done
cp ../../tests/data/chat/*.jinja corpus_template/
printf '%s' 'a{"prompt": ["x", "y"], "n": 2, "logprobs": 1, "stop": ["a"], "logit_bias": {"5": 1.5}, "seed": 7}' >corpus_request/completion
printf '%s' 'b{"messages": [{"role": "user", "content": [{"type": "text", "text": "x"}]}], "stream": true}' >corpus_request/chat
limits="-max_total_time=$seconds -timeout=20 -rss_limit_mb=2048 -print_final_stats=1 -verbosity=0 -print_funcs=0"
# shellcheck disable=SC2086 # a list of words
tests/fuzz/fuzz_request $limits -max_len=8192 corpus_request
# shellcheck disable=SC2086
tests/fuzz/fuzz_template $limits -max_len=8192 corpus_template
# shellcheck disable=SC2086
tests/fuzz/fuzz_gguf $limits -max_len=8192 corpus_gguf
