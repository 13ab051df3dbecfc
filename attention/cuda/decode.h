// Attention of sequences with one query token: all keys, or the blocks that the gate chose, split
// evenly over the device and put together in the same launch. Grids depend on the number of
// sequences only; lengths and choices are read from device memory. For compute capability 8.0 and
// up.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

#include "attention/cuda/decode_plan.h"
#include "attention/cuda/kernel_params.h"
#include "device/dtype.h"

namespace moba::cuda {

// What the gate chose for the units of a batch: the union over a unit's query heads, ascending, the
// query's own block last.
struct DecodeSelection {
  std::int32_t* count;   // [num_units]; 0: every key
  std::int32_t* blocks;  // [num_units, kMaxUnion]
  std::uint32_t* masks;  // [num_units, kMaxUnion] bit r: row r chose the block
};

struct DecodeParams {
  const void* q;  // [num_tokens, num_q_heads, head_dim]
  void* out;      // like q
  HeadShape heads;
  KvPages pages;
  BatchArrays batch;
  FastDiv heads_div;                // num_kv_heads * tiles_per_head
  FastDiv tiles_div;                // tiles_per_head
  FastDiv chunks_per_block_div;     // moba_block_size / kChunkKeys
  const std::int32_t* decode_lens;  // [num_seqs] keys; 0: not a sequence to decode
  const std::int32_t* topk;         // [num_seqs]
  int num_units;
  int num_parts;  // blocks of threads that share the work
  // How the work is divided where nothing is chosen; else every part finds its own.
  const DecodeStart* starts;        // [num_parts + 1]
  const std::int32_t* part_chunks;  // [1] chunks of each part
  DecodeSelection selection;

  // Partial results of parts: [2 * num_parts] pieces of kUnitRows rows.
  float* part_out;              // [pieces, kUnitRows, head_dim]
  float2* part_stats;           // [pieces, kUnitRows] maximum (base 2) and sum
  std::int32_t* unit_arrivals;  // [num_units] zero between launches
  std::int32_t* gate_arrivals;  // [num_units] zero between launches

  // The gate's candidates.
  int gate_splits;
  float* candidate_scores;         // [num_units, gate_splits, kUnitRows, kMaxSelect - 1]
  std::int32_t* candidate_blocks;  // the same
  std::int32_t* unit_chunks;       // [num_units]
};

// Chooses blocks: writes `selection` and `unit_chunks`.
void launch_decode_gate(const DecodeParams& params, DType dtype, cudaStream_t stream);
// `use_selection`: launch_decode_gate() came before.
void launch_decode_attention(const DecodeParams& params, bool use_selection, DType dtype,
                             std::size_t max_shared_bytes, cudaStream_t stream);

// Parts that a device's work is divided into, all of which run at once. max_shared_bytes: what a
// block of threads may have of shared memory.
int decode_parts(int num_multiprocessors, std::size_t max_shared_bytes);

}  // namespace moba::cuda
