#!/usr/bin/env bash
# Checks the CUDA backend on this machine's GPU, and measures it: configures, builds, runs the GPU tests, compute-sanitizer over the
# kernel tests at small sizes, and the benchmarks. Prints one table at the end; exits 1 if a check failed.
#
#   tools/gpu_check.sh [--quick] [--bench-only | --no-bench] [BUILD_DIR]
#
#   BUILD_DIR      build/gpu by default; CMAKE_ARGS is added to its configuration, ARCHITECTURES replaces the GPU's own
#   --quick        few lengths in the benchmarks, small attention tests alone, sanitizers without the cache's tests
#   --bench-only   no tests, no sanitizers
#   --no-bench     no benchmarks
#
# MODEL, a checkpoint directory, is what the benchmarks of whole models run; without it random ones are written below BUILD_DIR: 1B, and
# 8B too where the GPU has 40 GB. OUT (BUILD_DIR/check) gets the log of each row and the benchmarks' JSON. cuDNN is timed where python3 has PyTorch.
set -u
cd "$(dirname "$0")/.."

quick=no
tests=yes
bench=yes
build=build/gpu
while [ $# -gt 0 ]; do
  case "$1" in
    --quick) quick=yes ;;
    --bench-only) tests=no ;;
    --no-bench) bench=no ;;
    -h | --help)
      sed -n '2,14s/^# \{0,1\}//p' tools/gpu_check.sh
      exit 0
      ;;
    -*)
      echo "gpu_check: unknown option '$1' (see --help)" >&2
      exit 2
      ;;
    *) build=$1 ;;
  esac
  shift
done

fail() {
  echo "gpu_check: $*" >&2
  exit 1
}

command -v nvidia-smi >/dev/null && gpu=$(nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader -i 0) ||
  fail "no NVIDIA GPU here (nvidia-smi does not answer)"
capability=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader -i 0 | tr -d .)
memory=$(nvidia-smi --query-gpu=memory.total --format=csv,noheader,nounits -i 0)
# Hopper's own instructions need the architecture with an a.
case "$capability" in
  90) own=90a-real ;;
  *) own=$capability-real ;;
esac
architectures=${ARCHITECTURES:-$own}
out=${OUT:-$build/check}
mkdir -p "$out"
table=$out/table.txt
: >"$table"
failures=0

# row NAME FORMAT... : a line of the table, which is also printed as it comes.
row() {
  name=$1
  shift
  printf '%-44s %s\n' "$name" "$*" | tee -a "$table"
}

# check NAME LOG COMMAND... : runs a command; its row says whether it succeeded and how long it took.
check() {
  name=$1
  log=$out/$2.log
  shift 2
  begin=$(date +%s)
  if "$@" >"$log" 2>&1; then
    row "$name" "ok, $(($(date +%s) - begin)) s"
  else
    row "$name" "FAILED (rc $?), $(($(date +%s) - begin)) s: $log"
    failures=$((failures + 1))
    return 1
  fi
}

# run_bench NAME LOG COMMAND... : runs a benchmark; what it says stands below its row.
run_bench() {
  check "$1" "$2" "${@:3}" || return 0
  sed 's/^/    /' "$out/$2.log" | grep -v '^ *moba: ' | tee -a "$table"
}

echo "$gpu, compute capability $capability; commit $(git describe --always --dirty 2>/dev/null || echo unknown)" | tee -a "$table"

# shellcheck disable=SC2086 # CMAKE_ARGS is a list of words
check configure configure cmake --preset cuda -B "$build" -DMOBA_CUDA_ARCHITECTURES="$architectures" -DMOBA_GPU_TESTS=ON \
  -DMOBA_BUILD_BENCH=ON ${CMAKE_ARGS:-} || exit 1
gpu_tests="test_attention_cuda test_device_cuda test_engine_cuda test_kvcache_cuda test_model_cuda"
# shellcheck disable=SC2086
check build build cmake --build "$build" --target moba_program make_random_checkpoint $gpu_tests || exit 1
moba=$build/tools/moba

if [ "$tests" = yes ]; then
  for folder in device kvcache attention model engine; do
    some=""
    [ "$folder$quick" = attentionyes ] && some='[small]'
    # shellcheck disable=SC2086 # one word or none
    check "test_${folder}_cuda $some" "test_$folder" "$build/tests/$folder/test_${folder}_cuda" $some
  done
  sanitizer=$(command -v compute-sanitizer || echo /usr/local/cuda/bin/compute-sanitizer)
  if [ -x "$sanitizer" ]; then
    # Small sizes: each access of each thread is looked at.
    attention_tests='[small]'
    device_tests='*of up to 8 rows*,*can be merged*,rms_norm*,embedding*,silu_mul*,RoPE*'
    for tool in memcheck racecheck; do
      check "$tool: attention" "${tool}_attention" "$sanitizer" --tool $tool --error-exitcode 9 \
        "$build/tests/attention/test_attention_cuda" "$attention_tests"
      check "$tool: device" "${tool}_device" "$sanitizer" --tool $tool --error-exitcode 9 \
        "$build/tests/device/test_device_cuda" "$device_tests"
      [ "$quick" = yes ] && continue
      check "$tool: cache" "${tool}_kvcache" "$sanitizer" --tool $tool --error-exitcode 9 \
        "$build/tests/kvcache/test_kvcache_cuda"
    done
  else
    row "compute-sanitizer" "not found: left out"
  fi
fi

if [ "$bench" = yes ]; then
  lengths=8192,32768,131072
  [ "$quick" = yes ] && lengths=8192,32768
  cudnn=""
  if python3 -c 'import torch; assert torch.cuda.is_available()' 2>/dev/null; then
    check "cuDNN through PyTorch" cudnn python3 tools/bench/cuda/attention_torch.py --tokens $lengths --repeats 3 \
      --json "$out/cudnn.json" && cudnn="--cudnn $out/cudnn.json"
  else
    row "cuDNN through PyTorch" "no PyTorch with CUDA here: left out"
  fi
  # shellcheck disable=SC2086
  run_bench "attention, prefill" attention_prefill "$moba" bench attention --tokens $lengths -r 3 $cudnn
  run_bench "attention, decode" attention_decode "$moba" bench attention --mode decode --tokens $lengths --batches 1,16 \
    --heads 32/8 --head-dims 128 --pairs 512/8,4096/12
  models=${MODEL:-}
  if [ -z "$models" ]; then
    shapes=1b
    [ "$memory" -ge 40000 ] && shapes="1b 8b"
    for shape in $shapes; do
      dir=$build/random-$shape
      [ -e "$dir/config.json" ] || check "write a random $shape" "write_$shape" "$build/tools/bench/make_random_checkpoint" "$shape" \
        "$dir" --max-position-embeddings 1048576 --moba-block-size 512 --moba-topk 8 || continue
      models="$models $dir"
    done
  fi
  for model in $models; do
    name=$(basename "$model")
    run_bench "$name, full attention" "latency_full_$name" "$moba" bench latency -m "$model" --device cuda --attention full \
      -p $lengths -d 1024 -r 3
    run_bench "$name, as it says" "latency_$name" "$moba" bench latency -m "$model" --device cuda -p $lengths -d 1024,32768 -n 64 -r 3
    run_bench "$name, 64 together" "batch_$name" "$moba" bench latency -m "$model" --device cuda --attention full -p none -d 2048 \
      --batches 64 -n 64 -r 3
    run_bench "$name, 256 requests" "load_$name" "$moba" bench throughput -m "$model" --device cuda
  done
fi

echo
echo "== $table"
grep -v '^    ' "$table"
if [ $failures -gt 0 ]; then
  echo "gpu_check: $failures failed" >&2
  exit 1
fi
