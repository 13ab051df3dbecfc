#pragma once

#include <cuda_runtime_api.h>

#include "device/tensor.h"

namespace moba::cuda {

// out[m, n] = bias[n] (+ out[m, n] with `accumulate`), rounded to out's dtype. bias [n] of any
// float dtype, out [m, n], maybe columns of a wider matrix.
void put_bias(cudaStream_t stream, const TensorView& bias, const TensorView& out, bool accumulate);

}  // namespace moba::cuda
