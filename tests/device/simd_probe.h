// The primitives of device/cpu/simd.h behind plain functions, one set for each instruction set.
#pragma once

#include <cstdint>

#include "device/cpu/simd_dispatch.h"
#include "device/dtype.h"

namespace moba::cpu {

// Each applies the primitive to n elements, a vector at a time and a partial one at the end.
MOBA_SIMD_DECLARE(void probe_exp(const float* x, float* out, std::int64_t n);
                  void probe_exp_nonpositive(const float* x, float* out, std::int64_t n);
                  void probe_widen_bf16(const BFloat16* x, float* out, std::int64_t n);
                  void probe_widen_f16(const Float16* x, float* out, std::int64_t n);
                  void probe_narrow_bf16(const float* x, BFloat16* out, std::int64_t n);
                  void probe_round_bf16(const float* x, float* out, std::int64_t n);
                  // out[0 .. 3]: reduce_add4 of the first four vectors of x; out[4 .. 7]:
                  // reduce_add of each; out[8 .. 11]: reduce_max of each.
                  void probe_reduce(const float* x, float* out);
                  // out = x where less(x, y), y where not; the first n lanes of a vector, the rest
                  // -1.
                  void probe_select(const float* x, const float* y, float* out, int n);
                  int probe_width())

}  // namespace moba::cpu
