// Compiled once for each instruction set; see device/cpu/simd.h for what may stand here.
#include "attention/cpu/attention_kernels.h"
#include "attention/cpu/dot_panels.h"
#include "attention/cpu/simd_lanes.h"
#include "device/cpu/simd.h"

namespace moba::cpu::MOBA_SIMD_NS {
namespace {

// Rows that meet the panels of a tile one after the other: both stay in the first-level cache.
constexpr int kPassRows = 24;
static_assert(kPassRows % kGroupRows == 0);

constexpr float kInfinity = __builtin_inff();

// A row's best blocks so far, by falling score, in kVecs vectors. Lanes past what the row keeps are
// of no account: they hold what fell out.
template <int kVecs>
struct BestBlocks {
  Vec scores[kVecs];
  Vec blocks[kVecs];  // bits of integers

  // Puts a block behind those of higher or equal score.
  __attribute__((always_inline)) void insert(float score, std::int32_t block) {
    const Vec s = broadcast(score);
    float block_bits;
    __builtin_memcpy(&block_bits, &block, sizeof(block_bits));
    const Vec b = broadcast(block_bits);
#pragma GCC unroll 4
    for (int j = kVecs - 1; j >= 0; --j) {
      // A lane that is lower takes its left neighbour, or the new block if that is not lower.
      const Mask lower = less(scores[j], s);
      const Vec left = shift_in(j > 0 ? scores[j - 1] : broadcast(kInfinity), scores[j]);
      const Vec left_block = shift_in(j > 0 ? blocks[j - 1] : zero(), blocks[j]);
      blocks[j] = select(lower, select(less(left, s), left_block, b), blocks[j]);
      scores[j] = select(lower, min(left, s), scores[j]);
    }
  }
};

// Takes the blocks whose bits are set in `hits`, last first, into the row's best. scores[i] is that
// of block first_block + i.
template <int kVecs>
MOBA_SIMD_INLINE void insert_in_registers(const float* scores, unsigned hits, int first_block,
                                          float* best_scores, std::int32_t* best) {
  BestBlocks<kVecs> list;
  auto* best_bits = reinterpret_cast<float*>(best);
#pragma GCC unroll 4
  for (int j = 0; j < kVecs; ++j) {
    list.scores[j] = load(best_scores + j * kWidth);
    list.blocks[j] = load(best_bits + j * kWidth);
  }
  while (hits != 0) {
    const int i = 31 - __builtin_clz(hits);
    hits ^= 1U << i;
    list.insert(scores[i], first_block + i);
  }
#pragma GCC unroll 4
  for (int j = 0; j < kVecs; ++j) {
    store(best_scores + j * kWidth, list.scores[j]);
    store(best_bits + j * kWidth, list.blocks[j]);
  }
}

void insert_in_memory(const float* scores, unsigned hits, int first_block, int count,
                      float* best_scores, std::int32_t* best) {
  while (hits != 0) {
    const int i = 31 - __builtin_clz(hits);
    hits ^= 1U << i;
    const float score = scores[i];
    int at = count - 1;
    if (!(best_scores[at] < score)) continue;  // others came in first
    for (; at > 0 && best_scores[at - 1] < score; --at) {
      best_scores[at] = best_scores[at - 1];
      best[at] = best[at - 1];
    }
    best_scores[at] = score;
    best[at] = first_block + i;
  }
}

// The rows from `row` on, with scores [num_rows, kPanelKeys], take what is better than their worst.
// Not inline: the further the gate has come, the fewer blocks get here.
__attribute__((noinline)) void insert_blocks(const GateTile& tile, int row, int num_rows,
                                             const float* scores, int first_block) {
  for (int r = 0; r < num_rows; ++r, scores += kPanelKeys) {
    float* best_scores = tile.best_scores + std::int64_t{row + r} * tile.best_stride;
    std::int32_t* best = tile.best + std::int64_t{row + r} * tile.best_stride;
    const Vec worst = broadcast(best_scores[tile.count - 1]);
    unsigned hits = lane_bits(less(worst, load(scores))) |
                    lane_bits(less(worst, load(scores + kWidth))) << kWidth;
    const int visible = tile.owns[row + r] - first_block;
    if (visible < kPanelKeys) hits &= visible > 0 ? (1U << visible) - 1U : 0U;
    if (hits == 0) continue;
    if (tile.count <= kWidth) {
      insert_in_registers<1>(scores, hits, first_block, best_scores, best);
    } else if (tile.count <= 2 * kWidth) {
      insert_in_registers<2>(scores, hits, first_block, best_scores, best);
    } else {
      insert_in_memory(scores, hits, first_block, tile.count, best_scores, best);
    }
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
  const float* worst = tile.best_scores + std::int64_t{row} * tile.best_stride + tile.count - 1;
  Mask better = first_lanes(0);
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
    const Vec threshold = broadcast(worst[std::int64_t{r} * tile.best_stride]);
    better = either(better, either(less(threshold, acc[r][0]), less(threshold, acc[r][1])));
  }
  if (lane_bits(better) == 0) return;
  alignas(64) float scores[kRows * kPanelKeys];
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
    store(scores + r * kPanelKeys, acc[r][0]);
    store(scores + r * kPanelKeys + kWidth, acc[r][1]);
  }
  insert_blocks(tile, row, kRows, scores, first_block);
}

}  // namespace

void gate_tile(const GateTile& tile) {
  for (int begin = 0; begin < tile.num_rows; begin += kPassRows) {
    const int end = tile.num_rows - begin < kPassRows ? tile.num_rows : begin + kPassRows;
    const int grouped = begin + (end - begin) / kGroupRows * kGroupRows;
    for (int panel = (tile.num_blocks - 1) / kPanelKeys; panel >= 0; --panel) {
      for (int row = begin; row < grouped; row += kGroupRows) {
        gate_rows<kGroupRows>(tile, row, panel);
      }
      for_tail_rows(grouped, end, [&]<int kRows>(int row) { gate_rows<kRows>(tile, row, panel); });
    }
  }
}

}  // namespace moba::cpu::MOBA_SIMD_NS
