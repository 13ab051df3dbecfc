#include "attention/cpu/moba.h"

#include <algorithm>
#include <cstdint>
#include <limits>

#include "attention/cpu/segments.h"

namespace moba::cpu {
namespace {

// Rows whose every score was NaN or -infinity chose fewer blocks than they must: the latest ones
// not chosen yet take the free places.
void complete_choices(std::int32_t* choices, std::int64_t num_rows, int count,
                      const std::int32_t* owns) {
  for (std::int64_t row = 0; row < num_rows; ++row, choices += gate_stride(count)) {
    if (choices[count - 1] >= 0) [[likely]] {
      continue;
    }
    std::int32_t* free = std::find(choices, choices + count, -1);
    for (std::int32_t block = owns[row] - 1; free != choices + count; --block) {
      if (std::find(choices, free, block) == free) *free++ = block;
    }
  }
}

// Rows by the block they chose: those of block b at listed_rows[list_starts[b] .. list_starts[b +
// 1]), ascending.
void invert_choices(const ThreadWorkspace& w, std::int64_t num_rows, int count,
                    std::int64_t num_blocks) {
  std::int32_t* starts = w.list_starts;
  // Counted one place late, so that filling moves each start to where its list begins.
  std::fill(starts, starts + num_blocks + 2, 0);
  const std::int64_t stride = gate_stride(count);
  for (std::int64_t row = 0; row < num_rows; ++row) {
    const std::int32_t* choices = w.choices + row * stride;
    for (int i = 0; i < count; ++i) ++starts[choices[i] + 2];
  }
  for (std::int64_t b = 2; b < num_blocks + 2; ++b) starts[b] += starts[b - 1];
  for (std::int64_t row = 0; row < num_rows; ++row) {
    const std::int32_t* choices = w.choices + row * stride;
    for (int i = 0; i < count; ++i) {
      w.listed_rows[starts[choices[i] + 1]++] = static_cast<std::int32_t>(row);
    }
  }
}

// Goes through the blocks for one item.
class BlockPass {
 public:
  BlockPass(const LayerRun& run, const QuerySpan& span, const WorkspaceLimits& limits,
            const ThreadWorkspace& workspace)
      : run_(run),
        span_(span),
        w_(workspace),
        reader_(run, span, workspace),
        rows_at_once_(limits.segment_rows) {}

  // The rows w.listed_rows[begin, end) see all of the block. `next_begin`: where the keys begin
  // that are needed after the block.
  void attend_listed(std::int64_t block, std::int64_t begin, std::int64_t end,
                     std::int64_t next_begin) {
    for (std::int64_t at = begin; at < end; at += rows_at_once_) {
      const std::int32_t* listed = w_.listed_rows + at;
      SegmentRows rows{};
      rows.count = static_cast<int>(std::min(rows_at_once_, end - at));
      const std::int64_t row_floats = padded_dim(run_.cache->head_dim);
      const std::int64_t row_bytes = row_floats * std::int64_t{sizeof(float)};
      for (int i = 0; i < rows.count; ++i) {
        w_.segment_q[i] = w_.q_rows[listed[i]];
        prefetch(w_.segment_q[i], row_bytes);
        prefetch(w_.total.out + listed[i] * row_floats, row_bytes);
      }
      rows.q = w_.segment_q;
      const std::int64_t block_begin = block * run_.cache->moba_block_size;
      const std::int64_t block_end = block_begin + run_.cache->moba_block_size;
      for (std::int64_t k = block_begin; k < block_end; k += kSegmentKeys) {
        const std::int64_t segment_end = std::min(k + kSegmentKeys, block_end);
        if (segment_end < block_end) {
          rows.next_begin = segment_end;
        } else {
          rows.next_begin = at + rows.count < end ? -1 : next_begin;
        }
        attend_segment(run_, rows, k, segment_end, reader_, w_, w_.segment);
        run_.kernels.merge_rows(w_.segment, rows.count, run_.cache->head_dim, listed, w_.total);
      }
    }
  }

  // The rows [begin, end) of the span stand in the block.
  void attend_own(std::int64_t block, std::int64_t begin, std::int64_t end) {
    const int group = run_.group();
    const int head_dim = run_.cache->head_dim;
    const std::int64_t block_begin = block * run_.cache->moba_block_size;
    for (std::int64_t at = begin; at < end; at += rows_at_once_) {
      const std::int64_t count = std::min(rows_at_once_, end - at);
      const std::int64_t keys_end = span_.first_position + (at + count - 1) / group + 1;
      for (std::int64_t k = block_begin; k < keys_end; k += kSegmentKeys) {
        // Rows before the segment do not see it.
        const std::int64_t first = std::max(at, (k - span_.first_position) * group);
        SegmentRows rows{};
        rows.q = w_.q_rows + first;
        rows.count = static_cast<int>(at + count - first);
        rows.causal = true;
        rows.first_position = span_.first_position;
        rows.first_row = first;
        rows.next_begin = -1;
        attend_segment(run_, rows, k, std::min(k + kSegmentKeys, keys_end), reader_, w_,
                       w_.segment);
        run_.kernels.merge_rows(w_.segment, rows.count, head_dim, nullptr,
                                rows_from(w_.total, first, head_dim));
      }
    }
  }

 private:
  const LayerRun& run_;
  const QuerySpan& span_;
  const ThreadWorkspace& w_;
  KvReader reader_;
  std::int64_t rows_at_once_;
};

}  // namespace

void choose_blocks(const LayerRun& run, const QuerySpan& span, int topk,
                   const WorkspaceLimits& limits, const ThreadWorkspace& w) {
  const int group = run.group();
  const int count = topk - 1;
  const std::int64_t num_rows = std::int64_t{span.num_tokens} * group;
  for (std::int64_t row = 0; row < num_rows; ++row) {
    w.owns[row] =
        static_cast<std::int32_t>((span.first_position + row / group) / run.cache->moba_block_size);
  }
  if (count == 0) return;
  KvReader reader(run, span, w);
  const std::int64_t stride = gate_stride(count);
  const std::int64_t rows_at_once = std::min(limits.segment_rows, limits.gate_scores / stride);
  for (std::int64_t begin = 0; begin < num_rows; begin += rows_at_once) {
    const std::int64_t end = std::min(begin + rows_at_once, num_rows);
    std::int32_t* choices = w.choices + begin * stride;
    std::fill(choices, choices + (end - begin) * stride, -1);
    std::fill(w.choice_scores, w.choice_scores + (end - begin) * stride,
              -std::numeric_limits<float>::infinity());
    // From the latest block to the first: of equal scores the later block is then ahead, and as
    // rows tend to choose what is near, most blocks fail the first comparison.
    const std::int64_t num_blocks = w.owns[end - 1];
    for (std::int64_t tile_begin = (num_blocks - 1) / kTileKeys * kTileKeys; tile_begin >= 0;
         tile_begin -= kTileKeys) {
      GateTile tile{};
      tile.num_blocks =
          static_cast<int>(std::min<std::int64_t>(kTileKeys, num_blocks - tile_begin));
      reader.load_centroids(tile_begin, tile.num_blocks);
      tile.q = w.q_rows + begin;
      tile.centroids = reader.keys();
      tile.owns = w.owns + begin;
      tile.num_rows = static_cast<int>(end - begin);
      tile.first_block = static_cast<int>(tile_begin);
      tile.head_dim = run.cache->head_dim;
      tile.count = count;
      tile.best_stride = static_cast<int>(stride);
      tile.best_scores = w.choice_scores;
      tile.best = choices;
      if (tile_begin > 0) reader.prefetch_centroids(tile_begin - kTileKeys, kTileKeys);
      run.kernels.gate_tile(tile);
    }
    complete_choices(choices, end - begin, count, w.owns + begin);
  }
}

void attend_moba(const LayerRun& run, const QuerySpan& span, int topk,
                 const WorkspaceLimits& limits, const ThreadWorkspace& w) {
  const int group = run.group();
  const int block_size = run.cache->moba_block_size;
  const std::int64_t num_rows = std::int64_t{span.num_tokens} * group;
  load_queries(run, span, w);
  choose_blocks(run, span, topk, limits, w);
  const std::int64_t num_blocks = w.owns[num_rows - 1] + 1;
  invert_choices(w, num_rows, topk - 1, num_blocks);

  std::fill(w.total.sum, w.total.sum + num_rows, 0.0F);
  BlockPass pass(run, span, limits, w);
  const std::int64_t first_own = span.first_position / block_size;
  std::int64_t next = 0;
  for (std::int64_t block = 0; block < num_blocks; ++block) {
    // The next block that any row sees, if that is not a row's own: those come all.
    next = std::max(next, block + 1);
    while (next < first_own && w.list_starts[next] == w.list_starts[next + 1]) ++next;
    pass.attend_listed(block, w.list_starts[block], w.list_starts[block + 1],
                       next < num_blocks ? next * block_size : -1);
    const std::int64_t begin =
        std::max<std::int64_t>(0, (block * block_size - span.first_position) * group);
    const std::int64_t end =
        std::min(num_rows, ((block + 1) * block_size - span.first_position) * group);
    if (begin < end) pass.attend_own(block, begin, end);
  }
  run.kernels.finish_rows(w.total, num_rows, run.cache->head_dim, run.cache->dtype, w.out_rows);
}

}  // namespace moba::cpu
