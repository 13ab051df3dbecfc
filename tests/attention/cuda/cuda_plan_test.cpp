// The CUDA backend's division of work, which is pure: tested without a device.
#include <algorithm>
#include <cstdint>
#include <map>
#include <random>
#include <set>
#include <tuple>
#include <vector>

#include "attention/cuda/decode_plan.h"
#include "attention/cuda/work_plan.h"
#include "device/check.h"
#include "tests/catch.h"

namespace moba::cuda {
namespace {

struct Batch {
  std::vector<std::int32_t> cu_seqlens_q{0};
  std::vector<std::int32_t> seq_lens;
  std::vector<std::int32_t> topk;

  void add(std::int32_t queries, std::int32_t keys, std::int32_t k) {
    cu_seqlens_q.push_back(cu_seqlens_q.back() + queries);
    seq_lens.push_back(keys);
    topk.push_back(k);
  }
  AttentionMetadata metadata() const {
    AttentionMetadata m;
    m.num_seqs = static_cast<int>(seq_lens.size());
    m.cu_seqlens_q = cu_seqlens_q;
    m.seq_lens = seq_lens;
    return m;
  }
};

AttentionConfig config(int q_heads, int kv_heads, int moba_block_size) {
  AttentionConfig c;
  c.num_layers = 1;
  c.num_q_heads = q_heads;
  c.num_kv_heads = kv_heads;
  c.head_dim = 64;
  c.block_size = 16;
  c.moba_block_size = moba_block_size;
  c.max_num_seqs = 64;
  return c;
}

// (token, query head) pairs of a tile's rows.
template <typename Tile>
void visit_rows(const AttentionConfig& c, const Batch& b, const Tile& tile, auto&& visit) {
  const int group = c.num_q_heads / c.num_kv_heads;
  for (int r = tile.first_row; r < tile.first_row + tile.num_rows; ++r) {
    visit(b.cu_seqlens_q[static_cast<std::size_t>(tile.seq)] + r / group,
          tile.kv_head * group + r % group, r / group);
  }
}

TEST_CASE("decode's work is divided completely and evenly", "[cuda-plan]") {
  std::mt19937 rng(std::random_device{}());
  for (int round = 0; round < 300; ++round) {
    std::vector<std::int32_t> chunks(1 + rng() % 40);
    for (auto& n : chunks) n = rng() % 3 == 0 ? 0 : static_cast<std::int32_t>(rng() % 300);
    const int parts = 1 + static_cast<int>(rng() % 60);
    std::vector<DecodeStart> starts(static_cast<std::size_t>(parts) + 1);
    std::int32_t per = 0;
    divide_decode(chunks, parts, starts, per);
    std::int64_t total = 0;
    for (const auto n : chunks) total += n;
    REQUIRE(per >= kMinPartChunks);
    REQUIRE(std::int64_t{per} * parts >= total);
    const auto position = [&](const DecodeStart& s) {
      std::int64_t before = s.chunk;
      for (int u = 0; u < s.unit; ++u) before += chunks[static_cast<std::size_t>(u)];
      return before;
    };
    CHECK(position(starts.front()) == 0);
    CHECK(position(starts.back()) == total);
    for (int p = 0; p < parts; ++p) {
      const auto i = static_cast<std::size_t>(p);
      CHECK(position(starts[i]) == std::min<std::int64_t>(std::int64_t{p} * per, total));
      if (starts[i].unit < static_cast<int>(chunks.size())) {
        CHECK(starts[i].chunk < chunks[static_cast<std::size_t>(starts[i].unit)]);
      }
    }
  }
}

// Every (token, query head) is computed exactly once, by the kernels of its kind.
TEST_CASE("tiles cover every row once", "[cuda-plan]") {
  std::mt19937 rng(std::random_device{}());
  for (int round = 0; round < 60; ++round) {
    const int kv_heads = 1 + static_cast<int>(rng() % 2);
    const int group = 1 + static_cast<int>(rng() % 9);
    const int block = 16 << rng() % 5;
    const AttentionConfig c = config(kv_heads * group, kv_heads, block);
    Batch b;
    const int seqs = 1 + static_cast<int>(rng() % 6);
    for (int s = 0; s < seqs; ++s) {
      const auto queries = static_cast<std::int32_t>(rng() % 4 == 0 ? rng() % 3 : rng() % 900);
      b.add(queries, queries + static_cast<std::int32_t>(rng() % 500),
            static_cast<std::int32_t>(rng() % 6));
    }
    PlanLimits limits;
    limits.tile_rows = 128;
    limits.partial_rows = 200 * c.num_q_heads * (1 + rng() % 20);
    limits.max_buckets = 100 * kv_heads;
    limits.decode_parts = 20;
    const LayerPlan plan = make_layer_plan(c, b.metadata(), b.topk, limits);

    std::map<std::pair<int, int>, int> times;
    for (const RowTile& tile : plan.dense_tiles) {
      visit_rows(c, b, tile, [&](int token, int head, int query) {
        ++times[{token, head}];
        const auto s = static_cast<std::size_t>(tile.seq);
        const int position = b.seq_lens[s] - (b.cu_seqlens_q[s + 1] - b.cu_seqlens_q[s]) + query;
        CHECK(tile.key_begin == 0);
        CHECK(position < tile.key_end);
        CHECK((b.topk[s] == 0 || position < b.topk[s] * block));
      });
    }
    const auto check_window = [&](const RowTile& tile) {
      visit_rows(c, b, tile, [&](int token, int head, int query) {
        ++times[{token, head}];
        const auto s = static_cast<std::size_t>(tile.seq);
        const int position = b.seq_lens[s] - (b.cu_seqlens_q[s + 1] - b.cu_seqlens_q[s]) + query;
        CHECK(tile.key_begin <= position / block * block);
        CHECK(position < tile.key_end);
        CHECK((b.topk[s] > 0 && position >= b.topk[s] * block));
      });
    };
    for (const RowTile& tile : plan.window_tiles) {
      check_window(tile);
      CHECK(b.topk[static_cast<std::size_t>(tile.seq)] == 1);
    }
    std::set<std::pair<int, int>> gated;
    for (const MobaChunk& chunk : plan.chunks) {
      CHECK(std::int64_t{chunk.token_end - chunk.token_begin} * c.num_q_heads * chunk.topk <=
            limits.partial_rows);
      CHECK(chunk.num_buckets <= limits.max_buckets);
      std::set<std::pair<int, int>> own;
      for (int i = 0; i < chunk.num_own_tiles; ++i) {
        const RowTile& tile = plan.own_tiles[static_cast<std::size_t>(chunk.first_own_tile + i)];
        check_window(tile);
        CHECK(b.topk[static_cast<std::size_t>(tile.seq)] == chunk.topk);
        visit_rows(c, b, tile, [&](int token, int head, int) {
          own.insert({token, head});
          CHECK(token >= chunk.token_begin);
          CHECK(token < chunk.token_end);
          CHECK(plan.token_slots[static_cast<std::size_t>(token)] == chunk.topk);
        });
      }
      std::set<std::pair<int, int>> gate;
      for (int i = 0; i < chunk.num_gate_tiles; ++i) {
        const GateTile& tile = plan.gate_tiles[static_cast<std::size_t>(chunk.first_gate_tile + i)];
        visit_rows(c, b, tile, [&](int token, int head, int query) {
          CHECK(gate.insert({token, head}).second);
          const auto s = static_cast<std::size_t>(tile.seq);
          const int position = b.seq_lens[s] - (b.cu_seqlens_q[s + 1] - b.cu_seqlens_q[s]) + query;
          // The blocks that it may choose have lists of their own.
          CHECK(tile.first_bucket + position / block <= chunk.num_buckets);
        });
      }
      CHECK(gate == own);
      std::set<std::pair<int, int>> ranked;
      for (int i = 0; i < chunk.num_rank_tiles; ++i) {
        const RankTile& tile = plan.rank_tiles[static_cast<std::size_t>(chunk.first_rank_tile + i)];
        for (int token = tile.token_begin; token < tile.token_end; ++token) {
          for (int head = tile.kv_head * group; head < (tile.kv_head + 1) * group; ++head) {
            CHECK(ranked.insert({token, head}).second);
          }
        }
      }
      CHECK(ranked == own);
      gated.insert(gate.begin(), gate.end());
    }
    // Tokens that are decoded.
    for (std::size_t s = 0; s < b.topk.size(); ++s) {
      const int queries = b.cu_seqlens_q[s + 1] - b.cu_seqlens_q[s];
      CHECK(plan.decode_lens[s] == (queries == 1 ? b.seq_lens[s] : 0));
      if (queries != 1) continue;
      for (int head = 0; head < c.num_q_heads; ++head) ++times[{b.cu_seqlens_q[s], head}];
    }
    CHECK(times.size() == static_cast<std::size_t>(b.cu_seqlens_q.back() * c.num_q_heads));
    CHECK(std::all_of(times.begin(), times.end(), [](const auto& t) { return t.second == 1; }));
  }
}

TEST_CASE("blocks are counted as by their definition", "[cuda-plan]") {
  std::mt19937 rng(std::random_device{}());
  for (int round = 0; round < 200; ++round) {
    const int block = 16 * (1 + static_cast<int>(rng() % 4));
    const AttentionConfig c = config(6, 2, block);
    Batch b;
    AttentionStats expected;
    for (int s = 0; s < 4; ++s) {
      const auto queries = static_cast<std::int32_t>(rng() % 200);
      b.add(queries, queries + static_cast<std::int32_t>(rng() % 300),
            static_cast<std::int32_t>(rng() % 8));
      if (b.topk.back() == 0) continue;
      for (int p = b.seq_lens.back() - queries; p < b.seq_lens.back(); ++p) {
        expected.blocks_available += 6 * (p / block + 1);
        expected.blocks_attended += 6 * std::min(p / block + 1, b.topk.back());
      }
    }
    const AttentionStats stats = count_blocks(c, b.metadata(), b.topk);
    CHECK(stats.blocks_available == expected.blocks_available);
    CHECK(stats.blocks_attended == expected.blocks_attended);
  }
}

TEST_CASE("a topk that the kernels cannot choose is refused", "[cuda-plan]") {
  const AttentionConfig c = config(2, 1, 16);
  PlanLimits limits;
  limits.tile_rows = 128;
  limits.partial_rows = 1 << 20;
  limits.max_buckets = 1 << 10;
  limits.decode_parts = 4;
  Batch b;
  b.add(5, 16 * 40, 33);
  CHECK_THROWS_AS(make_layer_plan(c, b.metadata(), b.topk, limits), Error);
  Batch few;
  few.add(5, 16 * 30, 33);  // fewer blocks than that: nothing to choose
  CHECK(make_layer_plan(c, few.metadata(), few.topk, limits).dense_tiles.size() == 1);
}

}  // namespace
}  // namespace moba::cuda
