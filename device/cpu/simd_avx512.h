// The vector of device/cpu/simd.h on AVX-512 (F, BW, VL, DQ). Included by it only.
#pragma once

#include <immintrin.h>

namespace moba::cpu::MOBA_SIMD_NS {

inline constexpr int kWidth = 16;

struct Vec {
  __m512 v;
};
struct Mask {
  __mmask16 v;
};

MOBA_SIMD_INLINE Vec zero() { return {_mm512_setzero_ps()}; }
MOBA_SIMD_INLINE Vec broadcast(float value) { return {_mm512_set1_ps(value)}; }

MOBA_SIMD_INLINE Vec operator+(Vec a, Vec b) { return {_mm512_add_ps(a.v, b.v)}; }
MOBA_SIMD_INLINE Vec operator-(Vec a, Vec b) { return {_mm512_sub_ps(a.v, b.v)}; }
MOBA_SIMD_INLINE Vec operator*(Vec a, Vec b) { return {_mm512_mul_ps(a.v, b.v)}; }
MOBA_SIMD_INLINE Vec operator/(Vec a, Vec b) { return {_mm512_div_ps(a.v, b.v)}; }
MOBA_SIMD_INLINE Vec fma(Vec a, Vec b, Vec c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
MOBA_SIMD_INLINE Vec max(Vec a, Vec b) { return {_mm512_max_ps(a.v, b.v)}; }
MOBA_SIMD_INLINE Vec min(Vec a, Vec b) { return {_mm512_min_ps(a.v, b.v)}; }

MOBA_SIMD_INLINE Mask less(Vec a, Vec b) { return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_LT_OQ)}; }
MOBA_SIMD_INLINE Mask less_equal(Vec a, Vec b) {
  return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_LE_OQ)};
}
MOBA_SIMD_INLINE Mask first_lanes(int n) { return {static_cast<__mmask16>((1U << n) - 1U)}; }
MOBA_SIMD_INLINE Vec select(Mask mask, Vec if_true, Vec if_false) {
  return {_mm512_mask_blend_ps(mask.v, if_false.v, if_true.v)};
}

// value * 2^i where i is the integer in the low bits of `shifted` = i + 1.5 * 2^23; no check of
// range.
MOBA_SIMD_INLINE Vec add_to_exponent(Vec value, Vec shifted) {
  const __m512i exponent = _mm512_slli_epi32(_mm512_castps_si512(shifted.v), 23);
  return {_mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(value.v), exponent))};
}

MOBA_SIMD_INLINE Vec widen_bf16(__m256i bits) {
  return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16))};
}

MOBA_SIMD_INLINE Vec load(const float* p) { return {_mm512_loadu_ps(p)}; }
MOBA_SIMD_INLINE Vec load(const BFloat16* p) {
  return widen_bf16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}
MOBA_SIMD_INLINE Vec load(const Float16* p) {
  return {_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)))};
}

MOBA_SIMD_INLINE Vec load_partial(const float* p, int n) {
  return {_mm512_maskz_loadu_ps(first_lanes(n).v, p)};
}
MOBA_SIMD_INLINE Vec load_partial(const BFloat16* p, int n) {
  return widen_bf16(_mm256_maskz_loadu_epi16(first_lanes(n).v, p));
}
MOBA_SIMD_INLINE Vec load_partial(const Float16* p, int n) {
  return {_mm512_cvtph_ps(_mm256_maskz_loadu_epi16(first_lanes(n).v, p))};
}

// bfloat16 bits in the low halves of the lanes.
MOBA_SIMD_INLINE __m512i round_bf16(Vec value) {
  const __m512i u = _mm512_castps_si512(value.v);
  const __m512i high = _mm512_srli_epi32(u, 16);
  const __m512i odd = _mm512_and_si512(high, _mm512_set1_epi32(1));
  const __m512i rounded =
      _mm512_srli_epi32(_mm512_add_epi32(_mm512_add_epi32(u, _mm512_set1_epi32(0x7fff)), odd), 16);
  const __mmask16 is_nan = _mm512_cmp_ps_mask(value.v, value.v, _CMP_UNORD_Q);
  return _mm512_mask_or_epi32(rounded, is_nan, high, _mm512_set1_epi32(0x40));
}
MOBA_SIMD_INLINE __m256i narrow_bf16(Vec value) { return _mm512_cvtepi32_epi16(round_bf16(value)); }

MOBA_SIMD_INLINE void store(float* p, Vec value) { _mm512_storeu_ps(p, value.v); }
MOBA_SIMD_INLINE void store(BFloat16* p, Vec value) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), narrow_bf16(value));
}
MOBA_SIMD_INLINE void store_partial(float* p, Vec value, int n) {
  _mm512_mask_storeu_ps(p, first_lanes(n).v, value.v);
}
MOBA_SIMD_INLINE void store_partial(BFloat16* p, Vec value, int n) {
  _mm256_mask_storeu_epi16(p, first_lanes(n).v, narrow_bf16(value));
}

MOBA_SIMD_INLINE Vec round_to(const float* /*type*/, Vec value) { return value; }
MOBA_SIMD_INLINE Vec round_to(const BFloat16* /*type*/, Vec value) {
  return {_mm512_castsi512_ps(_mm512_slli_epi32(round_bf16(value), 16))};
}

// Of two vectors of four quarters each: quarters 0 + 1 and 2 + 3 of a, then of b.
MOBA_SIMD_INLINE __m512 add_quarters(__m512 a, __m512 b) {
  return _mm512_add_ps(_mm512_shuffle_f32x4(a, b, 0x88), _mm512_shuffle_f32x4(a, b, 0xdd));
}
// The sum of each quarter's lanes, (0 + 1) + (2 + 3), in every one of them.
MOBA_SIMD_INLINE __m512 add_within_quarters(__m512 v) {
  const __m512 pairs = _mm512_add_ps(v, _mm512_shuffle_ps(v, v, 0xb1));
  return _mm512_add_ps(pairs, _mm512_shuffle_ps(pairs, pairs, 0x4e));
}
// Order: with f[i] = (lane i + lane i + 4) + (lane i + 8 + lane i + 12), (f0 + f1) + (f2 + f3).
MOBA_SIMD_INLINE void reduce_add4(Vec a, Vec b, Vec c, Vec d, float* out) {
  const __m512 sums =
      add_within_quarters(add_quarters(add_quarters(a.v, b.v), add_quarters(c.v, d.v)));
  const __m512i first_of_quarters =
      _mm512_set_epi32(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 12, 8, 4, 0);
  _mm_storeu_ps(out, _mm512_castps512_ps128(_mm512_permutexvar_ps(first_of_quarters, sums)));
}
MOBA_SIMD_INLINE float reduce_add(Vec value) {
  const __m512 quarters = add_quarters(value.v, value.v);
  return _mm_cvtss_f32(
      _mm512_castps512_ps128(add_within_quarters(add_quarters(quarters, quarters))));
}
MOBA_SIMD_INLINE float reduce_max(Vec value) { return _mm512_reduce_max_ps(value.v); }

}  // namespace moba::cpu::MOBA_SIMD_NS
