// Attention of tiles of query rows over ranges of keys, as tile_attention.h has it, for compute
// capability 9.0.
#pragma once

#include <cuda.h>
#include <cuda_runtime_api.h>

#include "attention/cuda/tile_attention.h"

namespace moba::cuda {

// Rows of a tile.
int tile_rows_sm90(int head_dim);

// Keys of a box that the tensor maps of K and V pages describe, which are matrices [num_pages *
// num_kv_heads * block_size, head_dim].
int page_box_rows(int block_size);

struct PageMaps {
  CUtensorMap k;
  CUtensorMap v;
};

// tile_counter: [2] on the device, zero between launches.
void launch_row_tiles_sm90(const TileAttentionParams& params, const PageMaps& maps,
                           std::int32_t* tile_counter, DType dtype, int num_multiprocessors,
                           cudaStream_t stream);
void launch_list_tiles_sm90(const TileAttentionParams& params, const PageMaps& maps,
                            std::int32_t* tile_counter, DType dtype, int num_multiprocessors,
                            cudaStream_t stream);

}  // namespace moba::cuda
