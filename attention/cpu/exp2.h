// Powers of two for softmax weights. Included by kernel files only; see device/cpu/simd.h.
#pragma once

#include "device/cpu/simd.h"

namespace moba::cpu::MOBA_SIMD_NS {

// 2^x for x <= 0 (a little above 0 as well), within 1.4 * 2^-24; at least 2^-126, also for
// -infinity. NaN gives NaN. Half the instructions of exp_nonpositive of simd.h: the scores are
// brought to base 2 by the product with the scale that they need in any case.
MOBA_SIMD_INLINE Vec exp2_nonpositive(Vec x) {
  x = max(broadcast(-126.0F), x);
  // Adding 1.5 * 2^23 leaves the nearest integer in the low bits of the sum.
  const Vec magic = broadcast(12582912.0F);
  const Vec shifted = x + magic;
  const Vec r = x - (shifted - magic);
  // Minimax in the relative error over [-1/2, 1/2] with p(0) = 1 (Remez).
  Vec p = broadcast(1.5594677824992687e-4F);
  p = fma(p, r, broadcast(1.3406643411144614e-3F));
  p = fma(p, r, broadcast(9.617692790925503e-3F));
  p = fma(p, r, broadcast(5.5503103882074356e-2F));
  p = fma(p, r, broadcast(2.4022652208805084e-1F));
  p = fma(p, r, broadcast(6.931472420692444e-1F));
  p = fma(p, r, broadcast(1.0F));
  return add_to_exponent(p, shifted);
}

}  // namespace moba::cpu::MOBA_SIMD_NS
