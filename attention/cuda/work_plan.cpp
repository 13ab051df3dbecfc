#include "attention/cuda/work_plan.h"

#include <algorithm>
#include <cstddef>

#include "device/check.h"

namespace moba::cuda {
namespace {

// Query tokens of one sequence, [begin, end) of its tokens in this batch.
struct Part {
  int seq;
  std::int32_t begin;
  std::int32_t end;
};

int ceil_div(std::int64_t a, std::int64_t b) { return static_cast<int>((a + b - 1) / b); }

class Planner {
 public:
  Planner(const AttentionConfig& config, const AttentionMetadata& metadata,
          std::span<const std::int32_t> topk, const PlanLimits& limits)
      : config_(config),
        metadata_(metadata),
        limits_(limits),
        group_(config.num_q_heads / config.num_kv_heads) {
    plan_.topk.assign(topk.begin(), topk.end());
    plan_.decode_lens.assign(static_cast<std::size_t>(metadata.num_seqs), 0);
  }

  LayerPlan make() {
    std::vector<Part> dense;
    std::vector<Part> moba;
    for (int s = 0; s < metadata_.num_seqs; ++s) sort_out(s, dense, moba);
    add_dense_tiles(dense);
    for (const Part& part : moba) add_moba(part);
    if (plan_.decode && !plan_.decode_selects) divide_decode_work();
    plan_.stats = count_blocks(config_, metadata_, plan_.topk);
    return std::move(plan_);
  }

 private:
  std::int32_t first_token(int s) const {
    return metadata_.cu_seqlens_q[static_cast<std::size_t>(s)];
  }
  std::int32_t num_queries(int s) const {
    return metadata_.cu_seqlens_q[static_cast<std::size_t>(s) + 1] - first_token(s);
  }
  std::int32_t num_keys(int s) const { return metadata_.seq_lens[static_cast<std::size_t>(s)]; }
  std::int32_t first_position(int s) const { return num_keys(s) - num_queries(s); }
  int topk(int s) const { return plan_.topk[static_cast<std::size_t>(s)]; }

  // The kind of attention of each of a sequence's queries.
  void sort_out(int s, std::vector<Part>& dense, std::vector<Part>& moba) {
    const std::int32_t queries = num_queries(s);
    if (queries == 0) return;
    const std::int64_t sparse_from =
        topk(s) == 0 ? num_keys(s) : std::int64_t{topk(s)} * config_.moba_block_size;
    MOBA_CHECK(sparse_from >= num_keys(s) || topk(s) <= kMaxSelect, "attention: sequence ", s,
               ": moba_topk ", topk(s), " is larger than ", kMaxSelect);
    if (limits_.tile_rows == 0) return;
    if (queries == 1) {
      plan_.decode_lens[static_cast<std::size_t>(s)] = num_keys(s);
      plan_.decode = true;
      plan_.decode_selects = plan_.decode_selects || sparse_from < num_keys(s);
      return;
    }
    const auto split = static_cast<std::int32_t>(
        std::clamp<std::int64_t>(sparse_from - first_position(s), 0, queries));
    if (split > 0) dense.push_back({s, 0, split});
    if (split < queries) moba.push_back({s, split, queries});
  }

  // Tiles of rows [first, last) of a (sequence, KV head) that see keys from key_begin on.
  void add_tiles(std::vector<RowTile>& tiles, int seq, int kv_head, std::int64_t first,
                 std::int64_t last, std::int32_t key_begin) const {
    for (std::int64_t row = first; row < last; row += limits_.tile_rows) {
      const std::int64_t rows = std::min<std::int64_t>(limits_.tile_rows, last - row);
      RowTile tile{};
      tile.seq = seq;
      tile.kv_head = kv_head;
      tile.first_row = static_cast<std::int32_t>(row);
      tile.num_rows = static_cast<std::int32_t>(rows);
      tile.key_begin = key_begin;
      tile.key_end = first_position(seq) + static_cast<std::int32_t>((row + rows - 1) / group_) + 1;
      tiles.push_back(tile);
    }
  }

  // Tiles of one KV head follow each other, the costly first: blocks of threads that run together
  // read the same keys, and the last to run are short.
  void add_dense_tiles(std::vector<Part> parts) {
    std::stable_sort(parts.begin(), parts.end(), [&](const Part& a, const Part& b) {
      return first_position(a.seq) + a.end > first_position(b.seq) + b.end;
    });
    for (const Part& part : parts) {
      for (int head = 0; head < config_.num_kv_heads; ++head) {
        const auto begin = static_cast<std::ptrdiff_t>(plan_.dense_tiles.size());
        add_tiles(plan_.dense_tiles, part.seq, head, std::int64_t{part.begin} * group_,
                  std::int64_t{part.end} * group_, 0);
        std::reverse(plan_.dense_tiles.begin() + begin, plan_.dense_tiles.end());
      }
    }
  }

  // Tiles of rows that see their own block only.
  void add_window_tiles(std::vector<RowTile>& tiles, const Part& part) const {
    const std::int64_t block = config_.moba_block_size;
    // Small blocks share tiles.
    const bool whole_blocks = block * group_ >= limits_.tile_rows;
    for (int head = 0; head < config_.num_kv_heads; ++head) {
      std::int64_t token = part.begin;
      while (token < part.end) {
        const std::int64_t position = first_position(part.seq) + token;
        const std::int64_t block_begin = position / block * block;
        std::int64_t end = part.end;
        std::int64_t key_begin = block_begin;
        if (whole_blocks) {
          end = std::min<std::int64_t>(end, token + block_begin + block - position);
        } else {
          end = std::min<std::int64_t>(
              end, token + std::max<std::int64_t>(1, limits_.tile_rows / group_));
          // So that a row meets its keys in the same steps, whichever tile it is in.
          key_begin = block_begin / kKeyStep * kKeyStep;
        }
        add_tiles(tiles, part.seq, head, token * group_, end * group_,
                  static_cast<std::int32_t>(key_begin));
        token = end;
      }
    }
  }

  void add_moba(const Part& part) {
    if (topk(part.seq) == 1) {
      add_window_tiles(plan_.window_tiles, part);
      return;
    }
    if (plan_.token_slots.empty()) {
      plan_.token_slots.resize(static_cast<std::size_t>(
          metadata_.cu_seqlens_q[static_cast<std::size_t>(metadata_.num_seqs)]));
    }
    const std::int32_t token = first_token(part.seq);
    std::fill(plan_.token_slots.begin() + token + part.begin,
              plan_.token_slots.begin() + token + part.end,
              static_cast<std::uint8_t>(topk(part.seq)));
    const std::int64_t most =
        limits_.partial_rows / (std::int64_t{config_.num_q_heads} * topk(part.seq));
    MOBA_CHECK(most > 0, "attention: workspace for ", limits_.partial_rows,
               " partial rows, less than one token of moba_topk ", topk(part.seq), " needs");
    for (std::int32_t begin = part.begin; begin < part.end;) {
      const int buckets =
          config_.num_kv_heads *
          static_cast<int>((first_position(part.seq) + part.end - 1) / config_.moba_block_size);
      if (!fits(part, begin, most, buckets)) {
        MobaChunk chunk;
        chunk.token_begin = token + begin;
        chunk.token_end = chunk.token_begin;
        chunk.topk = topk(part.seq);
        chunk.first_gate_tile = static_cast<int>(plan_.gate_tiles.size());
        chunk.first_own_tile = static_cast<int>(plan_.own_tiles.size());
        chunk.first_rank_tile = static_cast<int>(plan_.rank_tiles.size());
        chunk.first_range = static_cast<int>(plan_.ranges.size());
        plan_.chunks.push_back(chunk);
      }
      MobaChunk& chunk = plan_.chunks.back();
      // Equal pieces of what does not fit into one.
      const std::int64_t left = part.end - begin;
      const std::int64_t room = most - (token + begin - chunk.token_begin);
      std::int64_t piece = left;
      if (left > room) {
        piece = chunk.num_ranges == 0 ? ceil_div(left, ceil_div(left, most)) : room;
      }
      if (piece < left && piece > kPieceTokens) piece = piece / kPieceTokens * kPieceTokens;
      const Part taken{part.seq, begin, begin + static_cast<std::int32_t>(piece)};
      add_to_chunk(chunk, taken);
      begin = taken.end;
    }
  }

  bool fits(const Part& part, std::int32_t begin, std::int64_t most, int buckets) const {
    if (plan_.chunks.empty()) return false;
    const MobaChunk& chunk = plan_.chunks.back();
    return chunk.topk == topk(part.seq) &&
           first_token(part.seq) + begin - chunk.token_begin + kPieceTokens <= most &&
           chunk.num_buckets + buckets <= limits_.max_buckets;
  }

  void add_to_chunk(MobaChunk& chunk, const Part& part) {
    chunk.token_end = first_token(part.seq) + part.end;
    const int blocks =
        (first_position(part.seq) + part.end - 1) / config_.moba_block_size;  // all past ones
    for (int head = 0; head < config_.num_kv_heads; ++head) {
      plan_.ranges.push_back({chunk.num_buckets, part.seq, head});
      for (std::int64_t row = std::int64_t{part.begin} * group_;
           row < std::int64_t{part.end} * group_; row += kGateRows) {
        GateTile tile{};
        tile.seq = part.seq;
        tile.kv_head = head;
        tile.first_row = static_cast<std::int32_t>(row);
        tile.num_rows = static_cast<std::int32_t>(
            std::min<std::int64_t>(kGateRows, std::int64_t{part.end} * group_ - row));
        tile.first_bucket = chunk.num_buckets;
        plan_.gate_tiles.push_back(tile);
      }
      const int rank_tokens = std::max(1, kRankRows / group_);
      for (std::int32_t token = part.begin; token < part.end; token += rank_tokens) {
        RankTile tile{};
        tile.kv_head = head;
        tile.token_begin = first_token(part.seq) + token;
        tile.token_end = first_token(part.seq) + std::min(part.end, token + rank_tokens);
        tile.first_bucket = chunk.num_buckets;
        tile.num_blocks = blocks;
        plan_.rank_tiles.push_back(tile);
      }
      chunk.num_buckets += blocks;
    }
    add_window_tiles(plan_.own_tiles, part);
    chunk.num_gate_tiles = static_cast<int>(plan_.gate_tiles.size()) - chunk.first_gate_tile;
    chunk.num_own_tiles = static_cast<int>(plan_.own_tiles.size()) - chunk.first_own_tile;
    chunk.num_rank_tiles = static_cast<int>(plan_.rank_tiles.size()) - chunk.first_rank_tile;
    chunk.num_ranges = static_cast<int>(plan_.ranges.size()) - chunk.first_range;
  }

  void divide_decode_work() {
    const int per_seq = decode_units(config_, 1);
    std::vector<std::int32_t> chunks;
    for (const std::int32_t keys : plan_.decode_lens) {
      chunks.insert(chunks.end(), static_cast<std::size_t>(per_seq), ceil_div(keys, kChunkKeys));
    }
    plan_.decode_starts.resize(static_cast<std::size_t>(limits_.decode_parts) + 1);
    divide_decode(chunks, limits_.decode_parts, plan_.decode_starts, plan_.decode_part_chunks);
  }

  // Pieces of a long prompt are whole numbers of these, which fill gate tiles.
  static constexpr std::int64_t kPieceTokens = 128;
  // Keys that the kernels take at a time are divisors of it.
  static constexpr std::int64_t kKeyStep = 128;

  const AttentionConfig& config_;
  const AttentionMetadata& metadata_;
  const PlanLimits& limits_;
  int group_;
  LayerPlan plan_;
};

// min(k, b) summed over b = 1 .. n.
std::int64_t sum_of_least(std::int64_t k, std::int64_t n) {
  const std::int64_t ramp = std::min(k, n);
  return ramp * (ramp + 1) / 2 + (n - ramp) * k;
}

}  // namespace

int decode_units(const AttentionConfig& config, int num_seqs) {
  const int group = config.num_q_heads / config.num_kv_heads;
  return num_seqs * config.num_kv_heads * ceil_div(group, kUnitRows);
}

AttentionStats count_blocks(const AttentionConfig& config, const AttentionMetadata& metadata,
                            std::span<const std::int32_t> topk) {
  AttentionStats stats;
  const std::int64_t block = config.moba_block_size;
  for (std::size_t s = 0; s < topk.size(); ++s) {
    if (topk[s] == 0) continue;
    const std::int64_t end = metadata.seq_lens[s];
    const std::int64_t begin = end - (metadata.cu_seqlens_q[s + 1] - metadata.cu_seqlens_q[s]);
    // Positions [0, n) see sum over whole blocks and the rest of the last one.
    const auto upto = [&](std::int64_t n, std::int64_t k) {
      const std::int64_t whole = n / block;
      return block * sum_of_least(k, whole) + (n - whole * block) * std::min(k, whole + 1);
    };
    const std::int64_t every = end / block + 1;
    stats.blocks_attended += config.num_q_heads * (upto(end, topk[s]) - upto(begin, topk[s]));
    stats.blocks_available += config.num_q_heads * (upto(end, every) - upto(begin, every));
  }
  return stats;
}

LayerPlan make_layer_plan(const AttentionConfig& config, const AttentionMetadata& metadata,
                          std::span<const std::int32_t> topk, const PlanLimits& limits) {
  return Planner(config, metadata, topk, limits).make();
}

}  // namespace moba::cuda
