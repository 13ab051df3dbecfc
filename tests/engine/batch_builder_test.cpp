#include "engine/batch_builder.h"

#include <algorithm>
#include <memory>
#include <random>

#include "tests/engine/engine_test_util.h"

namespace moba {
namespace {

constexpr int kNumLayers = 2;
constexpr int kBlockSize = 4;
constexpr int kMobaBlockSize = 8;

BatchBuilder make_builder() {
  BatchBuilderConfig config;
  config.num_layers = kNumLayers;
  config.block_size = kBlockSize;
  config.moba_block_size = kMobaBlockSize;
  config.max_num_batched_tokens = 32;
  config.max_num_seqs = 4;
  return BatchBuilder(config);
}

Sequence make_sequence(std::int64_t prompt, std::int64_t tokens, std::vector<std::int32_t> table) {
  static std::int64_t next_id = 0;
  Sequence sequence;
  sequence.id = next_id++;
  for (std::int64_t i = 0; i < tokens; ++i) {
    sequence.tokens.push_back(static_cast<std::int32_t>(100 + i));
  }
  sequence.num_prompt_tokens = prompt;
  sequence.max_num_tokens = prompt + 10;
  sequence.block_table = std::move(table);
  sequence.prefill_topk = {3, 0};
  sequence.decode_topk = {5, 6};
  return sequence;
}

StepPlan make_plan(std::vector<ScheduledChunk> chunks) {
  StepPlan plan;
  for (const ScheduledChunk& chunk : chunks) plan.num_tokens += chunk.num_tokens;
  plan.chunks = std::move(chunks);
  return plan;
}

using Ints = std::vector<std::int32_t>;

Ints row_of(const Batch& batch, std::int64_t index, std::int64_t count) {
  REQUIRE(batch.max_blocks_per_seq >= count);
  REQUIRE(batch.block_tables.size() ==
          static_cast<std::size_t>(batch.num_seqs * batch.max_blocks_per_seq));
  const auto row = batch.block_tables.begin() + index * batch.max_blocks_per_seq;
  return {row, row + count};
}

TEST_CASE("a prompt chunk beside a generating sequence", "[batch_builder]") {
  Sequence prompt = make_sequence(20, 20, {7, 2, 5});
  Sequence decode = make_sequence(3, 6, {9, 1});
  BatchBuilder builder = make_builder();
  // Twice: the arrays are reused.
  builder.build(make_plan({{&prompt, 0, 10}, {&decode, 0, 3}}));
  const Batch& batch = builder.build(make_plan({{&decode, 5, 1}, {&prompt, 6, 6}}));
  CHECK(batch.num_tokens == 7);
  CHECK(batch.num_seqs == 2);
  CHECK(batch.token_ids == Ints{105, 106, 107, 108, 109, 110, 111});
  CHECK(batch.positions == Ints{5, 6, 7, 8, 9, 10, 11});
  CHECK(batch.cu_seqlens_q == Ints{0, 1, 7});
  CHECK(batch.seq_lens == Ints{6, 12});
  CHECK(row_of(batch, 0, 2) == Ints{9, 1});
  CHECK(row_of(batch, 1, 3) == Ints{7, 2, 5});
  CHECK(batch.moba_topk == Ints{5, 3, 6, 0});
  CHECK(batch.kv_write_plan.slot_mapping == std::vector<std::int64_t>{1 * 4 + 1, 2 * 4 + 2,
                                                                      2 * 4 + 3, 5 * 4, 5 * 4 + 1,
                                                                      5 * 4 + 2, 5 * 4 + 3});
  CHECK(batch.kv_write_plan.completed_blocks == Ints{7, 2});
  REQUIRE(batch.sample_rows.size() == 1);
  CHECK(batch.sample_rows[0].row == 0);
  CHECK(batch.sample_rows[0].sequence == &decode);
  CHECK(batch.prompt_logprob_rows.empty());

  const AttentionMetadata metadata = batch.attention_metadata();
  CHECK(metadata.num_seqs == 2);
  CHECK(metadata.block_tables.data() == batch.block_tables.data());
  CHECK(metadata.moba_topk.size() == 4);
}

TEST_CASE("block tables and modes follow their sequences from step to step", "[batch_builder]") {
  std::mt19937 random(7);
  const auto below = [&random](int n) {
    return static_cast<int>(random() % static_cast<unsigned>(n));
  };
  BatchBuilderConfig config{kNumLayers, kBlockSize, kMobaBlockSize, 1000, 6, 300};
  BatchBuilder builder(config);
  std::vector<std::unique_ptr<Sequence>> sequences;
  for (int step = 0; step < 3000; ++step) {
    while (sequences.size() < 6 && below(3) != 0) {
      auto sequence = std::make_unique<Sequence>(make_sequence(below(20), 1200, {}));
      for (std::int32_t& k : sequence->prefill_topk) k = below(9);
      for (std::int32_t& k : sequence->decode_topk) k = below(9);
      sequences.push_back(std::move(sequence));
    }
    StepPlan plan;
    std::size_t longest = 0;
    for (const auto& sequence : sequences) {
      if (below(5) == 0) continue;
      std::vector<std::int32_t>& table = sequence->block_table;
      const std::size_t pages =
          below(50) == 0 ? 300 : table.size() + static_cast<std::size_t>(below(2));
      while (table.size() < std::clamp<std::size_t>(pages, 1, 300)) table.push_back(below(1000));
      if (below(10) == 0) {
        table.resize(1 + static_cast<std::size_t>(below(static_cast<int>(table.size()))));
        table[static_cast<std::size_t>(below(static_cast<int>(table.size())))] = below(1000);
        ++sequence->block_table_version;
      }
      longest = std::max(longest, table.size());
      const std::int64_t end = static_cast<std::int64_t>(table.size()) * kBlockSize;
      plan.chunks.push_back({sequence.get(), end - 1, 1});
      ++plan.num_tokens;
    }
    const Batch& batch = builder.build(plan);
    REQUIRE(batch.max_blocks_per_seq <=
            std::min<std::int64_t>(300, 2 * static_cast<std::int64_t>(longest) + 16));
    REQUIRE(batch.moba_topk.size() == kNumLayers * plan.chunks.size());
    for (std::size_t i = 0; i < plan.chunks.size(); ++i) {
      const Sequence& sequence = *plan.chunks[i].sequence;
      const auto pages = static_cast<std::int64_t>(sequence.block_table.size());
      REQUIRE(row_of(batch, static_cast<std::int64_t>(i), pages) == sequence.block_table);
      const Ints& topk =
          sequence.in_prompt(plan.chunks[i].first) ? sequence.prefill_topk : sequence.decode_topk;
      for (std::size_t layer = 0; layer < kNumLayers; ++layer) {
        REQUIRE(batch.moba_topk[layer * plan.chunks.size() + i] == topk[layer]);
      }
    }
    if (!sequences.empty() && below(4) == 0) {
      sequences.erase(sequences.begin() + below(static_cast<int>(sequences.size())));
    }
  }
}

TEST_CASE("tokens that the step before samples", "[batch_builder]") {
  Sequence known = make_sequence(3, 6, {9, 1});
  Sequence unknown = make_sequence(3, 6, {4, 5});
  unknown.tokens.back() = -1;
  unknown.num_unknown_tokens = 1;
  unknown.unknown_sample_row = 5;
  BatchBuilder builder = make_builder();
  CHECK(builder.build(make_plan({{&known, 5, 1}, {&unknown, 3, 2}})).token_sources.empty());
  const Batch& batch = builder.build(make_plan({{&known, 4, 2}, {&unknown, 3, 3}, {&known, 5, 1}}));
  CHECK(batch.token_ids == Ints{104, 105, 103, 104, 0, 105});
  CHECK(batch.token_sources == Ints{-1, -1, -1, -1, 5, -1});
  CHECK(builder.build(make_plan({{&known, 5, 1}})).token_sources.empty());
  unknown.num_unknown_tokens = 2;
  CHECK_THAT(message_of([&] {
               builder.build(make_plan({{&unknown, 4, 2}}));
             }),
             Contains("2 unknown tokens"));
}

TEST_CASE("the end of a prompt is sampled, if more is wanted", "[batch_builder]") {
  Sequence sequence = make_sequence(6, 6, {0, 1});
  BatchBuilder builder = make_builder();
  CHECK(builder.build(make_plan({{&sequence, 2, 3}})).sample_rows.empty());
  const Batch& batch = builder.build(make_plan({{&sequence, 2, 4}}));
  REQUIRE(batch.sample_rows.size() == 1);
  CHECK(batch.sample_rows[0].row == 3);
  sequence.max_num_tokens = 6;
  CHECK(builder.build(make_plan({{&sequence, 2, 4}})).sample_rows.empty());
}

TEST_CASE("prompt log probabilities: each predicted token once", "[batch_builder]") {
  Sequence other = make_sequence(2, 2, {3});
  Sequence sequence = make_sequence(10, 10, {0, 1, 2});
  sequence.wants_prompt_logprobs = true;
  BatchBuilder builder = make_builder();
  const auto rows = [&](std::int64_t first, std::int64_t count) {
    return builder.build(make_plan({{&other, 0, 2}, {&sequence, first, count}}))
        .prompt_logprob_rows;
  };
  auto r = rows(0, 4);
  REQUIRE(r.size() == 1);
  CHECK((r[0].row == 2 && r[0].first_target == 1 && r[0].count == 4));
  sequence.num_prompt_logprobs = 4;
  r = rows(4, 6);  // the last row of the prompt predicts the output
  REQUIRE(r.size() == 1);
  CHECK((r[0].row == 2 && r[0].first_target == 5 && r[0].count == 5));
  r = rows(0, 6);  // computed again: only what is missing
  REQUIRE(r.size() == 1);
  CHECK((r[0].row == 6 && r[0].first_target == 5 && r[0].count == 2));
  sequence.num_prompt_logprobs = 9;
  CHECK(rows(0, 10).empty());
  CHECK(rows(9, 1).empty());
}

TEST_CASE("a chunk of two attention modes or without pages is refused", "[batch_builder]") {
  Sequence sequence = make_sequence(4, 8, {0, 1});
  BatchBuilder builder = make_builder();
  CHECK_THAT(message_of([&] {
               builder.build(make_plan({{&sequence, 2, 4}}));
             }),
             Contains("two attention modes"));
  sequence.decode_topk = sequence.prefill_topk;
  CHECK(builder.build(make_plan({{&sequence, 2, 4}})).num_tokens == 4);
  sequence.block_table.pop_back();
  CHECK_THAT(message_of([&] {
               builder.build(make_plan({{&sequence, 2, 4}}));
             }),
             Contains("block table"));
}

}  // namespace
}  // namespace moba
