// Compiled once for each instruction set; see device/cpu/simd.h for what may stand here.
#include "attention/cpu/attention_kernels.h"
#include "attention/cpu/dot_panels.h"
#include "attention/cpu/simd_transpose.h"
#include "device/cpu/simd.h"

namespace moba::cpu::MOBA_SIMD_NS {
namespace {

// Takes the blocks whose bits are set in `hits`, last first, into the row's best. scores[i] is that
// of block first_block + i. Rare: most blocks fail the comparison with the row's worst.
__attribute__((noinline)) void insert_blocks(const GateTile& tile, int row, const float* scores,
                                             unsigned hits, int first_block) {
  const int visible = tile.owns[row] - first_block;
  if (visible < kPanelKeys) hits &= visible > 0 ? (1U << visible) - 1U : 0U;
  float* best_scores = tile.best_scores + std::int64_t{row} * tile.count;
  std::int32_t* best = tile.best + std::int64_t{row} * tile.count;
  while (hits != 0) {
    const int i = 31 - __builtin_clz(hits);
    hits ^= 1U << i;
    const float score = scores[i];
    int at = tile.count - 1;
    if (!(best_scores[at] < score)) continue;  // others came in first
    for (; at > 0 && best_scores[at - 1] < score; --at) {
      best_scores[at] = best_scores[at - 1];
      best[at] = best[at - 1];
    }
    best_scores[at] = score;
    best[at] = first_block + i;
  }
}

// kRows rows against one panel of centroids.
template <int kRows>
MOBA_SIMD_INLINE void gate_rows(const GateTile& tile, int row, int panel) {
  const int first_block = tile.first_block + panel * kPanelKeys;
  if (tile.owns[row + kRows - 1] <= first_block) return;
  Vec acc[kRows][2];
  dot_panels<kRows, 1>(tile.q + row,
                       tile.centroids + std::int64_t{panel} * kPanelKeys * tile.head_dim,
                       tile.head_dim, acc);
  const float* worst = tile.best_scores + std::int64_t{row + 1} * tile.count - 1;
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
    const Vec threshold = broadcast(worst[std::int64_t{r} * tile.count]);
    const unsigned hits =
        lane_bits(less(threshold, acc[r][0])) | lane_bits(less(threshold, acc[r][1])) << kWidth;
    if (hits != 0) [[unlikely]] {
      alignas(64) float scores[kPanelKeys];
      store(scores, acc[r][0]);
      store(scores + kWidth, acc[r][1]);
      insert_blocks(tile, row + r, scores, hits, first_block);
    }
  }
}

}  // namespace

void gate_tile(const GateTile& tile) {
  const int grouped = tile.num_rows / kGroupRows * kGroupRows;
  for (int panel = (tile.num_blocks - 1) / kPanelKeys; panel >= 0; --panel) {
    for (int row = 0; row < grouped; row += kGroupRows) gate_rows<kGroupRows>(tile, row, panel);
    for_tail_rows(grouped, tile.num_rows,
                  [&]<int kRows>(int row) { gate_rows<kRows>(tile, row, panel); });
  }
}

}  // namespace moba::cpu::MOBA_SIMD_NS
