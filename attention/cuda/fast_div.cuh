// n / FastDiv and n % FastDiv, 0 <= n < 2^31.
#pragma once

#include <cstdint>

#include "attention/cuda/kernel_params.h"

namespace moba::cuda {

__device__ __forceinline__ int operator/(int n, const FastDiv& by) {
  const auto u = static_cast<std::uint32_t>(n);
  return static_cast<int>((__umulhi(u, by.multiplier) + u) >> by.shift);
}
__device__ __forceinline__ int operator%(int n, const FastDiv& by) {
  return n - n / by * static_cast<int>(by.divisor);
}

}  // namespace moba::cuda
