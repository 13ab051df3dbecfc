// Compiled once for each instruction set; see device/cpu/simd.h for what may stand here.
#include "attention/cpu/attention_kernels.h"
#include "attention/cpu/dot_panels.h"
#include "attention/cpu/exp2.h"
#include "device/cpu/simd.h"

namespace moba::cpu::MOBA_SIMD_NS {
namespace {

// Rows whose scores are held at a time: they stay in the first-level cache.
constexpr int kPassRows = 48;
static_assert(kPassRows % kGroupRows == 0 && kPassRows % kWidth == 0);

constexpr float kInfinity = __builtin_inff();

// The rows of a tile that are worked on together.
struct Pass {
  const float* const* q;
  const std::int32_t* limits;  // null: all keys
  int num_rows;
  SoftmaxState state;
  alignas(64) float scores[kPassRows * kTileKeys];
  alignas(64) float rescale[kPassRows];  // of what the state holds
  // What is still to be prefetched, and how much of it at each step.
  const char* next_keys;
  const char* next_values;
  std::int64_t next_left;
  std::int64_t next_step;
};

constexpr std::int64_t kCacheLine = 64;

// One step's share. Spread over the work, as a burst would fill the queues of the memory system and
// stall everything else.
MOBA_SIMD_INLINE void prefetch_step(Pass& pass) {
  const std::int64_t step = pass.next_left < pass.next_step ? pass.next_left : pass.next_step;
  for (std::int64_t at = 0; at < step; at += kCacheLine) {
    __builtin_prefetch(pass.next_keys + at, 0, 2);
    __builtin_prefetch(pass.next_values + at, 0, 2);
  }
  pass.next_keys += step;
  pass.next_values += step;
  pass.next_left -= step;
}

int limit_of(const AttendTile& tile, const Pass& pass, int row) {
  return pass.limits != nullptr ? pass.limits[row] : tile.num_keys;
}

// scores of kRows rows with the panels [first, end).
template <int kRows>
MOBA_SIMD_INLINE void score_rows(const AttendTile& tile, Pass& pass, int row, int first, int end) {
  constexpr int kPanels = kPanelsAtOnce<kRows>;
  float* out = pass.scores + row * kTileKeys;
  int panel = first;
  for (; panel + kPanels <= end; panel += kPanels) {
    Vec acc[kRows][2 * kPanels];
    dot_panels<kRows, kPanels>(pass.q + row,
                               tile.keys + std::int64_t{panel} * kPanelKeys * tile.head_dim,
                               tile.head_dim, acc);
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
      for (int j = 0; j < 2 * kPanels; ++j) {
        store(out + r * kTileKeys + panel * kPanelKeys + j * kWidth, acc[r][j]);
      }
    }
  }
  if constexpr (kPanels > 1) {
    for (; panel < end; ++panel) {
      Vec acc[kRows][2];
      dot_panels<kRows, 1>(pass.q + row,
                           tile.keys + std::int64_t{panel} * kPanelKeys * tile.head_dim,
                           tile.head_dim, acc);
#pragma GCC unroll 8
      for (int r = 0; r < kRows; ++r) {
        store(out + r * kTileKeys + panel * kPanelKeys, acc[r][0]);
        store(out + r * kTileKeys + panel * kPanelKeys + kWidth, acc[r][1]);
      }
    }
  }
}

__attribute__((noinline)) void compute_scores(const AttendTile& tile, Pass& pass) {
  const auto panels_seen = [&](int last_row) {
    return (limit_of(tile, pass, last_row) + kPanelKeys - 1) / kPanelKeys;
  };
  const int grouped = pass.num_rows / kGroupRows * kGroupRows;
  const int panels = (tile.num_keys + kPanelKeys - 1) / kPanelKeys;
  for (int panel = 0; panel < panels; panel += kGroupPanels) {
    for (int row = 0; row < grouped; row += kGroupRows) {
      const int seen = panels_seen(row + kGroupRows - 1);
      const int end = seen < panel + kGroupPanels ? seen : panel + kGroupPanels;
      score_rows<kGroupRows>(tile, pass, row, panel, end);
      prefetch_step(pass);
    }
  }
  for_tail_rows(grouped, pass.num_rows, [&]<int kRows>(int row) {
    const int seen = panels_seen(row + kRows - 1);
    for (int panel = 0; panel < seen; panel += kPanelsAtOnce<kRows>) {
      const int end = panel + kPanelsAtOnce<kRows>;
      score_rows<kRows>(tile, pass, row, panel, end < seen ? end : seen);
      prefetch_step(pass);
    }
  });
}

// The largest of a row's first `limit` scores.
MOBA_SIMD_INLINE float largest_score(const float* scores, int limit) {
  Vec largest = broadcast(-kInfinity);
  if (limit == kTileKeys) {
    Vec other = largest;
#pragma GCC unroll 16
    for (int j = 0; j < kTileKeys; j += 2 * kWidth) {
      largest = max(load(scores + j), largest);
      other = max(load(scores + j + kWidth), other);
    }
    return reduce_max(max(largest, other));
  }
  int j = 0;
  for (; j + kWidth <= limit; j += kWidth) largest = max(load(scores + j), largest);
  if (j < limit) {
    const Vec seen = select(first_lanes(limit - j), load(scores + j), broadcast(-kInfinity));
    largest = max(seen, largest);
  }
  return reduce_max(largest);
}

// Scores to weights 2^(scale * score - largest); zeros from `limit` on. Returns their sum.
MOBA_SIMD_INLINE float to_weights(float* scores, int limit, Vec scale, Vec minus_largest) {
  Vec sum = zero();
  if (limit == kTileKeys) {
#pragma GCC unroll 16
    for (int j = 0; j < kTileKeys; j += kWidth) {
      const Vec weight = exp2_nonpositive(fma(load(scores + j), scale, minus_largest));
      store(scores + j, weight);
      sum = sum + weight;
    }
    return reduce_add(sum);
  }
  int j = 0;
  for (; j + kWidth <= limit; j += kWidth) {
    const Vec weight = exp2_nonpositive(fma(load(scores + j), scale, minus_largest));
    store(scores + j, weight);
    sum = sum + weight;
  }
  if (j < limit) {
    const Vec weight = exp2_nonpositive(fma(load(scores + j), scale, minus_largest));
    const Vec seen = select(first_lanes(limit - j), weight, zero());
    store(scores + j, seen);
    sum = sum + seen;
    j += kWidth;
  }
  for (; j < kTileKeys; j += kWidth) store(scores + j, zero());
  return reduce_add(sum);
}

// The first n lanes; whole vectors by plain instructions, as masked ones are slow.
MOBA_SIMD_INLINE Vec load_lanes(const float* p, int n) {
  return n == kWidth ? load(p) : load_partial(p, n);
}
MOBA_SIMD_INLINE void store_lanes(float* p, Vec v, int n) {
  if (n == kWidth) {
    store(p, v);
  } else {
    store_partial(p, v, n);
  }
}

// Scores to weights relative to the new largest score of each row; sums and maxima of the state
// follow.
__attribute__((noinline)) void compute_weights(const AttendTile& tile, Pass& pass) {
  alignas(64) float largest[kPassRows];
  alignas(64) float sums[kPassRows];
  const int n = pass.num_rows;
  const float scale = tile.scale * kLog2E;
  for (int r = 0; r < n; ++r) {
    const float* scores = pass.scores + r * kTileKeys;
    largest[r] = largest_score(scores, limit_of(tile, pass, r)) * scale;
  }
  for (int r = 0; r < n; r += kWidth) {
    const int width = n - r < kWidth ? n - r : kWidth;
    Vec now = load(largest + r);
    if (!tile.first) {
      const Vec before = load_lanes(pass.state.max + r, width);
      now = max(now, before);
      store(pass.rescale + r, exp2_nonpositive(before - now));
      store(largest + r, now);
    }
    store_lanes(pass.state.max + r, now, width);
  }
  const Vec scales = broadcast(scale);
  for (int r = 0; r < n; ++r) {
    float* scores = pass.scores + r * kTileKeys;
    sums[r] = to_weights(scores, limit_of(tile, pass, r), scales, broadcast(-largest[r]));
  }
  for (int r = 0; r < n; r += kWidth) {
    const int width = n - r < kWidth ? n - r : kWidth;
    Vec sum = load(sums + r);
    if (!tile.first) {
      sum = fma(load_lanes(pass.state.sum + r, width), load(pass.rescale + r), sum);
    }
    store_lanes(pass.state.sum + r, sum, width);
  }
}

// Adds the weighted values to kRows rows of the output, kVecs vectors of dimensions from d.
template <int kRows, int kVecs>
MOBA_SIMD_INLINE void add_values(const AttendTile& tile, Pass& pass, int row, int d, int num_keys) {
  const std::int64_t stride = padded_dim(tile.head_dim);
  float* out = pass.state.out + row * stride + d;
  const float* weights = pass.scores + row * kTileKeys;
  Vec acc[kRows][kVecs];
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
    for (int j = 0; j < kVecs; ++j) {
      acc[r][j] = tile.first
                      ? zero()
                      : load(out + r * stride + j * kWidth) * broadcast(pass.rescale[row + r]);
    }
  }
  const float* values = tile.values + d;
#pragma GCC unroll 4
  for (int key = 0; key < num_keys; ++key) {
    // Which side stays in registers: whichever has fewer vectors.
    if constexpr (kRows <= kVecs) {
      Vec weight[kRows];
#pragma GCC unroll 8
      for (int r = 0; r < kRows; ++r) weight[r] = broadcast(weights[r * kTileKeys + key]);
#pragma GCC unroll 8
      for (int j = 0; j < kVecs; ++j) {
        const Vec value = load(values + j * kWidth);
#pragma GCC unroll 8
        for (int r = 0; r < kRows; ++r) acc[r][j] = fma(weight[r], value, acc[r][j]);
      }
    } else {
      Vec value[kVecs];
#pragma GCC unroll 8
      for (int j = 0; j < kVecs; ++j) value[j] = load(values + j * kWidth);
#pragma GCC unroll 8
      for (int r = 0; r < kRows; ++r) {
        const Vec weight = broadcast(weights[r * kTileKeys + key]);
#pragma GCC unroll 8
        for (int j = 0; j < kVecs; ++j) acc[r][j] = fma(weight, value[j], acc[r][j]);
      }
    }
    values += tile.value_stride;
  }
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
    for (int j = 0; j < kVecs; ++j) store(out + r * stride + j * kWidth, acc[r][j]);
  }
}

// Vectors of dimensions at a time: as panels of scores, so that the tile has as many accumulators.
template <int kRows>
MOBA_SIMD_INLINE int add_values_at(const AttendTile& tile, Pass& pass, int row, int d,
                                   int num_keys) {
  constexpr int kVecs = 2 * kPanelsAtOnce<kRows>;
  const int left = (padded_dim(tile.head_dim) - d) / kWidth;
  if (left >= kVecs) {
    add_values<kRows, kVecs>(tile, pass, row, d, num_keys);
    return kVecs * kWidth;
  }
  if constexpr (kVecs > 2) {
    if (left >= 2) {
      add_values<kRows, 2>(tile, pass, row, d, num_keys);
      return 2 * kWidth;
    }
  }
  add_values<kRows, 1>(tile, pass, row, d, num_keys);
  return kWidth;
}

__attribute__((noinline)) void accumulate_values(const AttendTile& tile, Pass& pass) {
  const int grouped = pass.num_rows / kGroupRows * kGroupRows;
  const int padded = padded_dim(tile.head_dim);
  for (int d = 0; grouped > 0 && d < padded;) {
    int width = 0;
    for (int row = 0; row < grouped; row += kGroupRows) {
      width =
          add_values_at<kGroupRows>(tile, pass, row, d, limit_of(tile, pass, row + kGroupRows - 1));
    }
    d += width;
  }
  for_tail_rows(grouped, pass.num_rows, [&]<int kRows>(int row) {
    const int num_keys = limit_of(tile, pass, row + kRows - 1);
    for (int d = 0; d < padded;) {
      d += add_values_at<kRows>(tile, pass, row, d, num_keys);
      prefetch_step(pass);
    }
  });
}

}  // namespace

void attend_tile(const AttendTile& tile) {
  Pass pass;
  pass.next_keys = static_cast<const char*>(tile.next_keys);
  pass.next_values = static_cast<const char*>(tile.next_values);
  pass.next_left = tile.next_keys != nullptr ? tile.next_bytes : 0;
  // Steps: a group of rows, or four times fewer rows, against a panel of keys or of dimensions.
  const int panels = (tile.num_keys + padded_dim(tile.head_dim)) / (kPanelKeys * kGroupPanels);
  const int groups = tile.num_rows / kGroupRows;
  const std::int64_t steps = groups > 0 ? std::int64_t{groups} * panels : (panels + 3) / 4;
  pass.next_step = (pass.next_left / (steps + 1) / kCacheLine + 1) * kCacheLine;
  for (int row = 0; row < tile.num_rows; row += kPassRows) {
    const int left = tile.num_rows - row;
    pass.q = tile.q + row;
    pass.limits = tile.limits != nullptr ? tile.limits + row : nullptr;
    pass.num_rows = left < kPassRows ? left : kPassRows;
    pass.state.max = tile.state.max + row;
    pass.state.sum = tile.state.sum + row;
    pass.state.out = tile.state.out + std::int64_t{row} * padded_dim(tile.head_dim);
    compute_scores(tile, pass);
    compute_weights(tile, pass);
    accumulate_values(tile, pass);
  }
}

}  // namespace moba::cpu::MOBA_SIMD_NS
