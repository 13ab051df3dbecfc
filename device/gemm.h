// Matrix products of a linear layer.
#pragma once

#include <span>

#include "device/context.h"
#include "device/tensor.h"

namespace moba {

// One product that shares its input with others: y = x . weight^T (+ bias) (+ y).
struct LinearTask {
  TensorView weight;  // [N, K], row-major as checkpoints store it; float32, bfloat16 or float16
  TensorView bias;    // [N] or empty; any of the three dtypes
  TensorView output;  // [M, N]; dtype of the input, or float32
  bool accumulate = false;  // adds to what output holds (a residual connection)
};

// For every task: output[m, n] = sum_k x[m, k] * weight[n, k] (+ bias[n]) (+ output[m, n]),
// accumulated in float32. x is [M, K], float32 or bfloat16. All tasks run as one parallel loop.
//
// Batch invariant: a row of the output depends on that row of x and on the weights only, bit for
// bit, whatever M is, which rows stand beside it and how many threads run. Chunked prefill,
// prefix-cache hits and batching rely on it.
//
// Throws Error for shapes or dtypes that do not fit. Outputs must not overlap x or each other.
void linear(DeviceContext& context, const TensorView& x, std::span<const LinearTask> tasks);

}  // namespace moba
