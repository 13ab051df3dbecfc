// What the attention kernels take: plain structs of device pointers and numbers, passed by value.
#pragma once

#include <cstdint>

#include "attention/cuda/tiles.h"

namespace moba::cuda {

// Division of numbers below 2^31 by a fixed positive divisor, without a division on the device: n /
// FastDiv and n % FastDiv in fast_div.cuh.
struct FastDiv {
  std::uint32_t divisor = 1;
  std::uint32_t multiplier = 1;
  std::uint32_t shift = 0;

  FastDiv() = default;
  explicit FastDiv(std::uint32_t d) : divisor(d) {
    while (shift < 31 && (std::uint32_t{1} << shift) < d) ++shift;
    const std::uint64_t power = std::uint64_t{1} << shift;
    multiplier = static_cast<std::uint32_t>(((power - d) << 32) / d + 1);
  }
};

// The heads of a layer, and how a KV head's group of query heads is packed into rows: the rows of
// (sequence, KV head) are its query tokens in order, each with the `group` query heads of the KV
// head. Row r is query token r / group, query head kv_head * group + r % group.
struct HeadShape {
  int num_q_heads;
  int num_kv_heads;
  int head_dim;
  int group;  // num_q_heads / num_kv_heads
  FastDiv group_div;
  float scale;       // of q . k
  float scale_log2;  // scale * log2(e): exponentials are of base 2 everywhere
};

// A layer of the cache, docs/kv_layout.md.
struct KvPages {
  const void* k;
  const void* v;
  const void* centroids;
  std::int64_t page_stride;  // elements
  std::int64_t head_stride;
  int block_size;
  int moba_block_size;
  int pages_per_moba_block;
  FastDiv block_size_div;
  FastDiv moba_block_div;
};

// The batch, uploaded by plan(). Written once a batch, at addresses that never change.
struct BatchArrays {
  const std::int32_t* cu_seqlens_q;  // [num_seqs + 1]
  const std::int32_t* seq_lens;      // [num_seqs]
  const std::int64_t* table_begin;   // [num_seqs] the first entry of a sequence in `tables`
  const std::int32_t* tables;        // page ids of the sequences, one after the other
  int num_seqs;
};

// Partial results of rows: normalised outputs with the base-2 logarithm of their softmax sum.
// Element (row, slot) lies at (row - first_row) * slots + slot.
struct Partials {
  void* out;   // [rows, slots, head_dim], dtype of the batch
  float* lse;  // [rows, slots]
  int slots;
  std::int64_t first_row;
};

}  // namespace moba::cuda
