// Compiled once for each instruction set; see device/cpu/simd.h for what may stand here.
#include "device/cpu/gemm_kernels.h"

#include <cstddef>
#include <cstdint>

#include "device/cpu/simd.h"

// All loops over the registers of a tile must be unrolled for the tile to stay in registers.
#define MOBA_UNROLL _Pragma("GCC unroll 16")

namespace moba::cpu::MOBA_SIMD_NS {
namespace {

// How elements are multiplied. kStep elements of K make one operand; multiply_add sums their
// products into the lanes of an accumulator.
#if defined(MOBA_SIMD_AVX512_BF16)
// Pairs of bfloat16 products a lane.
struct Op {
  using Element = BFloat16;
  using Operand = __m512bh;
  static constexpr int kStep = 2 * kWidth;
  static Operand load_operand(const BFloat16* p) {
    return reinterpret_cast<Operand>(_mm512_loadu_si512(p));
  }
  static Operand load_operand_partial(const BFloat16* p, int n) {
    const auto mask = static_cast<__mmask32>((std::uint64_t{1} << n) - 1);
    return reinterpret_cast<Operand>(_mm512_maskz_loadu_epi16(mask, p));
  }
  static void store_operand(BFloat16* p, Operand v) {
    _mm512_storeu_si512(p, reinterpret_cast<__m512i>(v));
  }
  static Vec multiply_add(Operand a, Operand b, Vec sum) { return {_mm512_dpbf16_ps(sum.v, a, b)}; }
};
#else
struct Op {
  using Element = float;
  using Operand = Vec;
  static constexpr int kStep = kWidth;
  template <typename T>
  static Operand load_operand(const T* p) {
    return load(p);
  }
  template <typename T>
  static Operand load_operand_partial(const T* p, int n) {
    return load_partial(p, n);
  }
  static void store_operand(float* p, Operand v) { store(p, v); }
  static Vec multiply_add(Operand a, Operand b, Vec sum) { return fma(a, b, sum); }
};
#endif

using Element = Op::Element;
using Operand = Op::Operand;
constexpr std::int64_t kStep = Op::kStep;
static_assert(kLinearMaxKBlock % kStep == 0);

// The register tile of the packed kernel: kRowTile rows of x by kColumnTile rows of the weights.
#if defined(MOBA_SIMD_AVX512)
constexpr int kRowTile = 6;
#else
constexpr int kRowTile = 3;
#endif
constexpr int kColumnTile = 4;
// Weight tiles that pass over a tile of x together, at most.
constexpr int kMaxGroupTiles = 2;
std::int64_t round_up(std::int64_t value, std::int64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

std::size_t align_bytes(std::int64_t bytes) {
  return static_cast<std::size_t>(round_up(bytes, 64));
}

// Copies `rows` rows of k <= kLinearMaxKBlock elements, `stride` apart, to tiles of `tile` rows,
// each laid out as [ceil(k / kStep)][tile][kStep]; missing rows and elements are zero.
template <typename T>
void pack(const T* from, std::int64_t stride, std::int64_t rows, std::int64_t k, int tile,
          Element* to) {
  const std::int64_t whole = k / kStep;
  const int rest = static_cast<int>(k % kStep);
  const std::int64_t steps = whole + (rest != 0 ? 1 : 0);
  const std::int64_t step_size = tile * kStep;
  for (std::int64_t first = 0; first < rows; first += tile, to += steps * step_size) {
    for (std::int64_t r = 0; r < tile; ++r) {
      Element* out = to + r * kStep;
      if (first + r >= rows) {
        const Element nothing{};
        for (std::int64_t s = 0; s < steps; ++s, out += step_size) {
          Op::store_operand(out, Op::load_operand_partial(&nothing, 0));
        }
        continue;
      }
      const T* in = from + (first + r) * stride;
      for (std::int64_t s = 0; s < whole; ++s, in += kStep, out += step_size) {
        Op::store_operand(out, Op::load_operand(in));
      }
      if (rest != 0) Op::store_operand(out, Op::load_operand_partial(in, rest));
    }
  }
}

void pack_rows(const void* from, DType dtype, std::int64_t offset, std::int64_t stride,
               std::int64_t rows, std::int64_t k, int tile, Element* to) {
  if (dtype == DType::kBFloat16) {
    pack(static_cast<const BFloat16*>(from) + offset, stride, rows, k, tile, to);
    return;
  }
#if !defined(MOBA_SIMD_AVX512_BF16)
  if (dtype == DType::kFloat16) {
    pack(static_cast<const Float16*>(from) + offset, stride, rows, k, tile, to);
  } else {
    pack(static_cast<const float*>(from) + offset, stride, rows, k, tile, to);
  }
#endif
}

// The sums of a tile's accumulators, [rows][columns]; rows * columns is a multiple of 4.
template <int kCount>
MOBA_SIMD_INLINE void reduce_tile(const Vec (&sum)[kCount], float* out) {
  static_assert(kCount % 4 == 0);
  MOBA_UNROLL
  for (int i = 0; i < kCount; i += 4) {
    reduce_add4(sum[i], sum[i + 1], sum[i + 2], sum[i + 3], out + i);
  }
}

// One packed tile of x times one packed tile of weights: c[kRowTile, kColumnTile], rows ldc apart,
// is set (first) or added to.
[[gnu::noinline]] void multiply_tile(const Element* x, const Element* w, std::int64_t steps,
                                     bool first, float* c, std::int64_t ldc) {
  Vec sum[kRowTile * kColumnTile];
  MOBA_UNROLL
  for (Vec& s : sum) s = zero();
  const auto step = [&](const Element* xs, const Element* ws) __attribute__((always_inline)) {
    Operand rows[kRowTile];
    MOBA_UNROLL
    for (int i = 0; i < kRowTile; ++i) rows[i] = Op::load_operand(xs + i * kStep);
    MOBA_UNROLL
    for (int j = 0; j < kColumnTile; ++j) {
      const Operand column = Op::load_operand(ws + j * kStep);
      MOBA_UNROLL
      for (int i = 0; i < kRowTile; ++i) {
        sum[i * kColumnTile + j] = Op::multiply_add(rows[i], column, sum[i * kColumnTile + j]);
      }
    }
  };
  constexpr std::int64_t kXStep = kRowTile * kStep;
  constexpr std::int64_t kWStep = kColumnTile * kStep;
  std::int64_t s = 0;
  for (; s + 2 <= steps; s += 2, x += 2 * kXStep, w += 2 * kWStep) {
    step(x, w);
    step(x + kXStep, w + kWStep);
  }
  if (s < steps) step(x, w);

  // Straight to where they belong: K is short, so what follows the loop counts.
  static_assert(kColumnTile == 4);
  MOBA_UNROLL
  for (int i = 0; i < kRowTile; ++i) {
    const Vec* row = sum + i * kColumnTile;
    float* out = c + i * ldc;
    if (first) {
      reduce_add4(row[0], row[1], row[2], row[3], out);
    } else {
      float part[kColumnTile];
      reduce_add4(row[0], row[1], row[2], row[3], part);
      MOBA_UNROLL
      for (int j = 0; j < kColumnTile; ++j) out[j] += part[j];
    }
  }
}

template <typename Out, typename Bias>
void finish_row(const float* sums, const Bias* bias, bool accumulate, std::int64_t n, Out* out) {
  for (std::int64_t i = 0; i < n; i += kWidth) {
    const int count = n - i < kWidth ? static_cast<int>(n - i) : kWidth;
    Vec value = count == kWidth ? load(sums + i) : load_partial(sums + i, count);
    if (bias != nullptr) {
      value = value + (count == kWidth ? load(bias + i) : load_partial(bias + i, count));
    }
    if (accumulate) {
      value = value + (count == kWidth ? load(out + i) : load_partial(out + i, count));
    }
    if (count == kWidth) {
      store(out + i, value);
    } else {
      store_partial(out + i, value, count);
    }
  }
}

template <typename Out>
void finish_row(const LinearBlock& block, const float* sums, Out* out) {
  if (block.bias_dtype == DType::kBFloat16) {
    finish_row(sums, static_cast<const BFloat16*>(block.bias), block.accumulate, block.n, out);
  } else if (block.bias_dtype == DType::kFloat16) {
    finish_row(sums, static_cast<const Float16*>(block.bias), block.accumulate, block.n, out);
  } else {
    finish_row(sums, static_cast<const float*>(block.bias), block.accumulate, block.n, out);
  }
}

// Bias, what the output held, and rounding, for sums [m, n] with rows ldc apart.
void finish(const LinearBlock& block, const float* sums, std::int64_t ldc) {
  for (std::int64_t m = 0; m < block.m; ++m) {
    const std::int64_t offset = m * block.output_stride;
    if (block.output_dtype == DType::kBFloat16) {
      finish_row(block, sums + m * ldc, static_cast<BFloat16*>(block.output) + offset);
    } else {
      finish_row(block, sums + m * ldc, static_cast<float*>(block.output) + offset);
    }
  }
}

void clear(float* values, std::int64_t n) {
  for (std::int64_t i = 0; i < n; ++i) values[i] = 0;
}

// ---- many rows: packed tiles ----

std::int64_t min(std::int64_t a, std::int64_t b) { return a < b ? a : b; }

// Rows of weights that will be packed next, brought into the second-level cache in `num_parts`
// parts while the tiles before them are multiplied: rows far apart give the processor's own
// prefetching little to go by.
class Prefetch {
 public:
  // Columns [n, n + columns) of the block, elements [k0, k0 + k).
  Prefetch(const LinearBlock& block, std::int64_t n, std::int64_t columns, std::int64_t k0,
           std::int64_t k, std::int64_t num_parts) {
    if (n >= block.n || k0 >= block.k) return;
    const std::int64_t size = block.weight_dtype == DType::kFloat32 ? 4 : 2;
    num_rows_ = min(columns, block.n - n);
    stride_ = block.k * size;
    length_ = min(k, block.k - k0) * size;
    part_ = round_up((length_ + num_parts - 1) / num_parts, kLine);
    rows_ = static_cast<const char*>(block.weight) + n * stride_ + k0 * size;
  }

  void run(std::int64_t part) const {
    const std::int64_t end = min((part + 1) * part_, length_);
    for (std::int64_t r = 0; r < num_rows_; ++r) {
      for (std::int64_t at = part * part_; at < end; at += kLine) {
        __builtin_prefetch(rows_ + r * stride_ + at, 0, 2);
      }
    }
  }

 private:
  static constexpr std::int64_t kLine = 64;
  const char* rows_ = nullptr;
  std::int64_t num_rows_ = 0;
  std::int64_t stride_ = 0;  // bytes, as the next two
  std::int64_t length_ = 0;
  std::int64_t part_ = 0;
};

// How many columns of weights stay in the first-level cache while the tiles of x come by from the
// second: the more, the fewer times they come.
std::int64_t group_columns(const LinearBlock& block, std::int64_t steps) {
  const std::int64_t row_bytes = steps * kStep * std::int64_t{sizeof(Element)};
  const std::int64_t room = block.l1_bytes / 8 * 7 - kRowTile * row_bytes;
  const std::int64_t tiles = min(kMaxGroupTiles, room / (kColumnTile * row_bytes));
  return tiles > 1 ? tiles * kColumnTile : kColumnTile;
}

std::size_t block_scratch_bytes(std::int64_t m, std::int64_t n) {
  const auto size = static_cast<std::int64_t>(sizeof(Element));
  const std::int64_t rows = round_up(m, kRowTile);
  return align_bytes(rows * kLinearMaxKBlock * size) +
         align_bytes(kMaxGroupTiles * kColumnTile * kLinearMaxKBlock * size) +
         align_bytes(rows * round_up(n, kColumnTile) * std::int64_t{sizeof(float)});
}

void linear_block(const LinearBlock& block, void* scratch) {
  const std::int64_t rows = round_up(block.m, kRowTile);
  const std::int64_t ldc = round_up(block.n, kColumnTile);
  auto* bytes = static_cast<std::byte*>(scratch);
  auto* x_tiles = reinterpret_cast<Element*>(bytes);
  bytes += align_bytes(rows * kLinearMaxKBlock * std::int64_t{sizeof(Element)});
  auto* w_tiles = reinterpret_cast<Element*>(bytes);
  bytes +=
      align_bytes(kMaxGroupTiles * kColumnTile * kLinearMaxKBlock * std::int64_t{sizeof(Element)});
  auto* sums = reinterpret_cast<float*>(bytes);

  const std::int64_t num_tiles = rows / kRowTile;
  for (std::int64_t k0 = 0; k0 < block.k; k0 += block.k_block) {
    const std::int64_t k = min(block.k_block, block.k - k0);
    const std::int64_t steps = (k + kStep - 1) / kStep;
    pack_rows(block.x, block.x_dtype, k0, block.k, block.m, k, kRowTile, x_tiles);
    const std::int64_t group = group_columns(block, steps);
    for (std::int64_t n = 0; n < block.n; n += group) {
      const std::int64_t columns = min(group, block.n - n);
      pack_rows(block.weight, block.weight_dtype, n * block.k + k0, block.k, columns, k,
                kColumnTile, w_tiles);
      const std::int64_t next = n + group;
      const Prefetch prefetch = next < block.n
                                    ? Prefetch(block, next, group, k0, k, num_tiles)
                                    : Prefetch(block, 0, group, k0 + k, block.k_block, num_tiles);
      for (std::int64_t tile = 0; tile < num_tiles; ++tile) {
        prefetch.run(tile);
        const Element* x_tile = x_tiles + tile * kRowTile * steps * kStep;
        float* tile_sums = sums + tile * kRowTile * ldc + n;
        for (std::int64_t j = 0; j < columns; j += kColumnTile) {
          multiply_tile(x_tile, w_tiles + j * steps * kStep, steps, k0 == 0, tile_sums + j, ldc);
        }
      }
    }
  }
  if (block.k == 0) clear(sums, rows * ldc);
  finish(block, sums, ldc);
}

// ---- few rows: weights streamed from where they lie ----

std::int64_t prepared_stride(std::int64_t k) { return round_up(k, kStep); }

std::size_t prepared_bytes(std::int64_t m, std::int64_t k) {
  return align_bytes(m * prepared_stride(k) * std::int64_t{sizeof(Element)});
}

// Rows of elements, zero up to prepared_stride(k).
void prepare(const void* x, DType dtype, std::int64_t m, std::int64_t k, void* prepared) {
  auto* out = static_cast<Element*>(prepared);
  for (std::int64_t r = 0; r < m; ++r) {
    for (std::int64_t k0 = 0; k0 < k; k0 += kLinearMaxKBlock) {
      const std::int64_t part = min(k - k0, kLinearMaxKBlock);
      pack_rows(x, dtype, r * k + k0, k, 1, part, 1, out + r * prepared_stride(k) + k0);
    }
  }
}

// kRows prepared rows of x times kColumns rows of weights, anywhere: sums[kRows * kColumns].
template <int kRows, int kColumns, typename W>
void multiply_streams(const Element* x, std::int64_t x_stride, const W* const* w, std::int64_t k,
                      std::int64_t k_block, float* sums) {
  constexpr int kCount = kRows * kColumns;
  const W* columns[kColumns];
  MOBA_UNROLL
  for (int j = 0; j < kColumns; ++j) columns[j] = w[j];
  for (std::int64_t k0 = 0; k0 < k; k0 += k_block) {
    Vec sum[kCount];
    MOBA_UNROLL
    for (Vec& s : sum) s = zero();
    const auto step = [&](std::int64_t at, auto&& load_weights) __attribute__((always_inline)) {
      Operand rows[kRows];
      MOBA_UNROLL
      for (int i = 0; i < kRows; ++i) rows[i] = Op::load_operand(x + i * x_stride + at);
      MOBA_UNROLL
      for (int j = 0; j < kColumns; ++j) {
        const Operand column = load_weights(columns[j] + at);
        MOBA_UNROLL
        for (int i = 0; i < kRows; ++i) {
          sum[i * kColumns + j] = Op::multiply_add(rows[i], column, sum[i * kColumns + j]);
        }
      }
    };
    const auto whole = [](const W* p) __attribute__((always_inline)) {
      return Op::load_operand(p);
    };
    const std::int64_t end = min(k, k0 + k_block);
    std::int64_t at = k0;
    for (; at + 2 * kStep <= end; at += 2 * kStep) {
      step(at, whole);
      step(at + kStep, whole);
    }
    for (; at + kStep <= end; at += kStep) step(at, whole);
    if (at < end) {
      const int rest = static_cast<int>(end - at);
      step(
          at, [rest](const W* p)
                  __attribute__((always_inline)) { return Op::load_operand_partial(p, rest); });
    }
    float part[kCount];
    reduce_tile(sum, part);
    for (int i = 0; i < kCount; ++i) sums[i] = k0 == 0 ? part[i] : sums[i] + part[i];
  }
}

// Rows [m0, m0 + kRows) of the block's sums.
template <int kRows, int kColumns, typename W>
void direct_rows(const LinearBlock& block, std::int64_t m0, float* sums, std::int64_t ldc) {
  const std::int64_t stride = prepared_stride(block.k);
  const Element* x = static_cast<const Element*>(block.x) + m0 * stride;
  const W* weight = static_cast<const W*>(block.weight);
  float tile[kRows * kColumns];
  const W* rows[kColumns];
  // Each stream walks through consecutive rows: long sequential reads, also where K is small.
  const std::int64_t per_stream = block.n / kColumns;
  for (std::int64_t r = 0; r < per_stream; ++r) {
    for (int j = 0; j < kColumns; ++j) rows[j] = weight + (j * per_stream + r) * block.k;
    multiply_streams<kRows, kColumns>(x, stride, rows, block.k, block.k_block, tile);
    for (int i = 0; i < kRows; ++i) {
      for (int j = 0; j < kColumns; ++j) {
        sums[(m0 + i) * ldc + j * per_stream + r] = tile[i * kColumns + j];
      }
    }
  }
  const std::int64_t done = per_stream * kColumns;
  if (done < block.n) {
    const int rest = static_cast<int>(block.n - done);
    for (int j = 0; j < kColumns; ++j) {
      rows[j] = weight + (done + (j < rest ? j : rest - 1)) * block.k;
    }
    multiply_streams<kRows, kColumns>(x, stride, rows, block.k, block.k_block, tile);
    for (int i = 0; i < kRows; ++i) {
      for (int j = 0; j < rest; ++j) sums[(m0 + i) * ldc + done + j] = tile[i * kColumns + j];
    }
  }
}

template <typename W>
void direct(const LinearBlock& block, float* sums, std::int64_t ldc) {
  std::int64_t m = 0;
#if defined(MOBA_SIMD_AVX512)
  while (block.m - m >= 4) {
    direct_rows<4, 6, W>(block, m, sums, ldc);
    m += 4;
  }
  if (block.m - m == 3) return direct_rows<3, 8, W>(block, m, sums, ldc);
  if (block.m - m == 2) return direct_rows<2, 8, W>(block, m, sums, ldc);
#else
  while (block.m - m > 4 || block.m - m == 3) {
    direct_rows<3, 4, W>(block, m, sums, ldc);
    m += 3;
  }
  if (block.m - m == 4) return direct_rows<4, 3, W>(block, m, sums, ldc);
  if (block.m - m == 2) return direct_rows<2, 4, W>(block, m, sums, ldc);
#endif
  if (block.m - m == 1) direct_rows<1, 8, W>(block, m, sums, ldc);
}

std::size_t direct_scratch_bytes(std::int64_t m, std::int64_t n) {
  return align_bytes(m * n * std::int64_t{sizeof(float)});
}

void linear_direct(const LinearBlock& block, void* scratch) {
  auto* sums = static_cast<float*>(scratch);
  if (block.k == 0) {
    clear(sums, block.m * block.n);
  } else if (block.weight_dtype == DType::kBFloat16) {
    direct<BFloat16>(block, sums, block.n);
#if !defined(MOBA_SIMD_AVX512_BF16)
  } else if (block.weight_dtype == DType::kFloat16) {
    direct<Float16>(block, sums, block.n);
  } else {
    direct<float>(block, sums, block.n);
#endif
  }
  finish(block, sums, block.n);
}

}  // namespace

LinearKernels linear_kernels() {
  return {kRowTile,      kColumnTile,          linear_block, block_scratch_bytes,
          linear_direct, direct_scratch_bytes, prepare,      prepared_bytes};
}

}  // namespace moba::cpu::MOBA_SIMD_NS
