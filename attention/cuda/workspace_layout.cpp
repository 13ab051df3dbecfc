#include "attention/cuda/workspace_layout.h"

#include <algorithm>
#include <array>

#include "attention/cuda/decode_plan.h"
#include "attention/cuda/tiles.h"

namespace moba::cuda {
namespace {

// Blocks of threads that the decode gate is spread over, where there are few units.
constexpr int kGateBlocks = 1024;
constexpr int kMaxGateSplits = 16;
// Least blocks to score for each of them.
constexpr int kMinGateBlocks = 64;
// Page ids that are uploaded at most, all sequences together: 2^24 pages of 64 tokens are more than
// a device holds.
constexpr std::int64_t kMaxTableEntries = std::int64_t{1} << 24;

}  // namespace

PlanLimits make_plan_limits(const AttentionConfig& config, const WorkspaceShape& shape) {
  PlanLimits limits;
  limits.decode_parts = shape.decode_parts;
  if (shape.by_rows) return limits;
  limits.tile_rows = shape.tile_rows;
  limits.max_buckets = std::max<std::int64_t>(
      std::int64_t{config.num_kv_heads} * (config.max_model_len / config.moba_block_size + 1),
      std::int64_t{1} << 16);
  const std::int64_t rows = std::int64_t{config.max_num_batched_tokens} * config.num_q_heads;
  const std::int64_t row_bytes =
      config.head_dim * static_cast<std::int64_t>(dtype_size(config.dtype));
  limits.partial_rows = std::max(std::min(shape.max_partial_bytes / row_bytes, rows * kMaxSelect),
                                 std::int64_t{config.num_q_heads} * kMaxSelect);
  return limits;
}

WorkspaceLayout make_workspace_layout(const AttentionConfig& config, const PlanLimits& limits,
                                      bool by_rows) {
  WorkspaceLayout layout{};
  const std::int64_t seqs = config.max_num_seqs;
  const std::int64_t pages = (config.max_model_len + config.block_size - 1) / config.block_size;
  layout.table_entries = std::max(pages, std::min(pages * seqs, kMaxTableEntries));
  const std::int64_t parts = limits.decode_parts;
  Layout l;
  layout.cu_seqlens_q = l.add<std::int32_t>(seqs + 1);
  layout.seq_lens = l.add<std::int32_t>(seqs);
  layout.table_begin = l.add<std::int64_t>(seqs);
  layout.decode_lens = l.add<std::int32_t>(seqs);
  for (int i = 0; i < config.num_layers; ++i) {
    layout.topk.push_back(l.add<std::int32_t>(seqs));
    layout.decode_starts.push_back(l.add<DecodeStart>(parts + 1));
    layout.decode_part_chunks.push_back(l.add<std::int32_t>(1));
  }
  layout.tables = l.add<std::int32_t>(layout.table_entries);
  layout.uploaded = l.size();

  const std::int64_t units = decode_units(config, config.max_num_seqs);
  const std::int64_t pieces = by_rows ? 0 : 2 * parts * kUnitRows;
  const std::int64_t choosing = by_rows ? 0 : units;
  layout.part_out = l.add<float>(pieces * config.head_dim);
  layout.part_stats = l.add<std::array<float, 2>>(pieces);
  layout.unit_arrivals = l.add<std::int32_t>(units);
  layout.gate_arrivals = l.add<std::int32_t>(units);
  layout.tile_counter = l.add<std::int32_t>(2);
  layout.selection_count = l.add<std::int32_t>(units);
  layout.selection_blocks = l.add<std::int32_t>(choosing * kMaxUnion);
  layout.selection_masks = l.add<std::uint32_t>(choosing * kMaxUnion);
  const std::int64_t candidates =
      by_rows ? 0 : std::max<std::int64_t>(units, kGateBlocks) * kUnitRows * (kMaxSelect - 1);
  layout.candidate_scores = l.add<float>(candidates);
  layout.candidate_blocks = l.add<std::int32_t>(candidates);
  layout.unit_chunks = l.add<std::int32_t>(units);

  const std::int64_t partials = limits.partial_rows;
  layout.partial_out = l.add<std::byte>(partials * config.head_dim *
                                        static_cast<std::int64_t>(dtype_size(config.dtype)));
  layout.partial_lse = l.add<float>(partials);
  layout.chosen = l.add<std::int32_t>(partials);
  layout.ranks = l.add<std::int32_t>(partials);
  layout.entries = l.add<std::uint32_t>(partials);
  layout.counts = l.add<std::int32_t>(limits.max_buckets);
  layout.begins = l.add<std::int32_t>(limits.max_buckets);
  layout.list_tiles = l.add<ListTile>(partials / kTileRows + limits.max_buckets);
  layout.num_list_tiles = l.add<std::int32_t>(1);
  layout.size = l.size();
  return layout;
}

int gate_splits(const AttentionConfig& config, int num_units) {
  const std::int64_t blocks = config.max_model_len / config.moba_block_size;
  return static_cast<int>(std::clamp<std::int64_t>(
      std::min<std::int64_t>(kGateBlocks / num_units, blocks / kMinGateBlocks), 1, kMaxGateSplits));
}

}  // namespace moba::cuda
