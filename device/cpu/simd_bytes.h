// Vectors of bytes and of 32-bit integers beside the floats of simd.h, for products of quantised
// numbers. Included by kernel files after simd.h; the same rules hold.
//
//   Bytes   4 bytes for each of kWidth lanes
//   Ints    kWidth 32-bit integers
//   load_bytes(p) store_bytes(p, b)          no alignment needed
//   and_bytes(b, mask) or_bytes(a, b)        mask: the same for all bytes
//   shift_left<n>(b) shift_right<n>(b)       bits may come in from the neighbouring byte: mask
//   after zero_ints() to_floats(ints) widen_unsigned(p) widen_signed(p)        kWidth bytes to a
//   Vec add_dot<bits>(w, x, sum)                 sum[lane] += sum over 4 quads j and 4 bytes i of
//                                            w[j][lane][i] * x[4j + i]; x is signed, not -128; w is
//                                            unsigned of 4, 5 or 6 bits, or signed of 8. Exact.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "device/cpu/simd.h"

namespace moba::cpu::MOBA_SIMD_NS {

#if defined(MOBA_SIMD_AVX512)

struct Bytes {
  __m512i v;
};
struct Ints {
  __m512i v;
};
MOBA_SIMD_INLINE Bytes load_bytes(const std::byte* p) { return {_mm512_loadu_si512(p)}; }
MOBA_SIMD_INLINE void store_bytes(std::byte* p, Bytes b) { _mm512_storeu_si512(p, b.v); }
MOBA_SIMD_INLINE Bytes and_bytes(Bytes b, int mask) {
  return {_mm512_and_si512(b.v, _mm512_set1_epi8(static_cast<char>(mask)))};
}
MOBA_SIMD_INLINE Bytes or_bytes(Bytes a, Bytes b) { return {_mm512_or_si512(a.v, b.v)}; }
template <int n>
MOBA_SIMD_INLINE Bytes shift_left(Bytes b) {
  return {_mm512_slli_epi16(b.v, n)};
}
template <int n>
MOBA_SIMD_INLINE Bytes shift_right(Bytes b) {
  return {_mm512_srli_epi16(b.v, n)};
}
MOBA_SIMD_INLINE Ints zero_ints() { return {_mm512_setzero_si512()}; }
MOBA_SIMD_INLINE Vec to_floats(Ints i) { return {_mm512_cvtepi32_ps(i.v)}; }
MOBA_SIMD_INLINE Vec widen_unsigned(const std::byte* p) {
  const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  return {_mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(bytes))};
}
MOBA_SIMD_INLINE Vec widen_signed(const std::byte* p) {
  const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  return {_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(bytes))};
}
MOBA_SIMD_INLINE __m512i broadcast_quad(const std::int8_t* x) {
  std::int32_t quad;
  std::memcpy(&quad, x, sizeof(quad));
  return _mm512_set1_epi32(quad);
}
template <int bits>
MOBA_SIMD_INLINE Ints add_dot(const Bytes (&w)[4], const std::int8_t* x, Ints sum) {
  const __m512i ones = _mm512_set1_epi16(1);
  __m512i pairs[4];
  for (int j = 0; j < 4; ++j) {
    __m512i quad = broadcast_quad(x + 4 * j);
    __m512i weight = w[j].v;
    if (bits == 8) {
      const __mmask64 negative = _mm512_movepi8_mask(weight);
      quad = _mm512_mask_sub_epi8(quad, negative, _mm512_setzero_si512(), quad);
      weight = _mm512_abs_epi8(weight);
    }
    pairs[j] = _mm512_maddubs_epi16(weight, quad);
  }
  if (bits == 8) {  // up to 32512: no two fit 16 bits
    for (int j = 0; j < 4; ++j) {
      sum.v = _mm512_add_epi32(sum.v, _mm512_madd_epi16(pairs[j], ones));
    }
    return sum;
  }
  const __m512i a = _mm512_add_epi16(pairs[0], pairs[1]);  // of 6 bits up to 32004
  const __m512i b = _mm512_add_epi16(pairs[2], pairs[3]);
  if (bits == 6) {
    sum.v = _mm512_add_epi32(sum.v, _mm512_madd_epi16(a, ones));
    sum.v = _mm512_add_epi32(sum.v, _mm512_madd_epi16(b, ones));
  } else {  // of 5 bits up to 31496
    sum.v = _mm512_add_epi32(sum.v, _mm512_madd_epi16(_mm512_add_epi16(a, b), ones));
  }
  return sum;
}

#elif defined(MOBA_SIMD_AVX2)

struct Bytes {
  __m256i v;
};
struct Ints {
  __m256i v;
};
MOBA_SIMD_INLINE Bytes load_bytes(const std::byte* p) {
  return {_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))};
}
MOBA_SIMD_INLINE void store_bytes(std::byte* p, Bytes b) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), b.v);
}
MOBA_SIMD_INLINE Bytes and_bytes(Bytes b, int mask) {
  return {_mm256_and_si256(b.v, _mm256_set1_epi8(static_cast<char>(mask)))};
}
MOBA_SIMD_INLINE Bytes or_bytes(Bytes a, Bytes b) { return {_mm256_or_si256(a.v, b.v)}; }
template <int n>
MOBA_SIMD_INLINE Bytes shift_left(Bytes b) {
  return {_mm256_slli_epi16(b.v, n)};
}
template <int n>
MOBA_SIMD_INLINE Bytes shift_right(Bytes b) {
  return {_mm256_srli_epi16(b.v, n)};
}
MOBA_SIMD_INLINE Ints zero_ints() { return {_mm256_setzero_si256()}; }
MOBA_SIMD_INLINE Vec to_floats(Ints i) { return {_mm256_cvtepi32_ps(i.v)}; }
MOBA_SIMD_INLINE Vec widen_unsigned(const std::byte* p) {
  const __m128i bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(p));
  return {_mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(bytes))};
}
MOBA_SIMD_INLINE Vec widen_signed(const std::byte* p) {
  const __m128i bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(p));
  return {_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes))};
}
MOBA_SIMD_INLINE __m256i broadcast_quad(const std::int8_t* x) {
  std::int32_t quad;
  std::memcpy(&quad, x, sizeof(quad));
  return _mm256_set1_epi32(quad);
}
template <int bits>
MOBA_SIMD_INLINE Ints add_dot(const Bytes (&w)[4], const std::int8_t* x, Ints sum) {
  const __m256i ones = _mm256_set1_epi16(1);
  __m256i pairs[4];
  for (int j = 0; j < 4; ++j) {
    __m256i quad = broadcast_quad(x + 4 * j);
    __m256i weight = w[j].v;
    if (bits == 8) {
      quad = _mm256_sign_epi8(quad, weight);
      weight = _mm256_abs_epi8(weight);
    }
    pairs[j] = _mm256_maddubs_epi16(weight, quad);
  }
  if (bits == 8) {  // up to 32512: no two fit 16 bits
    for (int j = 0; j < 4; ++j) {
      sum.v = _mm256_add_epi32(sum.v, _mm256_madd_epi16(pairs[j], ones));
    }
    return sum;
  }
  const __m256i a = _mm256_add_epi16(pairs[0], pairs[1]);  // of 6 bits up to 32004
  const __m256i b = _mm256_add_epi16(pairs[2], pairs[3]);
  if (bits == 6) {
    sum.v = _mm256_add_epi32(sum.v, _mm256_madd_epi16(a, ones));
    sum.v = _mm256_add_epi32(sum.v, _mm256_madd_epi16(b, ones));
  } else {  // of 5 bits up to 31496
    sum.v = _mm256_add_epi32(sum.v, _mm256_madd_epi16(_mm256_add_epi16(a, b), ones));
  }
  return sum;
}

#else

struct Bytes {
  std::uint8_t v[4 * kWidth];
};
struct Ints {
  std::int32_t v[kWidth];
};
MOBA_SIMD_INLINE Bytes load_bytes(const std::byte* p) {
  Bytes out;
  std::memcpy(out.v, p, sizeof(out.v));
  return out;
}
MOBA_SIMD_INLINE void store_bytes(std::byte* p, Bytes b) { std::memcpy(p, b.v, sizeof(b.v)); }
MOBA_SIMD_INLINE Bytes and_bytes(Bytes b, int mask) {
  for (std::uint8_t& byte : b.v) byte = static_cast<std::uint8_t>(byte & mask);
  return b;
}
MOBA_SIMD_INLINE Bytes or_bytes(Bytes a, Bytes b) {
  for (int i = 0; i < 4 * kWidth; ++i) a.v[i] = static_cast<std::uint8_t>(a.v[i] | b.v[i]);
  return a;
}
template <int n>
MOBA_SIMD_INLINE Bytes shift_left(Bytes b) {
  for (std::uint8_t& byte : b.v) byte = static_cast<std::uint8_t>(byte << n);
  return b;
}
template <int n>
MOBA_SIMD_INLINE Bytes shift_right(Bytes b) {
  for (std::uint8_t& byte : b.v) byte = static_cast<std::uint8_t>(byte >> n);
  return b;
}
MOBA_SIMD_INLINE Ints zero_ints() { return {}; }
MOBA_SIMD_INLINE Vec to_floats(Ints ints) {
  float out[kWidth];
  for (int i = 0; i < kWidth; ++i) out[i] = static_cast<float>(ints.v[i]);
  return load(out);
}
MOBA_SIMD_INLINE Vec widen_unsigned(const std::byte* p) {
  float out[kWidth];
  for (int i = 0; i < kWidth; ++i) out[i] = static_cast<float>(static_cast<std::uint8_t>(p[i]));
  return load(out);
}
MOBA_SIMD_INLINE Vec widen_signed(const std::byte* p) {
  float out[kWidth];
  for (int i = 0; i < kWidth; ++i) out[i] = static_cast<float>(static_cast<std::int8_t>(p[i]));
  return load(out);
}
template <int bits>
MOBA_SIMD_INLINE Ints add_dot(const Bytes (&w)[4], const std::int8_t* x, Ints sum) {
  for (int j = 0; j < 4; ++j) {
    for (int lane = 0; lane < kWidth; ++lane) {
      for (int i = 0; i < 4; ++i) {
        const std::uint8_t byte = w[j].v[4 * lane + i];
        const int weight = bits == 8 ? static_cast<std::int8_t>(byte) : byte;
        sum.v[lane] += weight * x[4 * j + i];
      }
    }
  }
  return sum;
}

#endif

}  // namespace moba::cpu::MOBA_SIMD_NS
