// The CUDA backend against the oracle, over shapes and around every boundary.
#include <algorithm>
#include <cstdint>
#include <set>
#include <vector>

#include "tests/attention/cuda/cuda_world.h"
#include "tests/catch.h"

namespace moba {
namespace {

using cuda::CudaAttentionOptions;
using cuda::KernelChoice;
using testing::AttentionShape;
using testing::AttentionWorld;
using testing::Chunk;
using testing::compare;
using testing::cuda_context;
using testing::CudaWorld;
using testing::Deviation;
using testing::fresh_seed;
using testing::OracleTypeOf;
using testing::tested_kernels;
using testing::tolerance;

// The queries [begin, length) as one chunk, `samples` of them and the outermost against the oracle.
template <typename T>
void check_chunk(AttentionWorld<OracleTypeOf<T>>& world, const CudaAttentionOptions& options,
                 std::int64_t begin, int topk, int samples) {
  const std::int64_t length = world.sequences()[0].length;
  const int head_dim = world.shape().head_dim;
  CudaWorld<T, OracleTypeOf<T>> device(cuda_context(), world);
  auto backend = create_cuda_attention_backend(cuda_context(), device.config(), options);
  const std::vector<T> out = device.run(*backend, {{0, begin, length, topk}});

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
                                << ", " << dtype_name(kDTypeOf<T>));
  CHECK(deviation.all_written);
  CHECK(deviation.worst <= tolerance<T>());
  CHECK(deviation.near_ties * 20 <= deviation.rows + 40);
}

struct ShapeAndK {
  AttentionShape shape;
  int topk;
};

// A spread over head_dim, group, page and block sizes and k that has every value of each with
// several of the others.
std::vector<ShapeAndK> shapes() {
  const int head_dims[] = {64, 128, 96, 80};
  const int groups[] = {4, 1, 2, 8, 3, 20};
  const int sizes[][2] = {{64, 128}, {16, 16},  {128, 128}, {16, 48},
                          {64, 64},  {32, 256}, {64, 512}};
  const int ks[] = {3, 1, 8, 2, 12, 5, 17, 32};
  std::vector<ShapeAndK> result;
  for (int i = 0; i < 56; ++i) {
    ShapeAndK s;
    const int group = groups[(i + i / 6) % 6];
    s.shape.num_kv_heads = i % 3 == 0 ? 2 : 1;
    s.shape.num_q_heads = group * s.shape.num_kv_heads;
    s.shape.head_dim = head_dims[(i + i / 8) % 4];
    s.shape.block_size = sizes[i % 7][0];
    s.shape.moba_block_size = sizes[i % 7][1];
    s.topk = ks[(i + i / 7) % 8];
    result.push_back(s);
  }
  return result;
}

// Lengths at which something changes for blocks of that size and that k.
std::set<std::int64_t> boundary_lengths(std::int64_t block, std::int64_t k) {
  std::set<std::int64_t> lengths{1,
                                 2,
                                 block - 1,
                                 block,
                                 block + 1,
                                 k * block,
                                 k * block - 1,
                                 k * block + 1,
                                 (k + 2) * block + 5};
  lengths.erase(0);
  return lengths;
}

template <typename T>
void check_boundaries(const CudaAttentionOptions& options, int every, std::int64_t longest) {
  int index = 0;
  for (const ShapeAndK& s : shapes()) {
    if (index++ % every != 0) continue;
    for (const std::int64_t length : boundary_lengths(s.shape.moba_block_size, s.topk)) {
      if (length > longest) continue;
      const unsigned seed = fresh_seed();
      AttentionWorld<OracleTypeOf<T>> world(s.shape, {length}, seed, seed % 3 == 0 ? 3.0F : 1.0F);
      const std::int64_t begin = seed % 2 == 0 ? 0 : std::max<std::int64_t>(0, length - 70);
      check_chunk<T>(world, options, begin, s.topk, 3);
      check_chunk<T>(world, options, length - 1, s.topk, 0);
      world.place_pages();
      if (seed % 4 == 0) check_chunk<T>(world, options, begin, 0, 2);
      if (seed % 4 == 1) check_chunk<T>(world, options, length - 1, 0, 0);
    }
  }
}

TEMPLATE_TEST_CASE("CUDA attention agrees with the oracle around every boundary", "[attention]",
                   BFloat16, Float16, float) {
  check_boundaries<TestType>(tested_kernels(), kDTypeOf<TestType> == DType::kBFloat16 ? 1 : 3,
                             6000);
}

TEST_CASE("the kernels of sm_80 agree with the oracle around every boundary", "[attention]") {
  CudaAttentionOptions options;
  options.kernels = KernelChoice::kSm80;
  check_boundaries<BFloat16>(options, 2, 6000);
}

TEST_CASE("the row kernels agree with the oracle in 16-bit types", "[attention]") {
  CudaAttentionOptions options;
  options.kernels = KernelChoice::kRow;
  check_boundaries<BFloat16>(options, 5, 3000);
}

// For compute-sanitizer: every kernel, little work.
TEMPLATE_TEST_CASE("small attention", "[small]", BFloat16, Float16, float) {
  check_boundaries<TestType>(tested_kernels(), 9, 700);
  if (sizeof(TestType) == 2) {
    CudaAttentionOptions options;
    options.kernels = KernelChoice::kSm80;
    check_boundaries<TestType>(options, 13, 500);
  }
}

TEMPLATE_TEST_CASE("CUDA attention agrees with the oracle for large blocks and long sequences",
                   "[attention]", BFloat16, Float16) {
  struct Case {
    AttentionShape shape;
    int topk;
    std::int64_t length;
  };
  const Case c = GENERATE(
      Case{{4, 1, 64, 64, 4096}, 3, 4 * 4096 + 77}, Case{{2, 1, 128, 128, 4096}, 2, 3 * 4096},
      Case{{2, 1, 64, 64, 1536}, 4, 9 * 1536 + 1}, Case{{6, 2, 64, 64, 64}, 8, 70000},
      Case{{1, 1, 64, 16, 16}, 16, 20001}, Case{{4, 2, 80, 16, 2048}, 16, 16 * 2048 + 3},
      Case{{8, 2, 128, 64, 128}, 32, 40000}, Case{{8, 2, 128, 128, 512}, 8, 33000});
  AttentionWorld<OracleTypeOf<TestType>> world(c.shape, {c.length}, fresh_seed(), 2.0F);
  check_chunk<TestType>(world, tested_kernels(), c.length - 1500, c.topk, 4);
  check_chunk<TestType>(world, tested_kernels(), c.length - 1500, 0, 2);
  check_chunk<TestType>(world, tested_kernels(), c.length - 1, c.topk, 0);
  check_chunk<TestType>(world, tested_kernels(), c.length - 1, 0, 0);
}

TEST_CASE("head_dims without kernels of their own work", "[attention]") {
  for (int head_dim = 8; head_dim <= 256; head_dim += 24) {
    const AttentionShape shape{3, 1, head_dim, 16, 32};
    AttentionWorld<float> world(shape, {150}, fresh_seed());
    check_chunk<float>(world, tested_kernels(), 100, 2, 4);
    check_chunk<float>(world, tested_kernels(), 149, 2, 0);
    AttentionWorld<BFloat16> narrow(shape, {150}, fresh_seed());
    check_chunk<BFloat16>(narrow, tested_kernels(), 100, 2, 4);
    check_chunk<BFloat16>(narrow, tested_kernels(), 100, 0, 4);
    check_chunk<BFloat16>(narrow, tested_kernels(), 149, 2, 0);
  }
}

TEMPLATE_TEST_CASE("a mixed CUDA batch agrees with the oracle", "[attention]", BFloat16, Float16,
                   float) {
  const AttentionShape shape =
      GENERATE(AttentionShape{6, 2, 64, 64, 64}, AttentionShape{4, 4, 80, 16, 32},
               AttentionShape{8, 1, 128, 32, 128}, AttentionShape{8, 2, 128, 128, 128});
  AttentionWorld<OracleTypeOf<TestType>> world(shape, {900, 1, 400, 700, 64, 1300, 300},
                                               fresh_seed(), 2.0F);
  // Decode rows among prefill chunks, full and MoBA, a sequence without queries and padding.
  const std::vector<Chunk> chunks{{0, 899, 900, 3}, {1, 0, 1, 2},   {2, 100, 400, 2},
                                  {3, 699, 700, 0}, {4, 30, 30, 4}, {5, 0, 1300, 4},
                                  {6, 10, 300, 0},  {0, 0, 0, 0},   {0, 890, 899, 100}};
  const ReferenceAttention expected = world.reference(chunks);
  CudaWorld<TestType, OracleTypeOf<TestType>> device(cuda_context(), world);
  // Also in pieces: room for 100 tokens' partial results.
  for (const std::int64_t tokens : {1 << 20, 100}) {
    CudaAttentionOptions options = tested_kernels();
    options.max_partial_bytes = tokens * shape.num_q_heads * shape.head_dim * 4 * 2;
    auto backend = create_cuda_attention_backend(cuda_context(), device.config(), options);
    const Deviation deviation = compare(device.run(*backend, chunks), expected, shape.head_dim);
    CHECK(deviation.all_written);
    CHECK(deviation.worst <= tolerance<TestType>());
    CHECK(deviation.near_ties * 20 <= deviation.rows + 40);
  }
}

TEST_CASE("layers of one CUDA plan differ in their kind", "[attention][small]") {
  const AttentionShape shape{6, 2, 64, 16, 32};
  AttentionWorld<BFloat16> world(shape, {500, 300}, fresh_seed(), 2.0F);
  const std::vector<Chunk> chunks{{0, 200, 500, 3}, {1, 299, 300, 2}};
  const ReferenceAttention sparse = world.reference(chunks);
  const ReferenceAttention full = world.reference({{0, 200, 500, 0}, {1, 299, 300, 0}});
  CudaWorld<BFloat16> device(cuda_context(), world);
  device.store(chunks);
  auto b = world.batch(chunks, 4);
  auto backend = create_cuda_attention_backend(cuda_context(), device.config(4), tested_kernels());
  backend->plan(b.metadata);
  for (const int layer : {3, 0, 1, 2, 0}) {
    const Deviation deviation = compare(device.run_layer(*backend, layer, b),
                                        layer % 2 == 0 ? sparse : full, shape.head_dim);
    CHECK(deviation.all_written);
    CHECK(deviation.worst <= 1e-2);
  }
}

TEST_CASE("CUDA statistics count blocks of MoBA layers", "[attention]") {
  const AttentionShape shape{6, 2, 64, 16, 32};
  AttentionWorld<BFloat16> world(shape, {500, 300}, fresh_seed());
  const std::vector<Chunk> chunks{{0, 95, 100, 3}, {1, 299, 300, 20}, {0, 10, 20, 0}};
  CudaWorld<BFloat16> device(cuda_context(), world);
  device.store(chunks);
  auto b = world.batch(chunks, 2);
  auto backend = create_cuda_attention_backend(cuda_context(), device.config(2), tested_kernels());
  REQUIRE(backend->take_stats().blocks_available == 0);
  backend->plan(b.metadata);
  device.run_layer(*backend, 0, b);
  device.run_layer(*backend, 1, b);
  const AttentionStats stats = backend->take_stats();
  // Position 95 has 3 blocks, 96 to 99 have 4; position 299 has 10.
  CHECK(stats.blocks_available == 6 * (3 + 4 * 4 + 10));
  CHECK(stats.blocks_attended == 6 * (5 * 3 + 10));
}

}  // namespace
}  // namespace moba
