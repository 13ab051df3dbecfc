// Inner loops of linear(), for the part of a product that one thread computes.
//
// Every output element is computed in one order, whichever kernel and tile it falls in: K is cut
// into blocks of linear_k_block(K); within a block the lanes of one vector each sum every (lanes)th
// product, in order; the lanes are summed in a fixed order; the blocks' sums are added in order;
// then the bias, then what the output held. So a row's result does not depend on the tile shapes
// chosen around it. It does depend on the instruction set.
#pragma once

#include <cstddef>
#include <cstdint>

#include "device/cpu/simd_dispatch.h"
#include "device/dtype.h"

namespace moba::cpu {

// At most so many elements: a tile of x and one of the weights fit the first-level cache together.
inline constexpr std::int64_t kLinearMaxKBlock = 704;
// Length of the blocks that K is cut into: equal, but for rounding up to whole vectors.
constexpr std::int64_t linear_k_block(std::int64_t k) {
  constexpr std::int64_t kMultiple = 32;
  const std::int64_t blocks = (k + kLinearMaxKBlock - 1) / kLinearMaxKBlock;
  if (blocks <= 1) return kLinearMaxKBlock;
  const std::int64_t length = (k + blocks - 1) / blocks;
  return (length + kMultiple - 1) / kMultiple * kMultiple;
}
// Up to this many rows of x, weights are read where they lie, once; above it, tiles of x and of the
// weights are copied, widened, into scratch.
inline constexpr std::int64_t kLinearMaxDirectRows = 8;

// output[m, n] = x[m, k] . weight[n, k]^T (+ bias) (+ output) for some rows and columns of a
// product.
struct LinearBlock {
  const void* x =
      nullptr;  // rows of k elements, `dtype`; for `direct`, rows as `prepare` made them
  const void* weight = nullptr;  // rows of k elements, unaligned
  const void* bias = nullptr;    // [n] or null
  void* output = nullptr;        // rows output_stride elements apart
  std::int64_t m = 0;
  std::int64_t n = 0;
  std::int64_t k = 0;
  std::int64_t k_block = 0;  // linear_k_block(k)
  std::int64_t output_stride = 0;
  std::int64_t l1_bytes = 0;  // first-level cache; decides what `block` keeps in it
  DType x_dtype = DType::kFloat32;
  DType weight_dtype = DType::kFloat32;
  DType bias_dtype = DType::kFloat32;
  DType output_dtype = DType::kFloat32;
  bool accumulate = false;
};

struct LinearKernels {
  // Rows and columns of the register tile of `block`: multiples of them waste nothing.
  int row_tile;
  int column_tile;
  // For any m. `scratch`: block_scratch_bytes(m, n), 64-byte aligned.
  void (*block)(const LinearBlock& block, void* scratch);
  std::size_t (*block_scratch_bytes)(std::int64_t m, std::int64_t n);
  // For m <= kLinearMaxDirectRows. `scratch`: direct_scratch_bytes(m, n).
  void (*direct)(const LinearBlock& block, void* scratch);
  std::size_t (*direct_scratch_bytes)(std::int64_t m, std::int64_t n);
  // Copies m rows of k elements to the form that `direct` reads: prepared_bytes(m, k).
  void (*prepare)(const void* x, DType dtype, std::int64_t m, std::int64_t k, void* prepared);
  std::size_t (*prepared_bytes)(std::int64_t m, std::int64_t k);
};

MOBA_SIMD_DECLARE(LinearKernels linear_kernels())
#if MOBA_SIMD_X86
// x and weights both bfloat16 only.
namespace avx512_bf16 {
LinearKernels linear_kernels();
}
#endif

}  // namespace moba::cpu
