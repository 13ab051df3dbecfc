// Movements of lanes that attention needs beyond device/cpu/simd.h. Included by kernel files only;
// the same rules hold.
//
//   transpose(rows)             lane j of rows[i] becomes lane i of rows[j], for kWidth vectors
//   lane_bits(mask)             bit i is lane i
//   either(a, b)                lanes set in one of two masks
//   shift_in(previous, v)       the last lane of `previous`, then all of v but its last lane
#pragma once

#include "device/cpu/simd.h"

namespace moba::cpu::MOBA_SIMD_NS {

#if defined(MOBA_SIMD_AVX512)

MOBA_SIMD_INLINE void transpose(Vec* rows) {
  __m512 t[16];
  for (int i = 0; i < 16; i += 2) {
    t[i] = _mm512_unpacklo_ps(rows[i].v, rows[i + 1].v);
    t[i + 1] = _mm512_unpackhi_ps(rows[i].v, rows[i + 1].v);
  }
  __m512 u[16];
  for (int i = 0; i < 16; i += 4) {
    u[i] = _mm512_shuffle_ps(t[i], t[i + 2], 0x44);
    u[i + 1] = _mm512_shuffle_ps(t[i], t[i + 2], 0xee);
    u[i + 2] = _mm512_shuffle_ps(t[i + 1], t[i + 3], 0x44);
    u[i + 3] = _mm512_shuffle_ps(t[i + 1], t[i + 3], 0xee);
  }
  // u[4 g + c] holds, in its quarter q, column 4 q + c of rows 4 g .. 4 g + 3.
  for (int c = 0; c < 4; ++c) {
    const __m512 low01 = _mm512_shuffle_f32x4(u[c], u[4 + c], 0x44);
    const __m512 high01 = _mm512_shuffle_f32x4(u[c], u[4 + c], 0xee);
    const __m512 low23 = _mm512_shuffle_f32x4(u[8 + c], u[12 + c], 0x44);
    const __m512 high23 = _mm512_shuffle_f32x4(u[8 + c], u[12 + c], 0xee);
    rows[c].v = _mm512_shuffle_f32x4(low01, low23, 0x88);
    rows[4 + c].v = _mm512_shuffle_f32x4(low01, low23, 0xdd);
    rows[8 + c].v = _mm512_shuffle_f32x4(high01, high23, 0x88);
    rows[12 + c].v = _mm512_shuffle_f32x4(high01, high23, 0xdd);
  }
}

MOBA_SIMD_INLINE unsigned lane_bits(Mask mask) { return mask.v; }
MOBA_SIMD_INLINE Mask either(Mask a, Mask b) { return {static_cast<__mmask16>(a.v | b.v)}; }

MOBA_SIMD_INLINE Vec shift_in(Vec previous, Vec v) {
  return {_mm512_castsi512_ps(
      _mm512_alignr_epi32(_mm512_castps_si512(v.v), _mm512_castps_si512(previous.v), 15))};
}

#elif defined(MOBA_SIMD_AVX2)

MOBA_SIMD_INLINE void transpose(Vec* rows) {
  __m256 t[8];
  for (int i = 0; i < 8; i += 2) {
    t[i] = _mm256_unpacklo_ps(rows[i].v, rows[i + 1].v);
    t[i + 1] = _mm256_unpackhi_ps(rows[i].v, rows[i + 1].v);
  }
  __m256 u[8];
  for (int i = 0; i < 8; i += 4) {
    u[i] = _mm256_shuffle_ps(t[i], t[i + 2], 0x44);
    u[i + 1] = _mm256_shuffle_ps(t[i], t[i + 2], 0xee);
    u[i + 2] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0x44);
    u[i + 3] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0xee);
  }
  for (int c = 0; c < 4; ++c) {
    rows[c].v = _mm256_permute2f128_ps(u[c], u[4 + c], 0x20);
    rows[4 + c].v = _mm256_permute2f128_ps(u[c], u[4 + c], 0x31);
  }
}

MOBA_SIMD_INLINE unsigned lane_bits(Mask mask) {
  return static_cast<unsigned>(_mm256_movemask_ps(mask.v));
}
MOBA_SIMD_INLINE Mask either(Mask a, Mask b) { return {_mm256_or_ps(a.v, b.v)}; }

MOBA_SIMD_INLINE Vec shift_in(Vec previous, Vec v) {
  const __m256i rotated = _mm256_setr_epi32(7, 0, 1, 2, 3, 4, 5, 6);
  return {_mm256_blend_ps(_mm256_permutevar8x32_ps(v.v, rotated),
                          _mm256_permutevar8x32_ps(previous.v, rotated), 1)};
}

#else

MOBA_SIMD_INLINE void transpose(Vec* rows) {
  float out[kWidth][kWidth];
  for (int i = 0; i < kWidth; ++i) {
    for (int j = 0; j < kWidth; ++j) out[j][i] = rows[i].v[j];
  }
  for (int i = 0; i < kWidth; ++i) rows[i] = load(out[i]);
}

MOBA_SIMD_INLINE unsigned lane_bits(Mask mask) {
  unsigned bits = 0;
  for (int i = 0; i < kWidth; ++i) bits |= (mask.v[i] != 0 ? 1U : 0U) << i;
  return bits;
}
MOBA_SIMD_INLINE Mask either(Mask a, Mask b) { return {a.v | b.v}; }

MOBA_SIMD_INLINE Vec shift_in(Vec previous, Vec v) {
  return {FloatLanes{previous.v[3], v.v[0], v.v[1], v.v[2]}};
}

#endif

}  // namespace moba::cpu::MOBA_SIMD_NS
