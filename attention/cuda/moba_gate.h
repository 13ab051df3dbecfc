// MoBA prefill before attention: the blocks that each row chooses, and for each block the list of
// rows that chose it. For compute capability 8.0 and up.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "attention/cuda/kernel_params.h"
#include "attention/cuda/tiles.h"
#include "device/dtype.h"

namespace moba::cuda {

struct MobaGateParams {
  const void* q;  // [num_tokens, num_q_heads, head_dim]
  HeadShape heads;
  KvPages pages;
  BatchArrays batch;
  const std::int32_t* topk;  // [num_seqs]
  const GateTile* tiles;
  int num_tiles;
  const RankTile* rank_tiles;
  int num_rank_tiles;
  const BucketRange* ranges;  // ascending by first_bucket
  int num_ranges;
  int num_buckets;
  int tile_rows;  // of the list tiles

  // The rows [first_row, first_row + num_rows) of the batch, slots and entries as Partials has
  // them: slot 0 is the own block's.
  std::int64_t first_row;
  std::int64_t num_rows;
  int slots;
  const std::uint8_t* token_slots;  // [num_tokens] slots that a token's rows have; 0: not MoBA

  float* lse;              // [num_rows, slots] of Partials
  std::int32_t* chosen;    // [num_rows, slots] list of the block
  std::int32_t* ranks;     // [num_rows, slots] place in that list
  std::int32_t* counts;    // [num_buckets] zero between launches
  std::int32_t* begins;    // [num_buckets] first entry of each list
  std::uint32_t* entries;  // [num_rows * (slots - 1)]
  ListTile* list_tiles;
  std::int32_t* num_list_tiles;
};

// Chooses: `chosen`.
void launch_moba_gate(const MobaGateParams& params, int max_topk, DType dtype, cudaStream_t stream);
// Turns the choices into lists and their tiles. The order of a list's rows is not fixed; no result
// depends on it.
void launch_moba_lists(const MobaGateParams& params, cudaStream_t stream);

}  // namespace moba::cuda
