// The oracle: full and MoBA attention written as their definition, in double precision.
#pragma once

#include <cstdint>
#include <vector>

#include "attention/attention_metadata.h"
#include "device/tensor.h"
#include "kvcache/paged_kv_view.h"

namespace moba {

// What attention gives for a batch; index [token, query head] where it says so.
struct ReferenceAttention {
  std::vector<double> out;  // [num_tokens, num_q_heads, head_dim]
  // [num_tokens, num_q_heads]: the blocks attended to, ascending, the query's own last. Empty
  // entries under full attention.
  std::vector<std::vector<std::int32_t>> selected;
  // [num_tokens, num_q_heads]: by how much the last chosen past block's score exceeds the first one
  // not chosen; infinity where every block was chosen or none was to choose. Zero is an exact tie.
  std::vector<double> margin;
  // [num_tokens, num_q_heads]: the largest difference that float32 rounding can make between those
  // two scores. A selection whose margin is below it may come out differently in float32.
  std::vector<double> margin_rounding;
};

// Layer `layer` of the batch. q is [num_tokens, num_q_heads, head_dim], float32 or bfloat16, the
// dtype of the cache. Slow and simple: the time is num_tokens x num_q_heads x keys x head_dim.
// Reads only what the definition reads. The metadata must be valid.
ReferenceAttention reference_attention(const AttentionMetadata& metadata, int layer,
                                       double softmax_scale, const TensorView& q,
                                       const PagedKvView& cache);

}  // namespace moba
