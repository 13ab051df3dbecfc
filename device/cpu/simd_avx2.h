// The vector of device/cpu/simd.h on AVX2, FMA and F16C. Included by it only.
#pragma once

#include <immintrin.h>

namespace moba::cpu::MOBA_SIMD_NS {

inline constexpr int kWidth = 8;

struct Vec {
  __m256 v;
};
struct Mask {
  __m256 v;
};

MOBA_SIMD_INLINE Vec zero() { return {_mm256_setzero_ps()}; }
MOBA_SIMD_INLINE Vec broadcast(float value) { return {_mm256_set1_ps(value)}; }

MOBA_SIMD_INLINE Vec operator+(Vec a, Vec b) { return {_mm256_add_ps(a.v, b.v)}; }
MOBA_SIMD_INLINE Vec operator-(Vec a, Vec b) { return {_mm256_sub_ps(a.v, b.v)}; }
MOBA_SIMD_INLINE Vec operator*(Vec a, Vec b) { return {_mm256_mul_ps(a.v, b.v)}; }
MOBA_SIMD_INLINE Vec operator/(Vec a, Vec b) { return {_mm256_div_ps(a.v, b.v)}; }
MOBA_SIMD_INLINE Vec fma(Vec a, Vec b, Vec c) { return {_mm256_fmadd_ps(a.v, b.v, c.v)}; }
MOBA_SIMD_INLINE Vec max(Vec a, Vec b) { return {_mm256_max_ps(a.v, b.v)}; }
MOBA_SIMD_INLINE Vec min(Vec a, Vec b) { return {_mm256_min_ps(a.v, b.v)}; }

MOBA_SIMD_INLINE Mask less(Vec a, Vec b) { return {_mm256_cmp_ps(a.v, b.v, _CMP_LT_OQ)}; }
MOBA_SIMD_INLINE Mask less_equal(Vec a, Vec b) { return {_mm256_cmp_ps(a.v, b.v, _CMP_LE_OQ)}; }
MOBA_SIMD_INLINE Mask first_lanes(int n) {
  const __m256i lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  return {_mm256_castsi256_ps(_mm256_cmpgt_epi32(_mm256_set1_epi32(n), lanes))};
}
MOBA_SIMD_INLINE Vec select(Mask mask, Vec if_true, Vec if_false) {
  return {_mm256_blendv_ps(if_false.v, if_true.v, mask.v)};
}

// value * 2^i where i is the integer in the low bits of `shifted` = i + 1.5 * 2^23; no check of
// range.
MOBA_SIMD_INLINE Vec add_to_exponent(Vec value, Vec shifted) {
  const __m256i exponent = _mm256_slli_epi32(_mm256_castps_si256(shifted.v), 23);
  return {_mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(value.v), exponent))};
}

MOBA_SIMD_INLINE Vec widen_bf16(__m128i bits) {
  return {_mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16))};
}

MOBA_SIMD_INLINE Vec load(const float* p) { return {_mm256_loadu_ps(p)}; }
MOBA_SIMD_INLINE Vec load(const BFloat16* p) {
  return widen_bf16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}
MOBA_SIMD_INLINE Vec load(const Float16* p) {
  return {_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)))};
}

MOBA_SIMD_INLINE Vec load_partial(const float* p, int n) {
  return {_mm256_maskload_ps(p, _mm256_castps_si256(first_lanes(n).v))};
}
MOBA_SIMD_INLINE __m128i load_partial16(const void* p, int n) {
  alignas(16) std::uint16_t bits[kWidth] = {};
  std::memcpy(bits, p, static_cast<std::size_t>(n) * sizeof(bits[0]));
  return _mm_load_si128(reinterpret_cast<const __m128i*>(bits));
}
MOBA_SIMD_INLINE Vec load_partial(const BFloat16* p, int n) {
  return widen_bf16(load_partial16(p, n));
}
MOBA_SIMD_INLINE Vec load_partial(const Float16* p, int n) {
  return {_mm256_cvtph_ps(load_partial16(p, n))};
}

// bfloat16 bits in the low halves of the lanes.
MOBA_SIMD_INLINE __m256i round_bf16(Vec value) {
  const __m256i u = _mm256_castps_si256(value.v);
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(u, 16), _mm256_set1_epi32(1));
  const __m256i rounded =
      _mm256_srli_epi32(_mm256_add_epi32(_mm256_add_epi32(u, _mm256_set1_epi32(0x7fff)), odd), 16);
  const __m256i quiet = _mm256_or_si256(_mm256_srli_epi32(u, 16), _mm256_set1_epi32(0x40));
  const __m256 is_nan = _mm256_cmp_ps(value.v, value.v, _CMP_UNORD_Q);
  return _mm256_blendv_epi8(rounded, quiet, _mm256_castps_si256(is_nan));
}
MOBA_SIMD_INLINE __m128i narrow_bf16(Vec value) {
  const __m256i packed = _mm256_packus_epi32(round_bf16(value), _mm256_setzero_si256());
  return _mm256_castsi256_si128(_mm256_permute4x64_epi64(packed, 0x08));
}

MOBA_SIMD_INLINE void store(float* p, Vec value) { _mm256_storeu_ps(p, value.v); }
MOBA_SIMD_INLINE void store(BFloat16* p, Vec value) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), narrow_bf16(value));
}
MOBA_SIMD_INLINE void store_partial(float* p, Vec value, int n) {
  _mm256_maskstore_ps(p, _mm256_castps_si256(first_lanes(n).v), value.v);
}
MOBA_SIMD_INLINE void store_partial(BFloat16* p, Vec value, int n) {
  alignas(16) std::uint16_t bits[kWidth];
  _mm_store_si128(reinterpret_cast<__m128i*>(bits), narrow_bf16(value));
  std::memcpy(p, bits, static_cast<std::size_t>(n) * sizeof(bits[0]));
}

MOBA_SIMD_INLINE Vec round_to(const float* /*type*/, Vec value) { return value; }
MOBA_SIMD_INLINE Vec round_to(const BFloat16* /*type*/, Vec value) {
  return {_mm256_castsi256_ps(_mm256_slli_epi32(round_bf16(value), 16))};
}

// What _mm256_hadd_ps gives, in fewer micro-operations.
MOBA_SIMD_INLINE __m256 add_pairs(__m256 a, __m256 b) {
  return _mm256_add_ps(_mm256_shuffle_ps(a, b, 0x88), _mm256_shuffle_ps(a, b, 0xdd));
}
// Order: ((0 + 1) + (2 + 3)) + ((4 + 5) + (6 + 7)).
MOBA_SIMD_INLINE __m128 reduce_add4_lanes(Vec a, Vec b, Vec c, Vec d) {
  const __m256 abcd = add_pairs(add_pairs(a.v, b.v), add_pairs(c.v, d.v));
  return _mm_add_ps(_mm256_castps256_ps128(abcd), _mm256_extractf128_ps(abcd, 1));
}
MOBA_SIMD_INLINE void reduce_add4(Vec a, Vec b, Vec c, Vec d, float* out) {
  _mm_storeu_ps(out, reduce_add4_lanes(a, b, c, d));
}
MOBA_SIMD_INLINE float reduce_add(Vec value) {
  const __m256 pairs = add_pairs(value.v, value.v);
  const __m256 quads = add_pairs(pairs, pairs);
  return _mm_cvtss_f32(_mm_add_ss(_mm256_castps256_ps128(quads), _mm256_extractf128_ps(quads, 1)));
}
MOBA_SIMD_INLINE float reduce_max(Vec value) {
  __m128 m = _mm_max_ps(_mm256_castps256_ps128(value.v), _mm256_extractf128_ps(value.v, 1));
  m = _mm_max_ps(m, _mm_movehl_ps(m, m));
  return _mm_cvtss_f32(_mm_max_ss(m, _mm_movehdup_ps(m)));
}

}  // namespace moba::cpu::MOBA_SIMD_NS
