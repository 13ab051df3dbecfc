#include "device/quant.h"

#include <cmath>
#include <cstring>

#include "device/check.h"

namespace moba {
namespace {

constexpr int kSmallBlock = 32;
constexpr int kLargeBlock = 256;

std::uint8_t byte_at(const std::byte* p, int i) { return static_cast<std::uint8_t>(p[i]); }

std::uint16_t half_bits(const std::byte* p) {
  std::uint16_t bits;
  std::memcpy(&bits, p, sizeof(bits));
  return bits;
}

float half(std::uint16_t bits) {
  Float16 value;
  value.bits = bits;
  return static_cast<float>(value);
}

// Element j of the first 16 is a low nibble, of the last 16 a high one.
void unpack_nibbles(const std::byte* qs, std::uint8_t* q) {
  for (int j = 0; j < kSmallBlock / 2; ++j) {
    q[j] = byte_at(qs, j) & 0x0f;
    q[j + kSmallBlock / 2] = static_cast<std::uint8_t>(byte_at(qs, j) >> 4);
  }
}

// Bit e is the fifth of element e.
void add_fifth_bits(const std::byte* bits, std::uint8_t* q) {
  for (int e = 0; e < kSmallBlock; ++e) {
    const int bit = (byte_at(bits, e / 8) >> (e % 8)) & 1;
    q[e] = static_cast<std::uint8_t>(q[e] | (bit << 4));
  }
}

// Q8_0, Q4_0, Q4_1, Q5_0, Q5_1: d, perhaps m, perhaps the fifth bits, then the rest of q.
void unpack_small(DType dtype, const std::byte* block, UnpackedBlock& out) {
  const bool has_offset = dtype == DType::kQ4_1 || dtype == DType::kQ5_1;
  out.group_elements = kSmallBlock;
  out.d = half_bits(block);
  out.m = has_offset ? half_bits(block + 2) : std::uint16_t{0};
  out.scale[0] = half(out.d);
  out.offset[0] = has_offset ? half(out.m) : 0.0F;
  out.group_scale[0] = out.group_min[0] = 0;
  const std::byte* rest = block + (has_offset ? 4 : 2);
  switch (dtype) {
    case DType::kQ8_0:
      out.zero = 128;
      for (int e = 0; e < kSmallBlock; ++e) {
        out.q[e] = static_cast<std::uint8_t>(byte_at(rest, e) ^ 0x80U);
      }
      break;
    case DType::kQ4_0:
    case DType::kQ4_1:
      out.zero = has_offset ? 0 : 8;
      unpack_nibbles(rest, out.q);
      break;
    default:
      out.zero = has_offset ? 0 : 16;
      unpack_nibbles(rest + 4, out.q);
      add_fifth_bits(rest, out.q);
      break;
  }
}

// The 6-bit scales and mins of Q4_K and Q5_K: 12 bytes, the first four of each in the low bits of
// bytes 0 .. 7, the others in bytes 8 .. 11 and the upper bits of the first eight.
void unpack_group_scales(const std::byte* packed, UnpackedBlock& out) {
  for (int g = 0; g < 8; ++g) {
    int scale;
    int min;
    if (g < 4) {
      scale = byte_at(packed, g) & 63;
      min = byte_at(packed, g + 4) & 63;
    } else {
      scale = (byte_at(packed, g + 4) & 0x0f) | ((byte_at(packed, g - 4) >> 6) << 4);
      min = (byte_at(packed, g + 4) >> 4) | ((byte_at(packed, g) >> 6) << 4);
    }
    out.group_scale[g] = static_cast<std::uint8_t>(scale);
    out.group_min[g] = static_cast<std::uint8_t>(min);
    out.scale[g] = half(out.d) * static_cast<float>(scale);
    out.offset[g] = -(half(out.m) * static_cast<float>(min));
  }
}

// Q4_K: d, dmin, scales[12], qs[128]; Q5_K has qh[32] before qs. Each 32 bytes of qs hold two
// groups: low nibbles, then high ones. Bit g of qh[e] is the fifth of element e of group g.
void unpack_k(DType dtype, const std::byte* block, UnpackedBlock& out) {
  out.zero = 0;
  out.group_elements = 32;
  out.d = half_bits(block);
  out.m = half_bits(block + 2);
  unpack_group_scales(block + 4, out);
  const std::byte* const qh = block + 16;
  const std::byte* const qs = dtype == DType::kQ5_K ? qh + 32 : qh;
  for (int g = 0; g < 8; ++g) {
    for (int e = 0; e < 32; ++e) {
      const int both = byte_at(qs, g / 2 * 32 + e);
      int q = g % 2 == 0 ? both & 0x0f : both >> 4;
      if (dtype == DType::kQ5_K) q |= ((byte_at(qh, e) >> g) & 1) << 4;
      out.q[g * 32 + e] = static_cast<std::uint8_t>(q);
    }
  }
}

// ql[128], qh[64], scales[16], d. Each half of 128 elements has 64 bytes of ql and 32 of qh: its
// four runs of 32 take the nibbles of ql's halves and two bits each of qh.
void unpack_q6_k(const std::byte* block, UnpackedBlock& out) {
  const std::byte* const qh_all = block + 128;
  const std::byte* const scales = block + 192;
  out.zero = 32;
  out.group_elements = 16;
  out.d = half_bits(block + 208);
  out.m = 0;
  for (int g = 0; g < 16; ++g) {
    out.group_scale[g] = byte_at(scales, g);
    out.group_min[g] = 0;
    out.scale[g] = half(out.d) * static_cast<float>(static_cast<std::int8_t>(out.group_scale[g]));
    out.offset[g] = 0.0F;
  }
  for (int part = 0; part < 2; ++part) {
    const std::byte* const ql = block + part * 64;
    const std::byte* const qh = qh_all + part * 32;
    for (int run = 0; run < 4; ++run) {
      for (int e = 0; e < 32; ++e) {
        const int both = byte_at(ql, run % 2 * 32 + e);
        const int low = run < 2 ? both & 0x0f : both >> 4;
        const int high = (byte_at(qh, e) >> (2 * run)) & 3;
        out.q[part * 128 + run * 32 + e] = static_cast<std::uint8_t>(low | (high << 4));
      }
    }
  }
}

void store_half(std::byte* to, float value) {
  const Float16 rounded(value);
  std::memcpy(to, &rounded.bits, sizeof(rounded.bits));
}

void quantize_q8_0(const float* from, std::byte* to) {
  float largest = 0.0F;
  for (int e = 0; e < kSmallBlock; ++e) largest = std::fmax(largest, std::fabs(from[e]));
  const float d = largest / 127.0F;
  const float inverse = d == 0.0F ? 0.0F : 1.0F / d;
  store_half(to, d);
  for (int e = 0; e < kSmallBlock; ++e) {
    const float q = std::round(from[e] * inverse);  // halves away from zero
    to[2 + e] = static_cast<std::byte>(static_cast<std::int8_t>(q >= -128 && q <= 127 ? q : 0));
  }
}

void quantize_q4_0(const float* from, std::byte* to) {
  float extreme = 0.0F;  // the element that is largest without its sign
  for (int e = 0; e < kSmallBlock; ++e) {
    if (std::fabs(from[e]) > std::fabs(extreme)) extreme = from[e];
  }
  const float d = extreme / -8.0F;
  const float inverse = d == 0.0F ? 0.0F : 1.0F / d;
  const auto q = [&](int e) {
    const float value = std::trunc(from[e] * inverse + 8.5F);
    return value > 0.0F ? static_cast<unsigned>(std::fmin(value, 15.0F)) : 0U;
  };
  store_half(to, d);
  for (int j = 0; j < kSmallBlock / 2; ++j) {
    to[2 + j] = static_cast<std::byte>(q(j) | (q(j + kSmallBlock / 2) << 4));
  }
}

}  // namespace

std::int64_t block_elements(DType dtype) {
  if (!is_quantized(dtype)) return 1;
  return dtype >= DType::kQ4_K ? kLargeBlock : kSmallBlock;
}

std::size_t block_bytes(DType dtype) {
  switch (dtype) {
    case DType::kQ8_0:
      return 34;
    case DType::kQ4_0:
      return 18;
    case DType::kQ4_1:
      return 20;
    case DType::kQ5_0:
      return 22;
    case DType::kQ5_1:
      return 24;
    case DType::kQ4_K:
      return 144;
    case DType::kQ5_K:
      return 176;
    case DType::kQ6_K:
      return 210;
    default:
      return dtype_size(dtype);
  }
}

std::size_t storage_bytes(DType dtype, std::int64_t elements) {
  return static_cast<std::size_t>(elements / block_elements(dtype)) * block_bytes(dtype);
}

void unpack_block(DType dtype, const std::byte* block, UnpackedBlock& out) {
  MOBA_CHECK(is_quantized(dtype), "unpack_block: ", dtype_name(dtype), " is no block format");
  if (dtype == DType::kQ6_K) {
    unpack_q6_k(block, out);
  } else if (block_elements(dtype) == kLargeBlock) {
    unpack_k(dtype, block, out);
  } else {
    unpack_small(dtype, block, out);
  }
}

void dequantize(DType dtype, const std::byte* blocks, std::int64_t num_elements, float* to) {
  const std::int64_t elements = block_elements(dtype);
  const std::size_t bytes = block_bytes(dtype);
  UnpackedBlock block;
  for (std::int64_t first = 0; first < num_elements; first += elements, blocks += bytes) {
    unpack_block(dtype, blocks, block);
    for (std::int64_t e = 0; e < elements; ++e) {
      const auto g = e / block.group_elements;
      const auto q = static_cast<float>(static_cast<int>(block.q[e]) - block.zero);
      to[first + e] = block.scale[g] * q + block.offset[g];
    }
  }
}

void quantize(DType dtype, const float* from, std::int64_t num_elements, std::byte* to) {
  MOBA_CHECK(dtype == DType::kQ8_0 || dtype == DType::kQ4_0, "cannot quantise to ",
             dtype_name(dtype), "; known: q8_0, q4_0");
  for (std::int64_t first = 0; first < num_elements; first += kSmallBlock) {
    if (dtype == DType::kQ8_0) {
      quantize_q8_0(from + first, to);
    } else {
      quantize_q4_0(from + first, to);
    }
    to += block_bytes(dtype);
  }
}

}  // namespace moba
