// Compiled once for each instruction set; see device/cpu/simd.h for what may stand here.
#include "device/cpu/simd.h"
#include "tools/bench/fma_peak.h"

namespace moba::cpu::MOBA_SIMD_NS {

std::int64_t multiply_add(std::int64_t rounds, float* sink) {
  constexpr int kChains = 10;
  Vec chain[kChains];
#pragma GCC unroll 10
  for (int i = 0; i < kChains; ++i) chain[i] = broadcast(static_cast<float>(i));
  const Vec factor = broadcast(0.999F);
  const Vec term = broadcast(0.001F);
  for (std::int64_t n = 0; n < rounds; ++n) {
#pragma GCC unroll 10
    for (int i = 0; i < kChains; ++i) chain[i] = fma(chain[i], factor, term);
  }
  Vec sum = zero();
#pragma GCC unroll 10
  for (int i = 0; i < kChains; ++i) sum = sum + chain[i];
  *sink = reduce_add(sum);
  return rounds * kChains * kWidth * 2;
}

}  // namespace moba::cpu::MOBA_SIMD_NS
