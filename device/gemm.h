// Matrix products of a linear layer.
#pragma once

#include <cstddef>
#include <span>

#include "device/context.h"
#include "device/tensor.h"

namespace moba {

// One product that shares its input with others: y = x . weight^T (+ bias) (+ y).
struct LinearTask {
  // [N, K], row-major as checkpoints store it; float32, bfloat16 or float16. On the CPU also a
  // block format, packed (device/quant.h).
  TensorView weight;
  TensorView bias;    // [N] or empty; any of the three dtypes
  TensorView output;  // [M, N]; dtype of the input, or float32; may be columns() of a wider matrix
  bool accumulate = false;  // adds to what output holds (a residual connection)
};

// For every task: output[m, n] = sum_k x[m, k] * weight[n, k] (+ bias[n]) (+ output[m, n]),
// accumulated in float32. x is [M, K]: float32 or bfloat16, contiguous on the CPU; on a CUDA device
// also float16, and columns() of a wider matrix, and weights have its dtype.
//
// On the CPU all tasks run as one parallel loop, and the result is batch invariant: a row of the
// output depends on that row of x and on the weights only, bit for bit, whatever M is, which rows
// stand beside it and how many threads run. Chunked prefill, prefix-cache hits and batching rely on
// it. For weights of block formats x is rounded to 8 bits, 32 elements at a time, whatever its
// dtype: the result is exact for that x but for float32 sums. On a CUDA device the order of a sum
// may change with M, as cuBLASLt chooses.
//
// Throws Error for shapes or dtypes that do not fit. Outputs must not overlap x or each other.
void linear(DeviceContext& context, const TensorView& x, std::span<const LinearTask> tasks);

// Whether linear() runs tasks as one product where merge_front() can: then it pays to lay their
// weights next to each other and their outputs out as columns of one matrix.
bool merges_tasks(const DeviceContext& context);

// How many of the first tasks (1 at least) are one product, which `merged` becomes: their weights
// and biases follow one another in memory, and their outputs are neighbouring columns. `tasks` is
// not empty and fits linear().
std::size_t merge_front(std::span<const LinearTask> tasks, LinearTask& merged);

}  // namespace moba
