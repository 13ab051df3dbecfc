// Plain description of one layer of the paged KV cache: what store and attention kernels take.
#pragma once

#include <cstdint>

#include "device/dtype.h"

namespace moba {

// One layer of the cache. Borrowed pointers, device memory; see docs/kv_layout.md.
//   k, v       [num_pages, num_kv_heads, block_size, head_dim]  keys after RoPE (what attention
//   sees), values centroids  [num_pages, num_kv_heads, head_dim]              mean key of a MoBA
//   block, in the slot of the block's LAST page
// A page holds block_size consecutive tokens of one sequence. A MoBA block is moba_block_size /
// block_size consecutive pages of a sequence's block table. The centroid is valid once the MoBA
// block is full.
struct PagedKvView {
  void* k = nullptr;
  void* v = nullptr;
  void* centroids = nullptr;
  DType dtype = DType::kFloat32;  // of all three: float32, bfloat16 or (CUDA) float16
  std::int64_t num_pages = 0;
  int num_kv_heads = 0;
  int block_size = 0;       // tokens per page
  int moba_block_size = 0;  // tokens per MoBA block, a multiple of block_size
  int head_dim = 0;

  // Elements between a page and the next (k and v).
  std::int64_t page_stride() const { return std::int64_t{num_kv_heads} * block_size * head_dim; }
  // Elements between the heads of a page (k and v).
  std::int64_t head_stride() const { return std::int64_t{block_size} * head_dim; }
  int pages_per_moba_block() const { return moba_block_size / block_size; }
};

}  // namespace moba
