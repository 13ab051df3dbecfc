// Inner loops of linear() for block-quantised weights, packed as quant_layout.h says.
//
// Rows of x are quantised to 8 bits, 32 columns at a time: x = d * q. An output element is the sum
// over groups of columns (those that share a scale: 32, of Q6_K 16), in order, each added by
//   sum = fma(integer dot product of the q's, scale * d, sum)
//   sum = fma(offset, d * sum of x's q's, sum)          (not Q8_0)
// Integer products are exact, so the result depends on no tile shape and no vector width, but for
// the baseline's fma, which rounds twice.
#pragma once

#include <cstddef>
#include <cstdint>

#include "device/cpu/simd_dispatch.h"
#include "device/dtype.h"

namespace moba::cpu {

// Up to this many rows of x, weights are unpacked in registers as they stream by; above it, a row
// group at a time into scratch.
inline constexpr std::int64_t kQuantMaxDirectRows = 4;

// Rows of x, quantised. Of row r: q + r * k and so on.
struct QuantizedRows {
  std::int8_t* q = nullptr;  // [rows, k]
  float* scale = nullptr;    // [rows, k / 32]: d
  float* sum32 = nullptr;    // [rows, k / 32]: d times the sum of 32 q's
  float* sum16 = nullptr;    // [rows, k / 16]: of 16
};

// output[m, n] = x . weight^T (+ bias) (+ output), for whole row groups of the weight: n is a
// multiple of 16 unless it ends with the matrix.
struct QuantBlock {
  QuantizedRows x;  // of m rows
  const std::byte* weight = nullptr;
  const void* bias = nullptr;  // [n] or null
  void* output = nullptr;      // rows output_stride elements apart
  std::int64_t m = 0;
  std::int64_t n = 0;
  std::int64_t k = 0;
  std::int64_t output_stride = 0;
  DType weight_dtype = DType::kQ8_0;
  DType bias_dtype = DType::kFloat32;
  DType output_dtype = DType::kFloat32;
  bool accumulate = false;
};

// quantize_rows: x is float32 or bfloat16, k a multiple of 32. A block of 32 with a NaN or an
// infinity becomes NaN.
// direct: m <= kQuantMaxDirectRows. block: any m; scratch of quant_scratch_bytes(k), 64-byte
// aligned.
MOBA_SIMD_DECLARE(void quantize_rows(const void* x, DType dtype, std::int64_t rows, std::int64_t k,
                                     const QuantizedRows& to);
                  void quant_direct(const QuantBlock& block);
                  void quant_block(const QuantBlock& block, void* scratch);
                  std::size_t quant_scratch_bytes(std::int64_t k))

}  // namespace moba::cpu
