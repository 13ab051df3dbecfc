#include "attention/cpu/work_plan.h"

#include <algorithm>
#include <cstddef>

#include "attention/cpu/dense.h"
#include "device/check.h"

namespace moba::cpu {
namespace {

// Bringing a tile of keys to the kernels costs about as much as this many rows do.
constexpr std::int64_t kTileRowsOverhead = 4;
// Fewer rows than this make a poor item where there is a choice.
constexpr std::int64_t kMinDenseRows = 48;
constexpr std::int64_t kMinMobaTokens = 64;
// Items for each thread that keep the last one from waiting long.
constexpr std::int64_t kItemsPerThread = 2;
// A span of more rows is not split by segments: its tokens can be spread instead.
constexpr std::int64_t kMaxSplitRows = 64;

// The queries of one sequence that are computed alike.
struct Part {
  QuerySpan span;  // of any kv_head; num_tokens may exceed what one item holds
  int topk;        // 0: full attention
};

std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

// Row-key pairs that an item goes through, or would in the same time.
double cost_of(const AttentionConfig& config, const WorkItem& item) {
  const std::int64_t rows =
      std::int64_t{item.span.num_tokens} * (config.num_q_heads / config.num_kv_heads);
  const std::int64_t keys = item.span.first_position + item.span.num_tokens;
  if (item.topk == 0)
    return static_cast<double>(rows + kTileRowsOverhead) * static_cast<double>(keys);
  const std::int64_t blocks = keys / config.moba_block_size;
  const std::int64_t per_row = std::int64_t{item.topk} * config.moba_block_size + blocks / 2;
  const std::int64_t brought =
      std::min(rows * item.topk, blocks) * std::int64_t{config.moba_block_size};
  return static_cast<double>(rows) * static_cast<double>(per_row) +
         static_cast<double>(kTileRowsOverhead) * static_cast<double>(brought);
}

// The sequences' queries by kind of attention: those whose block has fewer than topk blocks before
// it see everything.
std::vector<Part> parts_of(const AttentionConfig& config, const AttentionMetadata& m,
                           const std::int32_t* topk) {
  std::vector<Part> parts;
  for (int s = 0; s < m.num_seqs; ++s) {
    const auto i = static_cast<std::size_t>(s);
    const std::int64_t first_token = m.cu_seqlens_q[i];
    const std::int64_t num_tokens = m.cu_seqlens_q[i + 1] - first_token;
    if (num_tokens == 0) continue;
    const std::int64_t first_position = m.seq_lens[i] - num_tokens;
    const std::int64_t sparse_from =
        topk[s] == 0 ? m.seq_lens[i] : std::int64_t{topk[s]} * config.moba_block_size;
    const std::int64_t dense =
        std::clamp<std::int64_t>(sparse_from - first_position, 0, num_tokens);
    QuerySpan span{};
    span.pages = m.block_tables.data() + i * static_cast<std::size_t>(m.max_blocks_per_seq);
    if (dense > 0) {
      span.first_token = first_token;
      span.first_position = first_position;
      span.num_tokens = static_cast<int>(dense);
      parts.push_back({span, 0});
    }
    if (dense < num_tokens) {
      MOBA_CHECK(topk[s] <= kMaxMobaTopk, "attention: sequence ", s, ": moba_topk ", topk[s],
                 " is larger than ", kMaxMobaTopk);
      span.first_token = first_token + dense;
      span.first_position = first_position + dense;
      span.num_tokens = static_cast<int>(num_tokens - dense);
      parts.push_back({span, topk[s]});
    }
  }
  return parts;
}

// The most tokens of an item of this part when a batch has `tokens` of its kind.
std::int64_t tile_tokens(const AttentionConfig& config, const WorkspaceLimits& limits,
                         std::int64_t tokens, const Part& part, int num_threads) {
  const std::int64_t group = config.num_q_heads / config.num_kv_heads;
  const std::int64_t even = ceil_div(tokens * config.num_kv_heads, kItemsPerThread * num_threads);
  if (part.topk == 0) {
    const std::int64_t most = limits.segment_rows / group;
    return std::clamp(even, std::min(most, ceil_div(kMinDenseRows, group)), most);
  }
  // The more rows, the more of them share a block's keys once they are brought.
  std::int64_t most = limits.moba_rows / group;
  if (part.topk > 1) {
    most = std::min(most, limits.moba_choices / gate_stride(part.topk - 1) / group);
  }
  return std::clamp(even, std::min(most, kMinMobaTokens), most);
}

void count_blocks(const AttentionConfig& config, const AttentionMetadata& m,
                  const std::int32_t* topk, AttentionStats& stats) {
  for (int s = 0; s < m.num_seqs; ++s) {
    const auto i = static_cast<std::size_t>(s);
    if (topk[s] == 0) continue;
    const std::int64_t num_tokens = m.cu_seqlens_q[i + 1] - m.cu_seqlens_q[i];
    for (std::int64_t p = m.seq_lens[i] - num_tokens; p < m.seq_lens[i]; ++p) {
      const std::int64_t blocks = p / config.moba_block_size + 1;
      stats.blocks_attended += config.num_q_heads * std::min<std::int64_t>(topk[s], blocks);
      stats.blocks_available += config.num_q_heads * blocks;
    }
  }
}

}  // namespace

WorkPlan make_work_plan(const AttentionConfig& config, const AttentionMetadata& metadata,
                        const std::int32_t* topk, const WorkspaceLimits& limits, int num_threads) {
  WorkPlan plan;
  count_blocks(config, metadata, topk, plan.stats);
  const std::vector<Part> parts = parts_of(config, metadata, topk);
  std::int64_t dense_tokens = 0;
  std::int64_t moba_tokens = 0;
  for (const Part& part : parts) {
    (part.topk == 0 ? dense_tokens : moba_tokens) += part.span.num_tokens;
  }

  std::vector<WorkItem> whole;
  for (const Part& part : parts) {
    const std::int64_t most =
        tile_tokens(config, limits, part.topk == 0 ? dense_tokens : moba_tokens, part, num_threads);
    const std::int64_t tiles = ceil_div(part.span.num_tokens, most);
    for (std::int64_t tile = 0; tile < tiles; ++tile) {
      const std::int64_t begin = part.span.num_tokens * tile / tiles;
      const std::int64_t end = part.span.num_tokens * (tile + 1) / tiles;
      WorkItem item{};
      item.span = part.span;
      item.span.first_token += begin;
      item.span.first_position += begin;
      item.span.num_tokens = static_cast<int>(end - begin);
      item.topk = part.topk;
      item.split = -1;
      for (int head = 0; head < config.num_kv_heads; ++head) {
        item.span.kv_head = head;
        whole.push_back(item);
      }
    }
  }

  double total = 0;
  for (const WorkItem& item : whole) total += cost_of(config, item);
  const double fair = total / static_cast<double>(kItemsPerThread * num_threads);
  std::int64_t parts_left = limits.partial_rows;
  for (const WorkItem& item : whole) {
    const std::int64_t rows =
        std::int64_t{item.span.num_tokens} * (config.num_q_heads / config.num_kv_heads);
    const std::int64_t segments = num_dense_segments(item.span);
    const bool split = item.topk == 0 && segments > 1 && rows <= kMaxSplitRows &&
                       rows * segments <= parts_left && cost_of(config, item) > fair;
    if (!split) {
      plan.items.push_back(item);
      continue;
    }
    WorkItem segment_item = item;
    segment_item.split = static_cast<std::int32_t>(plan.splits.size());
    plan.splits.push_back({item.span, limits.partial_rows - parts_left, segments});
    parts_left -= rows * segments;
    for (std::int64_t segment = 0; segment < segments; ++segment) {
      segment_item.segment = segment;
      plan.items.push_back(segment_item);
    }
  }
  std::stable_sort(plan.items.begin(), plan.items.end(), [&](const WorkItem& a, const WorkItem& b) {
    // Segments come last: they are small, and many.
    if ((a.split >= 0) != (b.split >= 0)) return a.split < 0;
    if (a.split >= 0) return false;
    return cost_of(config, a) > cost_of(config, b);
  });
  return plan;
}

}  // namespace moba::cpu
