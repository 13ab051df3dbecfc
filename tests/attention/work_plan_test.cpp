// The pure parts: segments and the plan of work.
#include "attention/cpu/work_plan.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <map>
#include <numeric>
#include <vector>

#include "attention/cpu/dense.h"
#include "attention/cpu/segments.h"
#include "tests/attention/attention_world.h"
#include "tests/catch.h"

namespace moba {
namespace {

using cpu::segment_begin;
using cpu::segment_of;
using cpu::WorkItem;
using testing::AttentionShape;
using testing::Chunk;

TEST_CASE("segments follow each other without gaps and grow slowly", "[segments]") {
  REQUIRE(segment_begin(0) == 0);
  REQUIRE(segment_begin(1) == cpu::kSegmentKeys);
  for (std::int64_t s = 0; segment_begin(s) < (std::int64_t{1} << 32); ++s) {
    const std::int64_t begin = segment_begin(s);
    const std::int64_t end = segment_begin(s + 1);
    REQUIRE(end > begin);
    REQUIRE(begin % cpu::kSegmentKeys == 0);
    REQUIRE((end - begin <= cpu::kSegmentKeys || (end - begin) * 32 <= end));
    REQUIRE(segment_of(begin) == s);
    REQUIRE(segment_of(end - 1) == s);
    REQUIRE(segment_of((begin + end) / 2) == s);
  }
  REQUIRE(segment_of(1 << 20) < 200);
}

// A configuration and the metadata of a batch, without any tensors.
AttentionConfig config_of(const AttentionShape& shape) {
  AttentionConfig c;
  c.num_layers = 1;
  c.num_q_heads = shape.num_q_heads;
  c.num_kv_heads = shape.num_kv_heads;
  c.head_dim = shape.head_dim;
  c.block_size = shape.block_size;
  c.moba_block_size = shape.moba_block_size;
  c.softmax_scale = 0.1F;
  c.dtype = DType::kBFloat16;
  c.max_num_batched_tokens = 8192;
  c.max_num_seqs = 64;
  c.max_model_len = 1 << 17;
  return c;
}

struct Batch {
  std::vector<std::int32_t> cu_seqlens_q{0}, seq_lens, block_tables, moba_topk;
  AttentionMetadata metadata;

  Batch(const AttentionConfig& config, const std::vector<Chunk>& chunks) {
    const int width = static_cast<int>(config.max_model_len / config.block_size);
    for (const Chunk& c : chunks) {
      cu_seqlens_q.push_back(cu_seqlens_q.back() + static_cast<std::int32_t>(c.end - c.begin));
      seq_lens.push_back(static_cast<std::int32_t>(c.end));
      moba_topk.push_back(c.topk);
    }
    block_tables.resize(chunks.size() * static_cast<std::size_t>(width));
    metadata.num_seqs = static_cast<int>(chunks.size());
    metadata.cu_seqlens_q = cu_seqlens_q;
    metadata.seq_lens = seq_lens;
    metadata.block_tables = block_tables;
    metadata.max_blocks_per_seq = width;
    metadata.moba_topk = moba_topk;
  }
  Batch(const Batch&) = delete;
  Batch& operator=(const Batch&) = delete;
};

// Every token of every sequence is computed exactly once for every KV head, in the way its topk
// asks for, and nothing exceeds the limits.
void check_plan(const AttentionConfig& config, const AttentionMetadata& m, int threads) {
  const cpu::WorkspaceLimits limits = cpu::workspace_limits(config, threads);
  const cpu::WorkPlan plan = cpu::make_work_plan(config, m, m.moba_topk.data(), limits, threads);
  const std::int64_t group = config.num_q_heads / config.num_kv_heads;
  std::vector<int> covered(
      static_cast<std::size_t>(m.cu_seqlens_q.back() * config.num_kv_heads));  // [token, KV head]
  std::map<std::int32_t, std::vector<std::int64_t>> segments;
  for (const WorkItem& item : plan.items) {
    const std::int64_t rows = item.span.num_tokens * group;
    REQUIRE(item.span.num_tokens > 0);
    REQUIRE(rows <= (item.topk > 0 ? limits.moba_rows : limits.segment_rows));
    if (item.topk > 1) REQUIRE(rows * cpu::gate_stride(item.topk - 1) <= limits.moba_choices);
    if (item.topk > 0) {
      REQUIRE(item.span.first_position / config.moba_block_size >= item.topk);
      REQUIRE(item.split == -1);
    }
    if (item.split >= 0) {
      segments[item.split].push_back(item.segment);
      if (item.segment != 0) continue;
    }
    for (std::int64_t t = 0; t < item.span.num_tokens; ++t) {
      ++covered[static_cast<std::size_t>((item.span.first_token + t) * config.num_kv_heads +
                                         item.span.kv_head)];
    }
    // Position, sequence and kind.
    std::size_t s = 0;
    while (m.cu_seqlens_q[s + 1] <= item.span.first_token) ++s;
    REQUIRE(item.span.first_token + item.span.num_tokens <= m.cu_seqlens_q[s + 1]);
    REQUIRE(item.span.first_position ==
            m.seq_lens[s] - (m.cu_seqlens_q[s + 1] - item.span.first_token));
    REQUIRE(item.span.pages ==
            m.block_tables.data() + s * static_cast<std::size_t>(m.max_blocks_per_seq));
    REQUIRE((item.topk == 0 || item.topk == m.moba_topk[s]));
    const std::int64_t last_own =
        (item.span.first_position + item.span.num_tokens - 1) / config.moba_block_size;
    if (item.topk == 0 && m.moba_topk[s] > 0) REQUIRE(last_own < m.moba_topk[s]);
  }
  REQUIRE(std::all_of(covered.begin(), covered.end(), [](int count) { return count == 1; }));

  REQUIRE(segments.size() == plan.splits.size());
  std::int64_t parts = 0;
  for (std::size_t i = 0; i < plan.splits.size(); ++i) {
    const cpu::SplitSpan& split = plan.splits[i];
    REQUIRE(split.first_part == parts);
    REQUIRE(split.num_segments == cpu::num_dense_segments(split.span));
    parts += split.num_segments * split.span.num_tokens * group;
    const auto& own = segments[static_cast<std::int32_t>(i)];
    REQUIRE(own.size() == static_cast<std::size_t>(split.num_segments));
    std::vector<std::int64_t> all(own.size());
    std::iota(all.begin(), all.end(), 0);
    REQUIRE(own == all);
  }
  REQUIRE(parts <= limits.partial_rows);
  if (threads == 1) REQUIRE(plan.splits.empty());
}

TEST_CASE("a plan covers every query once and stays within the workspace", "[work_plan]") {
  const AttentionShape shape =
      GENERATE(AttentionShape{6, 2, 64, 64, 64},  //
               AttentionShape{32, 8, 128, 64, 4096}, AttentionShape{8, 1, 80, 16, 48});
  const AttentionConfig config = config_of(shape);
  const std::vector<std::vector<Chunk>> batches{
      {},
      {{0, 0, 3000, 3}},
      {{2, 99999, 100000, 0}},
      {{2, 99999, 100000, 8}},
      {{2, 99990, 100000, 0}, {3, 19990, 20000, 0}},
      {{2, 95000, 100000, 8}, {0, 2999, 3000, 0}, {1, 0, 1, 4}, {4, 77, 77, 1}, {4, 0, 777, 1}},
      {{3, 12000, 20000, 1}},
      {{3, 12000, 20000, 0}},
      {{3, 15000, 20000, 200}},
      {{2, 99999, 100000, 0},
       {2, 99998, 99999, 0},
       {2, 99997, 99998, 0},
       {2, 99996, 99997, 0},
       {3, 19999, 20000, 0},
       {0, 2999, 3000, 0}},
  };
  for (const auto& chunks : batches) {
    const Batch b(config, chunks);
    for (const int threads : {1, 2, 3, 64}) check_plan(config, b.metadata, threads);
  }
}

TEST_CASE("a long decode uses all threads", "[work_plan]") {
  const AttentionShape shape{6, 2, 64, 64, 64};
  const AttentionConfig config = config_of(shape);
  const Batch b(config, {{0, 99999, 100000, 0}});
  for (const int threads : {2, 8, 64}) {
    const auto limits = cpu::workspace_limits(config, threads);
    const auto plan = cpu::make_work_plan(config, b.metadata, b.moba_topk.data(), limits, threads);
    CHECK(plan.items.size() >= static_cast<std::size_t>(2 * threads));
  }
}

TEST_CASE("the workspace does not grow with the context", "[work_plan]") {
  AttentionConfig config = config_of({6, 2, 64, 64, 64});
  config.max_num_batched_tokens = 2048;
  config.max_model_len = 8192;
  DeviceContext context(2);
  const std::int64_t small = create_attention_backend(context, config)->workspace_bytes();
  config.max_model_len = 1 << 20;
  const std::int64_t large = create_attention_backend(context, config)->workspace_bytes();
  CHECK(small > 0);
  CHECK(small < (std::int64_t{32} << 20));
  // An index for each block and thread, no more.
  CHECK(large - small <= 2 * 4 * ((1 << 20) / 64) + 4096);
}

}  // namespace
}  // namespace moba
