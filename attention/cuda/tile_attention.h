// Attention of tiles of query rows over ranges of keys: full prefill, a query's own MoBA block, and
// the rows that chose a past MoBA block. For compute capability 8.0 and up.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "attention/cuda/kernel_params.h"
#include "device/dtype.h"

namespace moba::cuda {

struct TileAttentionParams {
  const void* q;  // [num_tokens, num_q_heads, head_dim]
  void* out;      // like q
  HeadShape heads;
  KvPages pages;
  BatchArrays batch;
  Partials partials;

  // Rows in order: one of the two forms of results.
  const RowTile* row_tiles;
  int num_row_tiles;
  int window;        // 0, or MoBA block size: rows see only their own MoBA block
  int partial_slot;  // -1: results go to out; else to this slot of `partials`
  // Only for capability 9.0, with partial_slot -1: results are first put together with what lies in
  // slots [1, merge_slots) of the rows.
  int merge_slots;

  // Listed rows; results go to `partials`.
  const ListTile* list_tiles;
  const std::int32_t* num_list_tiles;  // on the device
  const std::uint32_t* entries;
};

// One block of threads per tile.
void launch_row_tiles(const TileAttentionParams& params, DType dtype, cudaStream_t stream);
// A fixed grid that goes through the tiles.
void launch_list_tiles(const TileAttentionParams& params, DType dtype, int num_multiprocessors,
                       cudaStream_t stream);

}  // namespace moba::cuda
