// Products of any alignment, without matrix instructions.
#pragma once

#include <cuda_runtime_api.h>

#include "device/cuda/gemm_plans.h"

namespace moba::cuda {

// Whether rows of x or of the weights do not begin at multiples of 16 bytes, which is what tensor
// cores and cuBLASLt's kernels for them read.
bool is_unaligned(const GemmProblem& problem);

// Sums in float32, and rounds once. (cuBLASLt, where 16-bit rows are unaligned, rounds the product,
// then what is added to it: up to three roundings.) Throws Error if the launch fails.
void plain_gemm(cudaStream_t stream, const GemmProblem& problem);

}  // namespace moba::cuda
