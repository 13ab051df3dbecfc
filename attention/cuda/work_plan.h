// Cuts a batch into the tiles and units of the kernels. Pure: a function of its arguments only.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "attention/attention_backend.h"
#include "attention/cuda/decode_plan.h"
#include "attention/cuda/tiles.h"

namespace moba::cuda {

// What the fixed workspace and the kernels in use allow.
struct PlanLimits {
  int tile_rows = 0;              // of RowTile
  std::int64_t partial_rows = 0;  // (row, slot) pairs of a MoBA chunk
  std::int64_t max_buckets = 0;   // lists of a MoBA chunk
  int decode_parts = 0;
};

// Query tokens [token_begin, token_end) of the batch: their MoBA rows, all of one topk, are gated,
// listed and computed together. Tokens of other kinds may lie between.
struct MobaChunk {
  std::int32_t token_begin = 0;
  std::int32_t token_end = 0;
  int topk = 0;
  // Of LayerPlan's arrays.
  int first_gate_tile = 0, num_gate_tiles = 0;
  int first_own_tile = 0, num_own_tiles = 0;
  int first_rank_tile = 0, num_rank_tiles = 0;
  int first_range = 0, num_ranges = 0;
  int num_buckets = 0;
};

// The work of a layer whose sequences have these topk.
struct LayerPlan {
  std::vector<std::int32_t> topk;          // [num_seqs]
  std::vector<std::int32_t> decode_lens;   // [num_seqs] keys of sequences with one query, else 0
  bool decode = false;                     // any of them
  bool decode_selects = false;             // and some of these choose among their blocks
  std::vector<DecodeStart> decode_starts;  // [decode_parts + 1] unless decode_selects
  std::int32_t decode_part_chunks = 0;

  std::vector<RowTile> dense_tiles;   // plain causal attention, the costly first
  std::vector<RowTile> window_tiles;  // topk 1: each row sees its own block only
  std::vector<RowTile> own_tiles;     // own blocks of the chunks' rows
  std::vector<GateTile> gate_tiles;
  std::vector<RankTile> rank_tiles;
  std::vector<BucketRange> ranges;
  std::vector<MobaChunk> chunks;
  std::vector<std::uint8_t> token_slots;  // [num_tokens] topk of tokens in chunks, else 0; empty
                                          // without chunks
  AttentionStats stats;
};

// The metadata is checked. topk [num_seqs]. Throws Error if a topk is larger than kMaxSelect where
// there are more blocks to choose from.
LayerPlan make_layer_plan(const AttentionConfig& config, const AttentionMetadata& metadata,
                          std::span<const std::int32_t> topk, const PlanLimits& limits);

// Units of `num_seqs` sequences: (sequence, KV head, up to kUnitRows query heads).
int decode_units(const AttentionConfig& config, int num_seqs);

// Blocks attended and available, as AttentionStats counts them.
AttentionStats count_blocks(const AttentionConfig& config, const AttentionMetadata& metadata,
                            std::span<const std::int32_t> topk);

}  // namespace moba::cuda
