// The register tile of scores: rows of q against panels of packed keys. Included by kernel files
// only; see device/cpu/simd.h.
#pragma once

#include "attention/cpu/attention_kernels.h"
#include "device/cpu/simd.h"

namespace moba::cpu::MOBA_SIMD_NS {

inline constexpr int kPanelKeys = 2 * kWidth;
// Rows of a full register tile, and panels it spans: 12 accumulators of 16 registers, 24 of 32.
inline constexpr int kGroupRows = 6;
inline constexpr int kGroupPanels = kWidth == 16 ? 2 : 1;

// Panels that keep the multiply-add units busy where there are fewer rows.
template <int kRows>
inline constexpr int kPanelsAtOnce = kWidth == 16 ? 2
                                     : kRows > 3  ? 1
                                     : kRows > 1  ? 2
                                                  : 4;

// acc[r][j] = q[r] . (keys of vector j), summed over the dimensions from the first. q: pointers to
// kRows rows; keys: kPanels panels.
template <int kRows, int kPanels>
MOBA_SIMD_INLINE void dot_panels(const float* const* q, const float* keys, int head_dim,
                                 Vec (&acc)[kRows][2 * kPanels]) {
  const float* row[kRows];
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) row[r] = q[r];
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
    for (int j = 0; j < 2 * kPanels; ++j) acc[r][j] = zero();
  }
  const std::int64_t panel_stride = std::int64_t{kPanelKeys} * head_dim;
#pragma GCC unroll 4
  for (int d = 0; d < head_dim; ++d) {
    // Which side stays in registers: whichever has fewer vectors.
    if constexpr (kRows <= 2 * kPanels) {
      Vec x[kRows];
#pragma GCC unroll 8
      for (int r = 0; r < kRows; ++r) x[r] = broadcast(row[r][d]);
#pragma GCC unroll 8
      for (int j = 0; j < 2 * kPanels; ++j) {
        const Vec key = load(keys + j / 2 * panel_stride + j % 2 * kWidth);
#pragma GCC unroll 8
        for (int r = 0; r < kRows; ++r) acc[r][j] = fma(x[r], key, acc[r][j]);
      }
    } else {
      Vec key[2 * kPanels];
#pragma GCC unroll 8
      for (int j = 0; j < 2 * kPanels; ++j) {
        key[j] = load(keys + j / 2 * panel_stride + j % 2 * kWidth);
      }
#pragma GCC unroll 8
      for (int r = 0; r < kRows; ++r) {
        const Vec x = broadcast(row[r][d]);
#pragma GCC unroll 8
        for (int j = 0; j < 2 * kPanels; ++j) acc[r][j] = fma(x, key[j], acc[r][j]);
      }
    }
    keys += kPanelKeys;
  }
}

// Calls f.operator()<n>(first_row) for the n rows from first_row on, fewer than a group.
template <typename F>
MOBA_SIMD_INLINE void for_tail_rows(int first_row, int num_rows, const F& f) {
  switch (num_rows - first_row) {
    case 5:
      return f.template operator()<5>(first_row);
    case 4:
      return f.template operator()<4>(first_row);
    case 3:
      return f.template operator()<3>(first_row);
    case 2:
      return f.template operator()<2>(first_row);
    case 1:
      return f.template operator()<1>(first_row);
    default:
      return;
  }
}

}  // namespace moba::cpu::MOBA_SIMD_NS
