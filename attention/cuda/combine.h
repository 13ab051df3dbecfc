// Partial results of rows put together by the logarithms of their softmax sums.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "attention/cuda/kernel_params.h"
#include "device/dtype.h"

namespace moba::cuda {

struct CombineParams {
  void* out;  // [num_tokens, num_q_heads, head_dim]
  Partials partials;
  std::int64_t num_rows;            // from partials.first_row
  const std::uint8_t* token_slots;  // [num_tokens] slots in use; 0: the token is left alone
  int num_q_heads;
  int head_dim;
};

void launch_combine(const CombineParams& params, DType dtype, cudaStream_t stream);

}  // namespace moba::cuda
