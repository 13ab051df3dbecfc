// The vector of device/cpu/simd.h in the compiler's portable vectors of 16 bytes (SSE2, NEON, or
// plain instructions where there are none). Included by it only.
#pragma once

namespace moba::cpu::MOBA_SIMD_NS {

inline constexpr int kWidth = 4;

using FloatLanes = float __attribute__((vector_size(16)));
using IntLanes = std::int32_t __attribute__((vector_size(16)));
using UintLanes = std::uint32_t __attribute__((vector_size(16)));

struct Vec {
  FloatLanes v;
};
struct Mask {
  IntLanes v;
};

MOBA_SIMD_INLINE Vec zero() { return {FloatLanes{}}; }
MOBA_SIMD_INLINE Vec broadcast(float value) { return {FloatLanes{value, value, value, value}}; }

MOBA_SIMD_INLINE Vec operator+(Vec a, Vec b) { return {a.v + b.v}; }
MOBA_SIMD_INLINE Vec operator-(Vec a, Vec b) { return {a.v - b.v}; }
MOBA_SIMD_INLINE Vec operator*(Vec a, Vec b) { return {a.v * b.v}; }
MOBA_SIMD_INLINE Vec operator/(Vec a, Vec b) { return {a.v / b.v}; }
MOBA_SIMD_INLINE Vec fma(Vec a, Vec b, Vec c) {
#if defined(__FP_FAST_FMAF)  // one instruction
  Vec result;
  for (int i = 0; i < kWidth; ++i) result.v[i] = __builtin_fmaf(a.v[i], b.v[i], c.v[i]);
  return result;
#else
  return {a.v * b.v + c.v};
#endif
}

MOBA_SIMD_INLINE Mask less(Vec a, Vec b) { return {a.v < b.v}; }
MOBA_SIMD_INLINE Mask less_equal(Vec a, Vec b) { return {a.v <= b.v}; }
MOBA_SIMD_INLINE Mask first_lanes(int n) { return {IntLanes{0, 1, 2, 3} < IntLanes{n, n, n, n}}; }
MOBA_SIMD_INLINE Vec select(Mask mask, Vec if_true, Vec if_false) {
  return {mask.v ? if_true.v : if_false.v};
}
MOBA_SIMD_INLINE Vec max(Vec a, Vec b) { return {a.v > b.v ? a.v : b.v}; }
MOBA_SIMD_INLINE Vec min(Vec a, Vec b) { return {a.v < b.v ? a.v : b.v}; }

MOBA_SIMD_INLINE UintLanes bits_of(Vec value) {
  UintLanes bits;
  std::memcpy(&bits, &value.v, sizeof(bits));
  return bits;
}
MOBA_SIMD_INLINE Vec from_bits(UintLanes bits) {
  Vec value;
  std::memcpy(&value.v, &bits, sizeof(bits));
  return value;
}

// value * 2^i where i is the integer in the low bits of `shifted` = i + 1.5 * 2^23; no check of
// range.
MOBA_SIMD_INLINE Vec add_to_exponent(Vec value, Vec shifted) {
  return from_bits(bits_of(value) + (bits_of(shifted) << 23));
}

MOBA_SIMD_INLINE Vec load(const float* p) {
  Vec value;
  std::memcpy(&value.v, p, sizeof(value.v));
  return value;
}
MOBA_SIMD_INLINE Vec load(const BFloat16* p) {
  UintLanes bits = {p[0].bits, p[1].bits, p[2].bits, p[3].bits};
  return from_bits(bits << 16);
}
MOBA_SIMD_INLINE Vec load(const Float16* p) {
  const UintLanes half = {p[0].bits, p[1].bits, p[2].bits, p[3].bits};
  // The product with 2^(127 - 15) moves the exponent and makes subnormals normal, both exactly.
  const Vec scaled = from_bits((half & 0x7fffU) << 13) * broadcast(0x1p112F);
  const UintLanes all_ones = UintLanes((half & 0x7c00U) == 0x7c00U) & 0x7f800000U;
  return from_bits(bits_of(scaled) | all_ones | (half & 0x8000U) << 16);
}
template <typename T>
MOBA_SIMD_INLINE Vec load_partial(const T* p, int n) {
  T elements[kWidth] = {};
  for (int i = 0; i < n; ++i) elements[i] = p[i];
  return load(elements);
}

// bfloat16 bits in the low halves of the lanes.
MOBA_SIMD_INLINE UintLanes round_bf16(Vec value) {
  const UintLanes u = bits_of(value);
  const UintLanes rounded = (u + 0x7fffU + ((u >> 16) & 1U)) >> 16;
  return (u & 0x7fffffffU) > 0x7f800000U ? (u >> 16) | 0x40U : rounded;
}

MOBA_SIMD_INLINE void store(float* p, Vec value) { std::memcpy(p, &value.v, sizeof(value.v)); }
MOBA_SIMD_INLINE void store(BFloat16* p, Vec value) {
  const UintLanes bits = round_bf16(value);
  for (int i = 0; i < kWidth; ++i) p[i].bits = static_cast<std::uint16_t>(bits[i]);
}
template <typename T>
MOBA_SIMD_INLINE void store_partial(T* p, Vec value, int n) {
  T elements[kWidth];
  store(elements, value);
  for (int i = 0; i < n; ++i) p[i] = elements[i];
}

MOBA_SIMD_INLINE Vec round_to(const float* /*type*/, Vec value) { return value; }
MOBA_SIMD_INLINE Vec round_to(const BFloat16* /*type*/, Vec value) {
  return from_bits(round_bf16(value) << 16);
}

// Order: (0 + 1) + (2 + 3).
MOBA_SIMD_INLINE float reduce_add(Vec value) {
  return (value.v[0] + value.v[1]) + (value.v[2] + value.v[3]);
}
MOBA_SIMD_INLINE void reduce_add4(Vec a, Vec b, Vec c, Vec d, float* out) {
  out[0] = reduce_add(a);
  out[1] = reduce_add(b);
  out[2] = reduce_add(c);
  out[3] = reduce_add(d);
}
MOBA_SIMD_INLINE float reduce_max(Vec value) {
  const float low = value.v[0] > value.v[1] ? value.v[0] : value.v[1];
  const float high = value.v[2] > value.v[3] ? value.v[2] : value.v[3];
  return low > high ? low : high;
}

}  // namespace moba::cpu::MOBA_SIMD_NS
