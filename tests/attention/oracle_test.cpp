// The backend against the oracle, over shapes and around every boundary.
#include <algorithm>
#include <cstdint>
#include <set>
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
using testing::compare;
using testing::Deviation;
using testing::tolerance;

// The queries [begin, length) as one chunk, `samples` of them against the oracle.
template <typename T>
void check_chunk(AttentionWorld<T>& world, DeviceContext& context, std::int64_t begin, int topk,
                 int samples) {
  const std::int64_t length = world.sequences()[0].length;
  const int head_dim = world.shape().head_dim;
  auto backend = create_attention_backend(context, world.config());
  const std::vector<T> out = world.run(*backend, {{0, begin, length, topk}});

  std::set<std::int64_t> positions{begin, length - 1};
  for (int i = 0; i < samples; ++i) {
    positions.insert(begin + static_cast<std::int64_t>(world.rng()()) % (length - begin));
  }
  const auto row = static_cast<std::ptrdiff_t>(world.shape().num_q_heads) * head_dim;
  std::vector<Chunk> chunks;
  std::vector<T> sampled;
  for (const std::int64_t p : positions) {
    chunks.push_back({0, p, p + 1, topk});
    const auto at = out.begin() + static_cast<std::ptrdiff_t>(p - begin) * row;
    sampled.insert(sampled.end(), at, at + row);
  }
  const Deviation deviation = compare(sampled, world.reference(chunks), head_dim);
  INFO(world.shape().describe() << ", k " << topk << ", queries " << begin << " to " << length
                                << " on " << cpu::isa_name(context.isa()));
  CHECK(deviation.all_written);
  CHECK(deviation.worst <= tolerance<T>());
  CHECK(deviation.near_ties * 20 <= deviation.rows);
}

// The instruction set that is used here.
cpu::Isa context_isa() { return std::min(cpu::best_isa(), cpu::Isa::kAvx512); }

struct ShapeAndK {
  AttentionShape shape;
  int topk;
};

// A spread over head_dim, group, page and block sizes and k that has every value of each with
// several of the others.
std::vector<ShapeAndK> shapes() {
  const int head_dims[] = {64, 80, 96, 128};
  const int groups[] = {1, 2, 4, 8};
  const int sizes[][2] = {{16, 16}, {16, 64}, {64, 64}, {16, 48}, {32, 256}, {64, 1024}};
  const int ks[] = {1, 2, 3, 5, 8, 16};
  std::vector<ShapeAndK> result;
  for (int i = 0; i < 24; ++i) {
    ShapeAndK s;
    const int group = groups[(i + i / 4) % 4];
    s.shape.num_kv_heads = i % 3 == 0 ? 2 : 1;
    s.shape.num_q_heads = group * s.shape.num_kv_heads;
    s.shape.head_dim = head_dims[i % 4];
    s.shape.block_size = sizes[(i + i / 6) % 6][0];
    s.shape.moba_block_size = sizes[(i + i / 6) % 6][1];
    s.topk = ks[(i + i / 5) % 6];
    result.push_back(s);
  }
  return result;
}

TEMPLATE_TEST_CASE("attention agrees with the oracle around every boundary", "[attention]", float,
                   BFloat16) {
  for (const cpu::Isa isa : cpu::available_isas()) {
    if (isa == cpu::Isa::kAvx512Bf16) continue;  // the same kernels
    DeviceContext context(2, isa);
    unsigned seed = 1;
    int index = 0;
    for (const ShapeAndK& s : shapes()) {
      // The lesser instruction sets, and sanitizers: a part of the shapes.
      if ((isa != context_isa() || kSanitized) && index++ % (kSanitized ? 8 : 4) != 0) continue;
      const std::int64_t block = s.shape.moba_block_size;
      const std::int64_t k = s.topk;
      std::set<std::int64_t> lengths{1,         block - 1,     block,         block + 1,
                                     k * block, k * block - 1, k * block + 1, (k + 2) * block + 5};
      lengths.erase(0);
      for (const std::int64_t length : lengths) {
        if (length > 6000) continue;  // large blocks have a test of their own
        ++seed;
        AttentionWorld<TestType> world(s.shape, {length}, seed, seed % 3 == 0 ? 3.0F : 1.0F);
        const std::int64_t begin = seed % 2 == 0 ? 0 : std::max<std::int64_t>(0, length - 70);
        check_chunk(world, context, begin, s.topk, 3);
        world.place_pages();
        if (seed % 4 == 0) check_chunk(world, context, begin, 0, 2);
      }
    }
  }
}

TEMPLATE_TEST_CASE("attention agrees with the oracle for large blocks and long sequences",
                   "[attention][long]", float, BFloat16) {
  struct Case {
    AttentionShape shape;
    int topk;
    std::int64_t length;
  };
  const Case c = GENERATE(
      Case{{4, 1, 64, 64, 4096}, 3, 4 * 4096 + 77}, Case{{2, 1, 128, 128, 4096}, 2, 3 * 4096},
      Case{{2, 1, 64, 64, 1536}, 4, 9 * 1536 + 1}, Case{{6, 2, 64, 64, 64}, 8, 70000},  //
      Case{{1, 1, 64, 16, 16}, 16, 20001},                                              //
      Case{{4, 2, 80, 16, 2048}, 16, 16 * 2048 + 3});
  DeviceContext context(2);
  AttentionWorld<TestType> world(c.shape, {c.length}, 77, 2.0F);
  check_chunk(world, context, c.length - 100, c.topk, 3);
  check_chunk(world, context, c.length - 100, 0, 1);
  check_chunk(world, context, c.length - 1, c.topk, 0);
  check_chunk(world, context, c.length - 1, 0, 0);
}

TEST_CASE("every head_dim that is a multiple of 8 works", "[attention]") {
  for (const cpu::Isa isa : cpu::available_isas()) {
    if (isa == cpu::Isa::kAvx512Bf16) continue;
    DeviceContext context(1, isa);
    for (int head_dim = 8; head_dim <= 256; head_dim += 8) {
      const AttentionShape shape{3, 1, head_dim, 16, 32};
      AttentionWorld<float> world(shape, {150}, static_cast<unsigned>(head_dim));
      check_chunk(world, context, 100, 2, 4);
      check_chunk(world, context, 100, 0, 4);
      AttentionWorld<BFloat16> narrow(shape, {150}, static_cast<unsigned>(head_dim));
      check_chunk(narrow, context, 100, 2, 4);
    }
  }
}

TEMPLATE_TEST_CASE("a mixed batch agrees with the oracle", "[attention]", float, BFloat16) {
  const AttentionShape shape =
      GENERATE(AttentionShape{6, 2, 64, 64, 64}, AttentionShape{4, 4, 80, 16, 32},
               AttentionShape{8, 1, 128, 32, 128});
  DeviceContext context(3);
  AttentionWorld<TestType> world(shape, {900, 1, 400, 700, 64, 1300, 300}, 5, 2.0F);
  // Decode rows among prefill chunks, full and MoBA, a sequence without queries and padding.
  std::vector<Chunk> chunks{{0, 899, 900, 3}, {1, 0, 1, 2},   {2, 100, 400, 2},
                            {3, 699, 700, 0}, {4, 30, 30, 4}, {5, 0, 1300, 4},
                            {6, 10, 300, 0},  {0, 0, 0, 0},   {0, 890, 899, 100}};
  const ReferenceAttention expected = world.reference(chunks);
  auto backend = create_attention_backend(context, world.config());
  const Deviation deviation = compare(world.run(*backend, chunks), expected, shape.head_dim);
  CHECK(deviation.all_written);
  CHECK(deviation.worst <= tolerance<TestType>());
  CHECK(deviation.near_ties * 20 <= deviation.rows);
}

TEST_CASE("layers of one plan differ in their kind", "[attention]") {
  const AttentionShape shape{6, 2, 64, 16, 32};
  DeviceContext context(2);
  AttentionWorld<float> world(shape, {500, 300}, 6, 2.0F);
  const std::vector<Chunk> chunks{{0, 200, 500, 3}, {1, 299, 300, 2}};
  const ReferenceAttention sparse = world.reference(chunks);
  const ReferenceAttention full = world.reference({{0, 200, 500, 0}, {1, 299, 300, 0}});
  auto b = world.batch(chunks, 4);
  auto backend = create_attention_backend(context, world.config(4));
  backend->plan(b.metadata);
  for (const int layer : {3, 0, 1, 2, 0}) {
    std::fill(b.out.begin(), b.out.end(), std::nanf(""));
    backend->run(layer, world.view(b.q), world.cache(), world.view(b.out));
    const Deviation deviation = compare(b.out, layer % 2 == 0 ? sparse : full, shape.head_dim);
    CHECK(deviation.all_written);
    CHECK(deviation.worst <= 1e-5);
  }
}

TEST_CASE("statistics count blocks of MoBA layers", "[attention]") {
  const AttentionShape shape{6, 2, 64, 16, 32};
  DeviceContext context(2);
  AttentionWorld<float> world(shape, {500, 300}, 6);
  const std::vector<Chunk> chunks{{0, 95, 100, 3}, {1, 299, 300, 20}, {0, 10, 20, 0}};
  world.store(0, 100);
  world.store(1, 300);
  auto b = world.batch(chunks, 2);
  auto backend = create_attention_backend(context, world.config(2));
  REQUIRE(backend->take_stats().blocks_available == 0);
  backend->plan(b.metadata);
  backend->run(0, world.view(b.q), world.cache(), world.view(b.out));
  backend->run(1, world.view(b.q), world.cache(), world.view(b.out));
  const AttentionStats stats = backend->take_stats();
  // Position 95 has 3 blocks, 96 to 99 have 4; position 299 has 10.
  CHECK(stats.blocks_available == 6 * (3 + 4 * 4 + 10));
  CHECK(stats.blocks_attended == 6 * (5 * 3 + 10));
  CHECK(backend->take_stats().blocks_attended == 0);
  backend->plan(b.metadata);
  backend->run(0, world.view(b.q), world.cache(), world.view(b.out));
  CHECK(backend->take_stats().blocks_attended == 6 * (5 * 3 + 10));
}

}  // namespace
}  // namespace moba
