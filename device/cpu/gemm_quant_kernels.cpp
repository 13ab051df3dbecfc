// Compiled once for each instruction set; see device/cpu/simd.h for what may stand here.
#include "device/cpu/gemm_quant_kernels.h"

#include "device/cpu/quant_layout.h"
#include "device/cpu/simd.h"
#include "device/cpu/simd_bytes.h"

#define MOBA_UNROLL _Pragma("GCC unroll 16")

namespace moba::cpu::MOBA_SIMD_NS {
namespace {

constexpr int kParts = kQuantRows / kWidth;  // vectors of rows in a row group
constexpr int kQuads = kQuantColumns / 4;
constexpr int kHalfQuads = kQuads / 2;
constexpr int kRowTile = 4;  // rows of x at a time

// What the kernels need to know of a format at compile time.
template <DType kType>
struct Format {
  static constexpr QuantLayout kLayout = quant_layout(kType);
  static constexpr int kBits = kLayout.bits;
  static constexpr int kTileBytes = kLayout.tile_bytes();
  static constexpr int kSuperBytes = kLayout.super_bytes();
  static constexpr int kTiles = kLayout.tiles;
  static constexpr bool kLarge = kTiles > 1;
  static constexpr bool kHasMins = kType == DType::kQ4_1 || kType == DType::kQ5_1 ||
                                   kType == DType::kQ4_K || kType == DType::kQ5_K;
  static constexpr int kGroups = kType == DType::kQ6_K ? 2 : 1;  // scales in a tile
  static constexpr bool kHasOffset = kType != DType::kQ8_0;

  // Quad `quad` of the rows of part `part`. `quad` is a constant after unrolling.
  MOBA_SIMD_INLINE Bytes quad(const std::byte* tile, int quad, int part) {
    const int at = part * 4 * kWidth;
    if constexpr (kBits == 8) {
      return load_bytes(tile + quad * kQuantLine + at);
    } else {
      const Bytes both = load_bytes(tile + quad % 4 * kQuantLine + at);
      Bytes q = and_bytes(quad < 4 ? both : shift_right<4>(both), 0x0f);
      const std::byte* const high = tile + kLayout.low_bytes + at;
      if constexpr (kBits == 5) q = or_bytes(q, fifth_bit(load_bytes(high), quad));
      if constexpr (kBits == 6) {
        q = or_bytes(q, upper_bits(load_bytes(high + quad / 4 * kQuantLine), quad % 4));
      }
      return q;
    }
  }

  // scale and, if kHasOffset, offset of column group `group` of a tile for the rows of a part.
  MOBA_SIMD_INLINE void scales(const std::byte* super, const std::byte* tile, int group, int part,
                               Vec& scale, Vec& offset) {
    const int row = part * kWidth;
    const std::byte* const at = tile + kLayout.low_bytes + kLayout.high_bytes;
    const auto halves = [row](const std::byte* p) __attribute__((always_inline)) {
      return load(reinterpret_cast<const Float16*>(p) + row);
    };
    if constexpr (!kLarge) {
      scale = halves(at);
      if constexpr (kHasMins) {
        offset = halves(at + 2 * kQuantRows);
        return;
      }
    } else if constexpr (kHasMins) {
      scale = halves(super) * widen_unsigned(at + row);
      offset = zero() - halves(super + 2 * kQuantRows) * widen_unsigned(at + kQuantRows + row);
      return;
    } else {
      scale = halves(super) * widen_signed(at + group * kQuantRows + row);
    }
    if constexpr (kHasOffset) offset = scale * broadcast(-static_cast<float>(1 << (kBits - 1)));
  }

 private:
  MOBA_SIMD_INLINE Bytes fifth_bit(Bytes high, int quad) {
    switch (quad) {
      case 0:
        return and_bytes(shift_left<4>(high), 0x10);
      case 1:
        return and_bytes(shift_left<3>(high), 0x10);
      case 2:
        return and_bytes(shift_left<2>(high), 0x10);
      case 3:
        return and_bytes(shift_left<1>(high), 0x10);
      case 4:
        return and_bytes(high, 0x10);
      case 5:
        return and_bytes(shift_right<1>(high), 0x10);
      case 6:
        return and_bytes(shift_right<2>(high), 0x10);
      default:
        return and_bytes(shift_right<3>(high), 0x10);
    }
  }
  MOBA_SIMD_INLINE Bytes upper_bits(Bytes high, int place) {
    switch (place) {
      case 0:
        return and_bytes(shift_left<4>(high), 0x30);
      case 1:
        return and_bytes(shift_left<2>(high), 0x30);
      case 2:
        return and_bytes(high, 0x30);
      default:
        return and_bytes(shift_right<2>(high), 0x30);
    }
  }
};

// Rows of x at one tile.
struct XTile {
  const std::int8_t* q;  // of row 0; rows q_stride apart
  const float* scale;
  const float* sum;  // sum32 or sum16
  std::int64_t q_stride;
  std::int64_t scale_stride;
  std::int64_t sum_stride;
};

MOBA_SIMD_INLINE void accumulate(Ints dot, Vec scale, Vec offset, bool has_offset, const float* d,
                                 const float* sum, Vec& out) {
  out = fma(to_floats(dot), scale * broadcast(*d), out);
  if (has_offset) out = fma(offset, broadcast(*sum), out);
}

// One tile of the weight, already as bytes, times kRows rows of x: sums += .
template <typename F, int kRows, typename LoadQuad, typename LoadScales>
MOBA_SIMD_INLINE void multiply_tile(const XTile& x, LoadQuad&& load_quad, LoadScales&& load_scales,
                                    Vec (&sums)[kRows]) {
  Ints dots[kRows];
  MOBA_UNROLL
  for (int r = 0; r < kRows; ++r) dots[r] = zero_ints();
  MOBA_UNROLL
  for (int half = 0; half < 2; ++half) {
    Bytes w[kHalfQuads];
    MOBA_UNROLL
    for (int j = 0; j < kHalfQuads; ++j) w[j] = load_quad(half * kHalfQuads + j);
    MOBA_UNROLL
    for (int r = 0; r < kRows; ++r) {
      dots[r] = add_dot<F::kBits>(w, x.q + r * x.q_stride + half * 16, dots[r]);
    }
    if (F::kGroups == 1 && half == 0) continue;
    const int group = F::kGroups == 1 ? 0 : half;
    Vec scale;
    Vec offset = zero();
    load_scales(group, scale, offset);
    MOBA_UNROLL
    for (int r = 0; r < kRows; ++r) {
      accumulate(dots[r], scale, offset, F::kHasOffset, x.scale + r * x.scale_stride,
                 x.sum + r * x.sum_stride + group, sums[r]);
      dots[r] = zero_ints();
    }
  }
}

XTile x_tile(const QuantBlock& block, std::int64_t row, bool halves) {
  XTile x;
  x.q_stride = block.k;
  x.scale_stride = block.k / kQuantColumns;
  x.sum_stride = halves ? block.k / 16 : block.k / kQuantColumns;
  x.q = block.x.q + row * x.q_stride;
  x.scale = block.x.scale + row * x.scale_stride;
  x.sum = (halves ? block.x.sum16 : block.x.sum32) + row * x.sum_stride;
  return x;
}

template <typename F>
MOBA_SIMD_INLINE void advance(XTile& x) {
  x.q += kQuantColumns;
  x.scale += 1;
  x.sum += F::kGroups;
}

template <typename T>
Vec load_n(const T* p, int n) {
  return n == kWidth ? load(p) : load_partial(p, n);
}

Vec load_n(const void* p, DType dtype, std::int64_t at, int n) {
  if (dtype == DType::kBFloat16) return load_n(static_cast<const BFloat16*>(p) + at, n);
  if (dtype == DType::kFloat16) return load_n(static_cast<const Float16*>(p) + at, n);
  return load_n(static_cast<const float*>(p) + at, n);
}

// Sums of row `row` and columns [column, column + kWidth), as far as the block has them, to the
// output: with bias, and with what is there.
MOBA_SIMD_INLINE void finish(const QuantBlock& block, std::int64_t row, std::int64_t column,
                             Vec sum) {
  const std::int64_t left = block.n - column;
  if (left <= 0) return;
  const int n = left < kWidth ? static_cast<int>(left) : kWidth;
  if (block.bias != nullptr) sum = sum + load_n(block.bias, block.bias_dtype, column, n);
  const std::int64_t at = row * block.output_stride + column;
  if (block.accumulate) sum = sum + load_n(block.output, block.output_dtype, at, n);
  if (block.output_dtype == DType::kBFloat16) {
    store_partial(static_cast<BFloat16*>(block.output) + at, sum, n);
  } else {
    store_partial(static_cast<float*>(block.output) + at, sum, n);
  }
}

// All of the block's columns for its kRows rows.
template <typename F, int kRows>
void direct_rows(const QuantBlock& block) {
  const std::byte* super = block.weight;
  const std::int64_t supers = block.k / (F::kTiles * kQuantColumns);
  for (std::int64_t column = 0; column < block.n; column += kQuantRows) {
    Vec sums[kParts][kRows];
    for (int part = 0; part < kParts; ++part) {
      for (int r = 0; r < kRows; ++r) sums[part][r] = zero();
    }
    XTile x = x_tile(block, 0, F::kGroups == 2);
    for (std::int64_t s = 0; s < supers; ++s, super += F::kSuperBytes) {
      const std::byte* tile = super + F::kLayout.header_bytes;
      for (int t = 0; t < F::kTiles; ++t, tile += F::kTileBytes) {
        MOBA_UNROLL
        for (int part = 0; part < kParts; ++part) {
          multiply_tile<F>(
              x, [&](int quad) __attribute__((always_inline)) { return F::quad(tile, quad, part); },
              [&](int group, Vec& scale, Vec& offset) __attribute__((always_inline)) {
                F::scales(super, tile, group, part, scale, offset);
              },
              sums[part]);
        }
        advance<F>(x);
      }
    }
    for (int part = 0; part < kParts; ++part) {
      for (int r = 0; r < kRows; ++r) finish(block, r, column + part * kWidth, sums[part][r]);
    }
  }
}

template <typename F>
void direct(const QuantBlock& block) {
  switch (block.m) {
    case 1:
      return direct_rows<F, 1>(block);
    case 2:
      return direct_rows<F, 2>(block);
    case 3:
      return direct_rows<F, 3>(block);
    default:
      return direct_rows<F, 4>(block);
  }
}

// A row group as bytes, one part after the other: for each tile 8 quads of 4 * kWidth bytes; and
// its scales and offsets: for each column group kWidth floats of either.
struct Unpacked {
  std::byte* quads;
  float* scales;
  std::int64_t quad_bytes;    // of a part
  std::int64_t scale_floats;  // of a part
};

constexpr std::int64_t kGroupsOfTile = 2;  // at most

Unpacked lay_out(void* scratch, std::int64_t k) {
  Unpacked out;
  out.quad_bytes = k * kWidth;
  out.scale_floats = k / kQuantColumns * kGroupsOfTile * 2 * kWidth;
  out.quads = static_cast<std::byte*>(scratch);
  out.scales = reinterpret_cast<float*>(out.quads + k * kQuantRows);
  return out;
}

template <typename F>
void unpack(const std::byte* super, std::int64_t k, const Unpacked& to) {
  const std::int64_t supers = k / (F::kTiles * kQuantColumns);
  std::int64_t tiles = 0;
  for (std::int64_t s = 0; s < supers; ++s, super += F::kSuperBytes) {
    const std::byte* tile = super + F::kLayout.header_bytes;
    for (int t = 0; t < F::kTiles; ++t, ++tiles, tile += F::kTileBytes) {
      for (int part = 0; part < kParts; ++part) {
        std::byte* const quads = to.quads + part * to.quad_bytes + tiles * kQuads * 4 * kWidth;
        MOBA_UNROLL
        for (int quad = 0; quad < kQuads; ++quad) {
          store_bytes(quads + quad * 4 * kWidth, F::quad(tile, quad, part));
        }
        float* const scales = to.scales + part * to.scale_floats + tiles * F::kGroups * 2 * kWidth;
        for (int group = 0; group < F::kGroups; ++group) {
          Vec scale;
          Vec offset = zero();
          F::scales(super, tile, group, part, scale, offset);
          store(scales + group * 2 * kWidth, scale);
          store(scales + group * 2 * kWidth + kWidth, offset);
        }
      }
    }
  }
}

// kRows rows from `row` on, columns of one part of an unpacked row group.
template <typename F, int kRows>
void block_rows(const QuantBlock& block, const std::byte* quads, const float* scales,
                std::int64_t row, std::int64_t column) {
  Vec sums[kRows];
  for (int r = 0; r < kRows; ++r) sums[r] = zero();
  XTile x = x_tile(block, row, F::kGroups == 2);
  const std::int64_t tiles = block.k / kQuantColumns;
  for (std::int64_t t = 0; t < tiles; ++t) {
    multiply_tile<F>(
        x,
        [&](int quad)
            __attribute__((always_inline)) { return load_bytes(quads + quad * 4 * kWidth); },
        [&](int group, Vec& scale, Vec& offset) __attribute__((always_inline)) {
          scale = load(scales + group * 2 * kWidth);
          offset = load(scales + group * 2 * kWidth + kWidth);
        },
        sums);
    quads += kQuads * 4 * kWidth;
    scales += F::kGroups * 2 * kWidth;
    advance<F>(x);
  }
  for (int r = 0; r < kRows; ++r) finish(block, row + r, column, sums[r]);
}

template <typename F>
void many_rows(const QuantBlock& block, void* scratch) {
  const Unpacked unpacked = lay_out(scratch, block.k);
  const std::byte* group = block.weight;
  for (std::int64_t column = 0; column < block.n; column += kQuantRows) {
    unpack<F>(group, block.k, unpacked);
    group += block.k / (F::kTiles * kQuantColumns) * F::kSuperBytes;
    for (int part = 0; part < kParts; ++part) {
      const std::byte* const quads = unpacked.quads + part * unpacked.quad_bytes;
      const float* const scales = unpacked.scales + part * unpacked.scale_floats;
      const std::int64_t at = column + part * kWidth;
      std::int64_t row = 0;
      for (; row + kRowTile <= block.m; row += kRowTile) {
        block_rows<F, kRowTile>(block, quads, scales, row, at);
      }
      if (block.m - row == 3) block_rows<F, 3>(block, quads, scales, row, at);
      if (block.m - row == 2) block_rows<F, 2>(block, quads, scales, row, at);
      if (block.m - row == 1) block_rows<F, 1>(block, quads, scales, row, at);
    }
  }
}

template <typename T>
void quantize(const T* x, std::int64_t rows, std::int64_t k, const QuantizedRows& to) {
  constexpr float kLargest = 127.0F;
  const std::int64_t blocks = rows * (k / kQuantColumns);  // rows follow one another
  for (std::int64_t b = 0; b < blocks; ++b, x += kQuantColumns) {
    Vec values[kQuantColumns / kWidth];
    Vec largest = zero();
    Vec check = zero();  // NaN if any value is NaN or infinite
    for (int i = 0; i < kQuantColumns / kWidth; ++i) {
      values[i] = load(x + i * kWidth);
      largest = max(max(values[i], zero() - values[i]), largest);
      check = check + (values[i] - values[i]);
    }
    const bool finite = reduce_add(check) == 0.0F;
    const float extreme = finite ? reduce_max(largest) : 0.0F;
    const float d = extreme / kLargest;
    // Subnormal scales have no finite inverse: such a block is zero.
    const float inverse = extreme > 1e-30F ? kLargest / extreme : 0.0F;
    const Vec magic = broadcast(12582912.0F);  // 1.5 * 2^23: sums are rounded to integers
    float rounded[kQuantColumns];
    for (int i = 0; i < kQuantColumns / kWidth; ++i) {
      const Vec whole = fma(values[i], broadcast(finite ? inverse : 0.0F), magic) - magic;
      store(rounded + i * kWidth, finite ? whole : zero());
    }
    int sums[2] = {0, 0};
    std::int8_t* const q = to.q + b * kQuantColumns;
    for (int half = 0; half < 2; ++half) {
      for (int i = half * 16; i < half * 16 + 16; ++i) {
        const int value = static_cast<int>(rounded[i]);
        q[i] = static_cast<std::int8_t>(value);
        sums[half] += value;
      }
    }
    const float scale = finite ? d : __builtin_nanf("");
    to.scale[b] = scale;
    to.sum16[2 * b] = scale * static_cast<float>(sums[0]);
    to.sum16[2 * b + 1] = scale * static_cast<float>(sums[1]);
    to.sum32[b] = scale * static_cast<float>(sums[0] + sums[1]);
  }
}

}  // namespace

void quantize_rows(const void* x, DType dtype, std::int64_t rows, std::int64_t k,
                   const QuantizedRows& to) {
  if (dtype == DType::kBFloat16) {
    quantize(static_cast<const BFloat16*>(x), rows, k, to);
  } else {
    quantize(static_cast<const float*>(x), rows, k, to);
  }
}

std::size_t quant_scratch_bytes(std::int64_t k) {
  const std::int64_t scales =
      k / kQuantColumns * kGroupsOfTile * 2 * kQuantRows * static_cast<std::int64_t>(sizeof(float));
  return static_cast<std::size_t>(k * kQuantRows + scales);
}

#define MOBA_FOR_FORMAT(dtype, call)     \
  switch (dtype) {                       \
    case DType::kQ8_0:                   \
      return call<Format<DType::kQ8_0>>; \
    case DType::kQ4_0:                   \
      return call<Format<DType::kQ4_0>>; \
    case DType::kQ4_1:                   \
      return call<Format<DType::kQ4_1>>; \
    case DType::kQ5_0:                   \
      return call<Format<DType::kQ5_0>>; \
    case DType::kQ5_1:                   \
      return call<Format<DType::kQ5_1>>; \
    case DType::kQ4_K:                   \
      return call<Format<DType::kQ4_K>>; \
    case DType::kQ5_K:                   \
      return call<Format<DType::kQ5_K>>; \
    default:                             \
      return call<Format<DType::kQ6_K>>; \
  }

namespace {

using Direct = void (*)(const QuantBlock&);
using Block = void (*)(const QuantBlock&, void*);
Direct direct_of(DType dtype){MOBA_FOR_FORMAT(dtype, direct)} Block block_of(DType dtype) {
  MOBA_FOR_FORMAT(dtype, many_rows)
}

}  // namespace

void quant_direct(const QuantBlock& block) { direct_of(block.weight_dtype)(block); }
void quant_block(const QuantBlock& block, void* scratch) {
  block_of(block.weight_dtype)(block, scratch);
}

}  // namespace moba::cpu::MOBA_SIMD_NS
