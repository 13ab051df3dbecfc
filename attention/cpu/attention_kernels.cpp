// Compiled once for each instruction set; see device/cpu/simd.h for what may stand here.
#include "attention/cpu/attention_kernels.h"

#include "attention/cpu/dot_tile.h"
#include "attention/cpu/kernel_table.h"
#include "attention/cpu/simd_transpose.h"
#include "device/cpu/simd.h"

namespace moba::cpu::MOBA_SIMD_NS {
namespace {

// Rows whose scores are held at a time: they stay in the first-level cache.
constexpr int kRowsPerPass = 48;

alignas(64) const float kZeros[kMaxHeadDim] = {};

template <typename T>
void pack_keys_of(const void* const* rows, int num_keys, int head_dim, float* out) {
  for (int j0 = 0; j0 < num_keys; j0 += kPanelKeys, out += kPanelKeys * head_dim) {
    for (int half = 0; half < kPanelKeys; half += kWidth) {
      const T* row[kWidth];
      for (int i = 0; i < kWidth; ++i) {
        const int j = j0 + half + i;
        row[i] = static_cast<const T*>(j < num_keys ? rows[j] : kZeros);
      }
      for (int d = 0; d < head_dim; d += kWidth) {
        const int width = head_dim - d < kWidth ? head_dim - d : kWidth;
        Vec square[kWidth];
        if (width == kWidth) {
          for (int i = 0; i < kWidth; ++i) square[i] = load(row[i] + d);
          transpose(square);
          for (int i = 0; i < kWidth; ++i) store(out + (d + i) * kPanelKeys + half, square[i]);
        } else {
          for (int i = 0; i < kWidth; ++i) square[i] = load_partial(row[i] + d, width);
          transpose(square);
          for (int i = 0; i < width; ++i) store(out + (d + i) * kPanelKeys + half, square[i]);
        }
      }
    }
  }
}

void pack_keys(const void* const* rows, DType dtype, int num_keys, int head_dim, float* out) {
  if (dtype == DType::kBFloat16) {
    pack_keys_of<BFloat16>(rows, num_keys, head_dim, out);
  } else {
    pack_keys_of<float>(rows, num_keys, head_dim, out);
  }
}

template <typename T>
void widen_rows_of(const void* const* rows, std::int64_t num_rows, int head_dim,
                   std::int64_t out_stride, float* out) {
  const int padded = padded_dim(head_dim);
  for (std::int64_t r = 0; r < num_rows; ++r, out += out_stride) {
    const T* row = static_cast<const T*>(rows[r]);
    int d = 0;
    for (; d + kWidth <= head_dim; d += kWidth) store(out + d, load(row + d));
    if (d < head_dim) {
      store(out + d, load_partial(row + d, head_dim - d));
      d += kWidth;
    }
    for (; d < padded; d += kWidth) store(out + d, zero());
  }
}

void widen_rows(const void* const* rows, DType dtype, std::int64_t num_rows, int head_dim,
                std::int64_t out_stride, float* out) {
  if (dtype == DType::kBFloat16) {
    widen_rows_of<BFloat16>(rows, num_rows, head_dim, out_stride, out);
  } else {
    widen_rows_of<float>(rows, num_rows, head_dim, out_stride, out);
  }
}

// scores[r][j] = q[r] . key j for kRows rows and kPanels panels of keys.
template <int kRows, int kPanels>
void score_panels(const float* const* q, const float* keys, int head_dim, float* scores) {
  Vec acc[kRows][2 * kPanels];
  dot_panels<kRows, kPanels>(q, keys, head_dim, acc);
  for (int r = 0; r < kRows; ++r) {
    for (int j = 0; j < 2 * kPanels; ++j) store(scores + r * kTileKeys + j * kWidth, acc[r][j]);
  }
}

struct ScoreTile {
  const AttendTile& tile;
  int first_row;
  float* scores;  // of first_row

  template <int kRows>
  MOBA_SIMD_INLINE_MEMBER void rows(int r, int panel) const {
    constexpr int kPanels = panels_at_once<kRows>();
    const int row = first_row + r;
    const int limit = tile.limits != nullptr ? tile.limits[row + kRows - 1] : tile.num_keys;
    if (panel * kPanelKeys >= limit) return;
    const float* keys = tile.keys + panel * kPanelKeys * tile.head_dim;
    float* out = scores + r * kTileKeys + panel * kPanelKeys;
    if (kPanels == 1 || panel * kPanelKeys + (kPanels - 1) * kPanelKeys >= limit) {
      for (int p = 0; p < kPanels && (panel + p) * kPanelKeys < limit; ++p) {
        score_panels<kRows, 1>(tile.q + row, keys + p * kPanelKeys * tile.head_dim, tile.head_dim,
                               out + p * kPanelKeys);
      }
    } else {
      score_panels<kRows, kPanels>(tile.q + row, keys, tile.head_dim, out);
    }
  }
};
