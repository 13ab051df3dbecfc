// Products of a few rows, which read the weights once: bound by memory, not by arithmetic.
#pragma once

#include <cuda_runtime_api.h>

#include "device/cuda/gemm_plans.h"

namespace moba::cuda {

inline constexpr std::int64_t kMaxGemvRows = 8;

// problem.m <= kMaxGemvRows. Throws Error if the launch fails.
//
// A row's result does not depend on the rows beside it, nor on m.
void gemv(cudaStream_t stream, const GemmProblem& problem);

}  // namespace moba::cuda
