// A query's result must not depend, in a single bit, on how it is computed.
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

#include "attention/attention_backend.h"
#include "tests/attention/attention_world.h"
#include "tests/catch.h"
#include "tests/sanitizers.h"

namespace moba {
namespace {

using testing::AttentionShape;
using testing::AttentionWorld;
using testing::Chunk;

template <typename T>
bool same_bits(const std::vector<T>& a, const std::vector<T>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0;
}

// The chunks of one sequence that end at `ends`, one batch each.
template <typename T>
std::vector<T> run_in_chunks(AttentionWorld<T>& world, AttentionBackend& backend, std::int64_t from,
                             const std::vector<std::int64_t>& ends, int topk) {
  std::vector<T> result;
  world.store(0, from);
  for (const std::int64_t end : ends) {
    const std::vector<T> out = world.run(backend, {{0, from, end, topk}});
    result.insert(result.end(), out.begin(), out.end());
    from = end;
  }
  return result;
}

std::vector<std::int64_t> random_ends(std::int64_t from, std::int64_t length, int largest,
                                      std::mt19937& rng) {
  std::vector<std::int64_t> ends;
  while (from < length) {
    from = std::min<std::int64_t>(length, from + 1 + static_cast<int>(rng() % largest));
    ends.push_back(from);
  }
  return ends;
}

TEMPLATE_TEST_CASE("results do not depend on chunks, placement, threads or batch", "[invariance]",
                   float, BFloat16) {
  struct Case {
    AttentionShape shape;
    std::int64_t length;
    int topk;
  };
  const Case c = GENERATE(Case{{6, 2, 64, 64, 64}, 1500, 4}, Case{{6, 2, 64, 64, 64}, 1200, 0},
                          Case{{4, 1, 80, 16, 48}, 800, 3}, Case{{2, 2, 96, 32, 32}, 700, 8},
                          Case{{4, 1, 128, 16, 512}, 1700, 2}, Case{{5, 1, 72, 16, 16}, 333, 1},
                          Case{{3, 1, 64, 48, 48}, 1100, 0}, Case{{2, 1, 64, 64, 1536}, 3200, 2});
  for (const cpu::Isa isa : cpu::available_isas()) {
    if (isa == cpu::Isa::kAvx512Bf16) continue;
    if (isa == cpu::Isa::kGeneric && (c.length > 1200 || kSanitized)) continue;  // slow
    if (kSanitized && c.length > 1200) continue;
    INFO(c.shape.describe() << ", k " << c.topk << " on " << cpu::isa_name(isa));
    AttentionWorld<TestType> world(c.shape, {c.length, 300}, 9, 2.0F);
    DeviceContext one(1, isa);
    DeviceContext two(2, isa);
    DeviceContext many(5, isa);
    auto backend1 = create_attention_backend(one, world.config());
    auto backend2 = create_attention_backend(two, world.config());
    auto backend5 = create_attention_backend(many, world.config());
    const std::vector<TestType> expected = run_in_chunks(world, *backend1, 0, {c.length}, c.topk);

    world.place_pages();
    CHECK(same_bits(expected, run_in_chunks(world, *backend2, 0, {c.length}, c.topk)));
    for (const int largest : {2000, 200, c.length < 1000 ? 9 : 50}) {
      if (kSanitized && largest != 200) continue;
      world.place_pages();
      const auto ends = random_ends(0, c.length, largest, world.rng());
      CHECK(same_bits(expected, run_in_chunks(world, *backend5, 0, ends, c.topk)));
    }
    // In the company of others: the sequence in two parts of one batch, and another in between.
    world.place_pages();
    const std::int64_t half = c.length / 2 + 3;
    world.store(0, c.length);
    const std::vector<TestType> out = world.run(
        *backend2,
        {{1, 0, 300, 2}, {0, 0, half, c.topk}, {1, 299, 300, 0}, {0, half, c.length, c.topk}});
    const auto row = static_cast<std::ptrdiff_t>(c.shape.num_q_heads) * c.shape.head_dim;
    std::vector<TestType> ours(out.begin() + 300 * row, out.begin() + (300 + half) * row);
    ours.insert(ours.end(), out.begin() + (301 + half) * row, out.end());
    CHECK(same_bits(expected, ours));
  }
}

TEMPLATE_TEST_CASE("decode at a long context gives the bits of prefill", "[invariance][long]",
                   float, BFloat16) {
  struct Case {
    AttentionShape shape;
    std::int64_t length;
    int topk;
  };
  const Case c =
      GENERATE(Case{{6, 2, 64, 64, 64}, 70000, 8}, Case{{6, 2, 64, 64, 64}, 70000, 0},
               Case{{4, 1, 64, 64, 4096}, 30000, 3}, Case{{8, 1, 128, 128, 256}, 20000, 16});
  AttentionWorld<TestType> world(c.shape, {c.length}, 10, 2.0F);
  DeviceContext one(1);
  DeviceContext many(5);
  auto backend1 = create_attention_backend(one, world.config());
  auto backend5 = create_attention_backend(many, world.config());
  const std::int64_t from = c.length - 60;
  const std::vector<TestType> expected = run_in_chunks(world, *backend1, from, {c.length}, c.topk);
  std::vector<std::int64_t> ends;
  for (std::int64_t end = from + 1; end <= from + 12; ++end) ends.push_back(end);
  ends.push_back(from + 15);
  ends.push_back(c.length);
  CHECK(same_bits(expected, run_in_chunks(world, *backend5, from, ends, c.topk)));
  CHECK(same_bits(expected, run_in_chunks(world, *backend1, from, ends, c.topk)));
}

TEMPLATE_TEST_CASE("MoBA with k at least the number of blocks is full attention", "[invariance]",
                   float, BFloat16) {
  const AttentionShape shape =
      GENERATE(AttentionShape{6, 2, 64, 64, 64}, AttentionShape{4, 1, 96, 16, 48},
               AttentionShape{2, 1, 128, 32, 1024});
  const std::int64_t length = 1500;
  AttentionWorld<TestType> world(shape, {length}, 12, 2.0F);
  DeviceContext context(2);
  auto backend = create_attention_backend(context, world.config());
  const auto blocks =
      static_cast<int>((length + shape.moba_block_size - 1) / shape.moba_block_size);
  const std::vector<TestType> full = world.run(*backend, {{0, 0, length, 0}});
  CHECK(same_bits(full, world.run(*backend, {{0, 0, length, blocks}})));
  CHECK(same_bits(full, world.run(*backend, {{0, 0, length, blocks + 1}})));
  CHECK(same_bits(full, world.run(*backend, {{0, 0, length, 1 << 30}})));
  if (blocks > 2) CHECK_FALSE(same_bits(full, world.run(*backend, {{0, 0, length, blocks - 1}})));
}

TEST_CASE("k = 1 attends to the query's own block and to nothing else", "[attention]") {
  const AttentionShape shape{4, 2, 64, 16, 32};
  const std::int64_t length = 200;
  AttentionWorld<float> world(shape, {length}, 13);
  DeviceContext context(2);
  auto backend = create_attention_backend(context, world.config());
  const std::vector<float> expected = world.run(*backend, {{0, 0, length, 1}});
  // Each block as a sequence of its own, under full attention.
  const auto row = static_cast<std::ptrdiff_t>(shape.num_q_heads) * shape.head_dim;
  for (std::int64_t begin = 0; begin < length; begin += shape.moba_block_size) {
    const std::int64_t end = std::min<std::int64_t>(length, begin + shape.moba_block_size);
    AttentionWorld<float> block(shape, {end - begin}, 1);
    auto& from = world.sequences()[0];
    auto& to = block.sequences()[0];
    const auto kv_row = static_cast<std::ptrdiff_t>(shape.num_kv_heads) * shape.head_dim;
    to.q.assign(from.q.begin() + begin * row, from.q.begin() + end * row);
    to.k.assign(from.k.begin() + begin * kv_row, from.k.begin() + end * kv_row);
    to.v.assign(from.v.begin() + begin * kv_row, from.v.begin() + end * kv_row);
    const std::vector<float> alone = block.run(*backend, {{0, 0, end - begin, 0}});
    CHECK(same_bits(
        alone, std::vector<float>(expected.begin() + begin * row, expected.begin() + end * row)));
  }
}

}  // namespace
}  // namespace moba
