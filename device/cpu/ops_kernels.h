// Inner loops of the layer operations, for rows that one thread works on.
#pragma once

#include <cstdint>

#include "device/cpu/simd_dispatch.h"
#include "device/dtype.h"

namespace moba::cpu {

// Arguments as in device/ops.h, of `rows` rows. T is float or BFloat16 by `dtype`.
MOBA_SIMD_DECLARE(void convert_rows(const void* from, DType from_dtype, void* to, DType to_dtype,
                                    std::int64_t n);
                  void rms_norm_rows(const void* x, DType dtype, std::int64_t rows, std::int64_t n,
                                     const void* weight, DType weight_dtype, float eps, void* out);
                  void rope_rows(void* x, DType dtype, std::int64_t tokens, std::int64_t heads,
                                 std::int64_t head_dim, const std::int32_t* positions,
                                 const float* cos_sin);
                  void silu_mul_elements(const void* gate, const void* up, void* out, DType dtype,
                                         std::int64_t n))

}  // namespace moba::cpu
