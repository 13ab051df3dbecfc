#!/usr/bin/env bash
# Runs what tensor parallelism promises on the GPUs of this machine: correctness on N of them, then times against one.
#
#   tools/multi_gpu_check.sh BUILD_DIR [N]          N: all GPUs by default
#
# BUILD_DIR is a build with -DMOBA_CUDA=ON -DMOBA_GPU_TESTS=ON and NCCL. MODEL, a checkpoint directory, is what is timed (a random one
# of the shape of Llama-3.1-8B will do: values do not matter); without it only correctness is checked. MOBA_BLOCK and MOBA_TOPK (512, 8) are
# the sparse setting. Prints one table; its rows go into docs/benchmarks.md.
set -euo pipefail
cd "$(dirname "$0")/.."

build=${1:?usage: tools/multi_gpu_check.sh BUILD_DIR [N]}
gpus=$(nvidia-smi --query-gpu=index --format=csv,noheader | wc -l)
n=${2:-$gpus}
starts=${STARTS:-1000}
moba=$build/tools/moba
small=configs/models/moba-books-19m
# NVLink multicast is not to be used.
export NCCL_NVLS_ENABLE=0

if ((n < 2 || n > gpus)); then
  echo "multi_gpu_check: $n GPUs asked for, this machine has $gpus; at least 2 are needed" >&2
  exit 1
fi
nvidia-smi --query-gpu=index,name,driver_version,power.limit --format=csv
nvidia-smi topo -m | head -$((gpus + 1))

echo "== collectives, and the engine over two GPUs"
"$build/tests/device/test_nccl"
"$build/tests/engine/test_engine_cuda" "*two GPUs*"
"$build/tests/device/test_nccl" "[times]"

echo "== tokens of $n GPUs against 1"
prompt="It was a dark and stormy night; the rain fell in torrents"
tokens() {
  "$moba" generate -m "$small" --device cuda --dtype "$1" --tp "$2" --attention "$3" -p "$prompt" -n 128 --greedy \
    --ignore-eos --json -q | python3 -c 'import json, sys; print(json.load(sys.stdin)["token_ids"])'
}
for dtype in float32 bfloat16; do
  for attention in moba full; do
    # The small model has 6 query and 2 KV heads.
    if ((6 % n != 0)); then echo "$dtype $attention: $n does not divide the small model's heads, left out"; continue; fi
    if [[ $(tokens $dtype 1 $attention) == "$(tokens $dtype "$n" $attention)" ]]; then
      echo "$dtype $attention: the same 128 tokens"
    else
      echo "$dtype $attention: DIFFERENT TOKENS"
      if [[ $dtype == float32 ]]; then exit 1; fi # in bfloat16 rounding may choose another token
    fi
  done
done

echo "== $starts starts and stops on 2 GPUs"
begin=$(date +%s)
for ((i = 1; i <= starts; ++i)); do
  timeout 60 "$moba" generate -m "$small" --device cuda --tp 2 -c 512 -p a -n 1 -q > /dev/null ||
    { echo "start $i failed or hung" >&2; exit 1; }
done
echo "$starts starts and stops in $(($(date +%s) - begin)) s"

if [[ -z ${MODEL:-} ]]; then exit 0; fi
echo "== times of $MODEL"
block=${MOBA_BLOCK:-512}
topk=${MOBA_TOPK:-8}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# How the ranks talk: small messages over peer memory, all by NCCL, or not at all, which gives what a step takes without communication.
echo '{}' > "$work/one.json"
echo "{\"parallel\": {\"tensor_parallel_size\": $n, \"peer_message_bytes\": 524288}}" > "$work/peer.json"
echo "{\"parallel\": {\"tensor_parallel_size\": $n, \"peer_message_bytes\": 0}}" > "$work/nccl.json"
echo "{\"parallel\": {\"tensor_parallel_size\": $n, \"skip_communication\": true}}" > "$work/silent.json"
for mode in full moba; do
  flags=(--attention full)
  if [[ $mode == moba ]]; then
    flags=(--attention moba --moba-block-size "$block" --moba-topk "$topk" --full-attention-layers none)
  fi
  for how in one peer nccl silent; do
    bench() { "$moba" bench latency -m "$MODEL" --device cuda --dtype bfloat16 --config "$work/$how.json" "${flags[@]}" -c 132000 --json -q "$@"; }
    bench -p 8192,131072 -n 0 -r 3 > "$work/$mode.$how.prefill"
    bench -p none -d 1024 -n 128 --batches 1,64 -r 3 > "$work/$mode.$how.decode"
  done
done
# The share of time in communication is what the step takes beyond that of the run without any.
python3 - "$work" "$n" << 'EOF_PYTHON'
import json, sys
work, n = sys.argv[1:]
def seconds(mode, how):
    found = {}
    for kind in ("prefill", "decode"):
        for case in json.load(open(f"{work}/{mode}.{how}.{kind}"))["cases"]:
            found[case["case"], case["prompt_tokens"], case["batch"]] = case["median_seconds"]
    return found
print(f"{'case':<34} {'1 GPU s':>9} {n + ' GPUs s':>9} {'ratio':>6} {'NCCL s':>9} {'ratio':>6} {'silent s':>9} {'share':>6}")
for mode in ("full", "moba"):
    one, peer, nccl, silent = (seconds(mode, how) for how in ("one", "peer", "nccl", "silent"))
    for case in one:
        name = f"{case[0]} at {case[1]}, batch {case[2]}, {mode}"
        print(f"{name:<34} {one[case]:9.3f} {peer[case]:9.3f} {one[case] / peer[case]:6.2f} {nccl[case]:9.3f} "
              f"{one[case] / nccl[case]:6.2f} {silent[case]:9.3f} {100 * (1 - silent[case] / peer[case]):5.1f}%")
EOF_PYTHON
