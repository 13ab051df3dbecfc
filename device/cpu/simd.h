// A vector of floats as wide as the instruction set has, for kernels that are written once and
// compiled once for each instruction set (moba_add_simd_kernels in tools/cmake/MobaSimd.cmake).
//
// A kernel file puts everything it defines into namespace moba::cpu::MOBA_SIMD_NS (generic, avx2,
// avx512) and, as it is compiled with instructions the machine may lack, must not instantiate
// anything inline from outside that namespace: no std:: containers, algorithms, std::min, no
// BFloat16 conversions. The linker keeps one copy of such a function for the whole program, and it
// might keep this one. Plain structs, pointers and loops only. Floating-point contraction is off
// for these files: a * b + c is fused only where fma() says so, so results are reproducible.
//
// What each implementation defines, all of it inline:
//   kWidth                                 floats in a Vec: 4, 8 or 16
//   zero() broadcast(f)                    Vec
//   load(p)                                kWidth elements of float, BFloat16 or Float16, widened;
//                                          no alignment needed
//   load_partial(p, n)                     the first n elements, 0 <= n <= kWidth, the rest 0;
//                                          reads nothing past them
//   store(p, v) store_partial(p, v, n)     to float or BFloat16 (nearest, ties to even; NaN stays)
//   round_to(p, v)                         v as it would read back from a store to type *p
//   a + b, a - b, a * b, a / b, fma(a, b, c) = a * b + c, max(a, b), min(a, b)
//                                          max and min: b where either is NaN
//   reduce_add(v)                          sum of the lanes, always in the same order
//   reduce_add4(a, b, c, d, out)           out[0 .. 3] = the four sums, bitwise as reduce_add
//   reduce_max(v)                          no NaN among the lanes
//   Mask: less(a, b), less_equal(a, b), first_lanes(n); select(mask, if_true, if_false)
// and, here, exp(v) and exp_nonpositive(v).
#pragma once

#include <cstdint>
#include <cstring>

#include "device/dtype.h"

#ifndef MOBA_SIMD_NS
#define MOBA_SIMD_NS generic
#endif

#define MOBA_SIMD_INLINE [[maybe_unused]] static inline __attribute__((always_inline))

#if defined(MOBA_SIMD_AVX512)
#include "device/cpu/simd_avx512.h"
#elif defined(MOBA_SIMD_AVX2)
#include "device/cpu/simd_avx2.h"
#else
#include "device/cpu/simd_generic.h"
#endif

namespace moba::cpu::MOBA_SIMD_NS {

// e^r for |r| <= ln(2) / 2: the minimax polynomial of Cephes' expf.
MOBA_SIMD_INLINE Vec exp_polynomial(Vec r) {
  Vec p = broadcast(1.9875691500e-4F);
  p = fma(p, r, broadcast(1.3981999507e-3F));
  p = fma(p, r, broadcast(8.3334519073e-3F));
  p = fma(p, r, broadcast(4.1665795894e-2F));
  p = fma(p, r, broadcast(1.6666665459e-1F));
  p = fma(p, r, broadcast(5.0000001201e-1F));
  return fma(p, r * r, r) + broadcast(1.0F);
}

inline constexpr float kLog2E = 1.44269504088896341F;
// ln(2) in two parts (Cody and Waite): the product of the first with an integer below 2^9 is exact.
inline constexpr float kLn2High = 0.693359375F;
inline constexpr float kLn2Low = -2.12194440e-4F;

// e^x for x <= 0 (-infinity included), within 2 ulp; 0 where the result would be subnormal. NaN
// gives NaN.
MOBA_SIMD_INLINE Vec exp_nonpositive(Vec x) {
  // Adding 1.5 * 2^23 leaves the nearest integer in the low bits of the sum.
  const Vec magic = broadcast(12582912.0F);
  const Vec shifted = fma(x, broadcast(kLog2E), magic);
  const Vec n = shifted - magic;
  Vec r = fma(n, broadcast(-kLn2High), x);
  r = fma(n, broadcast(-kLn2Low), r);
  const Vec result = add_to_exponent(exp_polynomial(r), shifted);
  return select(less(x, broadcast(-87.33654F)), zero(), result);
}

// e^x for any x, within 2 ulp, subnormal results included; infinity above 88.72. NaN gives NaN.
MOBA_SIMD_INLINE Vec exp(Vec x) {
  // min and max return their second operand for NaN.
  x = min(broadcast(90.0F), max(broadcast(-105.0F), x));
  const Vec magic = broadcast(12582912.0F);
  const Vec n = fma(x, broadcast(kLog2E), magic) - magic;
  Vec r = fma(n, broadcast(-kLn2High), x);
  r = fma(n, broadcast(-kLn2Low), r);
  // 2^n may be out of range where the result is not: two factors.
  const Vec shifted_half = fma(n, broadcast(0.5F), magic);
  const Vec half = shifted_half - magic;
  const Vec shifted_rest = (n - half) + magic;
  const Vec one = broadcast(1.0F);
  return exp_polynomial(r) * add_to_exponent(one, shifted_half) *
         add_to_exponent(one, shifted_rest);
}

}  // namespace moba::cpu::MOBA_SIMD_NS
