// Attention with a warp for each (token, query head): any dtype and head_dim, exact float32 where
// the dtype is float32. The path of float32 models and of head_dims without faster kernels, and
// what those are checked against on the device.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "attention/cuda/kernel_params.h"
#include "device/dtype.h"

namespace moba::cuda {

inline constexpr int kMaxRowHeadDim = 256;

struct RowAttentionParams {
  const void* q;  // [num_tokens, num_q_heads, head_dim]
  void* out;      // like q
  HeadShape heads;
  KvPages pages;
  BatchArrays batch;
  const std::int32_t* topk;  // [num_seqs]
  int max_tokens;            // the batch has at most so many; the number itself is on the device
};

void launch_row_attention(const RowAttentionParams& params, DType dtype, cudaStream_t stream);

}  // namespace moba::cuda
