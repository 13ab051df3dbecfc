// Which blocks the gate chooses: ties, zeros, odd values, and the oracle's choice for random ones.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <limits>
#include <set>
#include <vector>

#include "attention/cpu/moba.h"
#include "attention/reference.h"
#include "tests/attention/attention_world.h"
#include "tests/catch.h"

namespace moba {
namespace {

using testing::AttentionShape;
using testing::AttentionWorld;

using Choices = std::vector<std::vector<std::int32_t>>;  // by row, ascending

// The past blocks that the rows of KV head 0 choose, for the queries from `first` on.
template <typename T>
Choices choose(AttentionWorld<T>& world, cpu::Isa isa, std::int64_t first, int topk) {
  auto& sequence = world.sequences()[0];
  const AttentionShape& shape = world.shape();
  const cpu::Workspace workspace(world.config(), 1);
  cpu::LayerRun run{};
  run.kernels = cpu::attention_kernels(isa);
  run.cache = &world.cache();
  run.q = sequence.q.data();
  std::vector<T> out(sequence.q.size());
  run.out = out.data();
  run.num_q_heads = shape.num_q_heads;
  run.softmax_scale = 1;
  cpu::QuerySpan span{};
  span.pages = sequence.pages.data();
  span.first_token = first;
  span.first_position = first;
  span.num_tokens = static_cast<int>(sequence.length - first);
  cpu::load_queries(run, span, workspace.thread(0));
  cpu::choose_blocks(run, span, topk, workspace.limits(), workspace.thread(0));
  Choices result;
  const std::int64_t rows = std::int64_t{span.num_tokens} * run.group();
  for (std::int64_t row = 0; row < rows; ++row) {
    const std::int32_t* chosen = workspace.thread(0).choices + row * cpu::gate_stride(topk - 1);
    result.emplace_back(chosen, chosen + topk - 1);
    std::sort(result.back().begin(), result.back().end());
  }
  return result;
}

template <typename T>
T* centroid(AttentionWorld<T>& world, std::int64_t block) {
  const PagedKvView& cache = world.cache();
  const std::int64_t last = (block + 1) * cache.pages_per_moba_block() - 1;
  const std::int64_t page = world.sequences()[0].pages[static_cast<std::size_t>(last)];
  return static_cast<T*>(cache.centroids) + page * cache.num_kv_heads * cache.head_dim;
}

std::vector<cpu::Isa> isas() {
  auto all = cpu::available_isas();
  all.erase(std::remove(all.begin(), all.end(), cpu::Isa::kAvx512Bf16), all.end());
  return all;
}

TEMPLATE_TEST_CASE("the gate chooses the oracle's blocks", "[gate]", float, BFloat16) {
  struct Case {
    AttentionShape shape;
    std::int64_t length;
    int topk;
  };
  const Case c = GENERATE(
      Case{{3, 1, 64, 16, 16}, 16 * 300 + 7, 8}, Case{{1, 1, 80, 16, 32}, 32 * 90 + 31, 2},
      Case{{4, 1, 96, 16, 16}, 16 * 150, 16},                                              //
      Case{{2, 1, 128, 16, 16}, 16 * 130 + 1, 17}, Case{{5, 1, 8, 16, 16}, 16 * 200, 40},  //
      Case{{8, 1, 72, 32, 32}, 32 * 65 + 3, 64});
  for (const cpu::Isa isa : isas()) {
    AttentionWorld<TestType> world(c.shape, {c.length}, 3);
    world.store(0, c.length);
    const std::int64_t first =
        std::max<std::int64_t>(c.topk * c.shape.moba_block_size, c.length - 40);
    const Choices chosen = choose(world, isa, first, c.topk);
    const ReferenceAttention expected = world.reference({{0, first, c.length, c.topk}});
    REQUIRE(chosen.size() == expected.selected.size());
    std::size_t near_ties = 0;
    for (std::size_t row = 0; row < chosen.size(); ++row) {
      std::vector<std::int32_t> past = expected.selected[row];
      past.pop_back();  // the query's own
      if (chosen[row] == past) continue;
      ++near_ties;
      REQUIRE(expected.margin[row] <= expected.margin_rounding[row]);
    }
    CHECK(near_ties * 50 <= chosen.size());
  }
}

TEST_CASE("equal scores choose the later blocks", "[gate]") {
  const AttentionShape shape{2, 1, 64, 16, 16};
  const std::int64_t length = 16 * 100 + 5;
  const std::int64_t first = length - 5;
  const int topk = GENERATE(2, 8, 9, 20, 99);
  for (const cpu::Isa isa : isas()) {
    AttentionWorld<float> world(shape, {length}, 3);
    world.store(0, length);
    auto& q = world.sequences()[0].q;
    std::vector<std::int32_t> latest;
    for (std::int32_t b = 100 - (topk - 1); b < 100; ++b) latest.push_back(b);
    const auto expect_latest = [&] {
      for (const auto& row : choose(world, isa, first, topk)) CHECK(row == latest);
    };
    // All scores zero, some of them -0.
    for (std::int64_t b = 0; b < 100; ++b) {
      std::fill_n(centroid(world, b), 64, b % 3 == 0 ? -0.0F : 0.0F);
    }
    expect_latest();
    // All scores equal, positive and negative.
    std::fill(q.begin(), q.end(), 1.0F);
    for (const float value : {0.25F, -0.25F}) {
      for (std::int64_t b = 0; b < 100; ++b) std::fill_n(centroid(world, b), 64, value);
      expect_latest();
    }
    // One better block early on; the rest by index.
    std::fill_n(centroid(world, 3), 64, 1.0F);
    if (topk == 99) continue;  // would be among them anyway
    for (const auto& row : choose(world, isa, first, topk)) {
      CHECK(row.front() == 3);
      CHECK(std::equal(row.begin() + 1, row.end(), latest.begin() + 1));
    }
  }
}

TEST_CASE("pairs of equal blocks around the cut", "[gate]") {
  const AttentionShape shape{1, 1, 64, 16, 16};
  const std::int64_t length = 16 * 80;
  for (const cpu::Isa isa : isas()) {
    AttentionWorld<float> world(shape, {length}, 4);
    world.store(0, length);
    // Blocks b and b + 40 have the same centroid: exact ties between far blocks.
    for (std::int64_t b = 0; b < 39; ++b) {
      std::copy_n(centroid(world, b), 64, centroid(world, b + 40));
    }
    for (const int topk : {2, 4, 6, 12, 30}) {
      const ReferenceAttention expected = world.reference({{0, length - 10, length, topk}});
      const Choices chosen = choose(world, isa, length - 10, topk);
      for (std::size_t row = 0; row < chosen.size(); ++row) {
        std::vector<std::int32_t> past = expected.selected[row];
        past.pop_back();
        CHECK(chosen[row] == past);
      }
    }
  }
}

TEST_CASE("scores that are no numbers still choose distinct past blocks", "[gate]") {
  const AttentionShape shape{2, 1, 64, 16, 16};
  const std::int64_t length = 16 * 50;
  const float odd =
      GENERATE(std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(),
               -std::numeric_limits<float>::infinity());
  for (const cpu::Isa isa : isas()) {
    AttentionWorld<float> world(shape, {length}, 5);
    world.store(0, length);
    for (std::int64_t b = 0; b < 49; b += 2) std::fill_n(centroid(world, b), 64, odd);
    if (std::isnan(odd)) {
      auto& q = world.sequences()[0].q;
      std::fill_n(q.end() - 64, 64, odd);
    }
    for (const int topk : {2, 8, 30, 45}) {
      for (const auto& row : choose(world, isa, length - 3, topk)) {
        const std::set<std::int32_t> distinct(row.begin(), row.end());
        CHECK(distinct.size() == static_cast<std::size_t>(topk - 1));
        CHECK(*distinct.begin() >= 0);
        CHECK(*distinct.rbegin() < 49);
      }
    }
  }
}

}  // namespace
}  // namespace moba
