// What must hold of the CUDA backend beyond agreement with the oracle on single batches.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
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
using testing::DeviceBytes;
using testing::fresh_seed;
using testing::tested_kernels;

template <typename T>
bool same_bits(const std::vector<T>& a, const std::vector<T>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0;
}

TEST_CASE("the same CUDA batch twice gives the same bits", "[attention]") {
  const AttentionShape shape =
      GENERATE(AttentionShape{8, 2, 128, 64, 128}, AttentionShape{6, 2, 64, 16, 16});
  AttentionWorld<BFloat16> world(shape, {5000, 3000, 2000}, fresh_seed(), 2.0F);
  const std::vector<Chunk> chunks{
      {0, 0, 5000, 8}, {1, 2999, 3000, 8}, {2, 0, 2000, 0}, {0, 4999, 5000, 0}};
  CudaWorld<BFloat16> device(cuda_context(), world);
  auto backend = create_cuda_attention_backend(cuda_context(), device.config(), tested_kernels());
  const auto first = device.run(*backend, chunks);
  for (int i = 0; i < 5; ++i) CHECK(same_bits(first, device.run(*backend, chunks)));
  auto other = create_cuda_attention_backend(cuda_context(), device.config(), tested_kernels());
  CHECK(same_bits(first, device.run(*other, chunks)));
}

TEST_CASE("CUDA MoBA with k at least the number of blocks is full attention", "[attention]") {
  const AttentionShape shape =
      GENERATE(AttentionShape{8, 2, 128, 64, 128}, AttentionShape{4, 1, 96, 16, 48});
  const std::int64_t length = 1500;
  AttentionWorld<BFloat16> world(shape, {length}, fresh_seed(), 2.0F);
  CudaWorld<BFloat16> device(cuda_context(), world);
  auto backend = create_cuda_attention_backend(cuda_context(), device.config(), tested_kernels());
  const auto blocks =
      static_cast<int>((length + shape.moba_block_size - 1) / shape.moba_block_size);
  for (const std::int64_t begin : {std::int64_t{0}, length - 1}) {
    const auto full = device.run(*backend, {{0, begin, length, 0}});
    CHECK(same_bits(full, device.run(*backend, {{0, begin, length, blocks}})));
    CHECK(same_bits(full, device.run(*backend, {{0, begin, length, 1 << 30}})));
    CHECK_FALSE(same_bits(full, device.run(*backend, {{0, begin, length, blocks - 1}})));
  }
}

TEST_CASE("CUDA results do not depend on how a prompt is cut", "[attention]") {
  const AttentionShape shape =
      GENERATE(AttentionShape{8, 2, 128, 64, 128}, AttentionShape{3, 1, 64, 16, 32});
  const int topk = GENERATE(0, 1, 4);
  const std::int64_t length = 3000;
  AttentionWorld<BFloat16> world(shape, {length}, fresh_seed(), 2.0F);
  CudaWorld<BFloat16> device(cuda_context(), world);
  auto backend = create_cuda_attention_backend(cuda_context(), device.config(), tested_kernels());
  const auto whole = device.run(*backend, {{0, 0, length, topk}});
  world.place_pages();
  std::vector<BFloat16> pieces;
  for (std::int64_t begin = 0; begin < length;) {
    // A single token would be a decode step, whose sums have another order.
    std::int64_t end = begin + 2 + static_cast<std::int64_t>(world.rng()() % 700);
    if (end >= length - 1) end = length;
    const auto out = device.run(*backend, {{0, begin, end, topk}});
    pieces.insert(pieces.end(), out.begin(), out.end());
    begin = end;
  }
  CHECK(same_bits(whole, pieces));
}

// Equal scores: of blocks that all have one centroid, and of queries that are zero, the latest.
TEST_CASE("ties go to the later block on CUDA", "[attention][small]") {
  const AttentionShape shape{4, 1, 64, 16, 16};
  const int topk = GENERATE(2, 4, 8, 20);
  const std::int64_t length = 16 * 100 + 5;
  AttentionWorld<BFloat16> world(shape, {length}, fresh_seed());
  auto& sequence = world.sequences()[0];
  const bool zero_queries = GENERATE(true, false);
  if (zero_queries) {
    std::fill(sequence.q.begin(), sequence.q.end(), BFloat16(0.0F));
  } else {
    // Two kinds of blocks in turn: centroids repeat exactly.
    const std::size_t block = 16 * 64;
    for (std::size_t i = 2 * block; i < sequence.k.size(); ++i) {
      sequence.k[i] = sequence.k[i - 2 * block];
    }
  }
  for (const std::int64_t begin : {std::int64_t{0}, length - 1}) {
    const std::vector<Chunk> chunks{{0, begin, length, topk}};
    ReferenceAttention expected = world.reference(chunks);
    std::fill(expected.margin.begin(), expected.margin.end(), 1.0);
    std::fill(expected.margin_rounding.begin(), expected.margin_rounding.end(), 0.0);
    CudaWorld<BFloat16> device(cuda_context(), world);
    auto backend = create_cuda_attention_backend(cuda_context(), device.config(), tested_kernels());
    const Deviation deviation = compare(device.run(*backend, chunks), expected, shape.head_dim);
    CHECK(deviation.all_written);
    CHECK(deviation.worst <= 1e-2);
  }
}

// All kernels against the ones without matrix instructions, every row of long sequences.
TEST_CASE("CUDA kernels agree at length", "[attention][both]") {
  struct Case {
    AttentionShape shape;
    std::int64_t length;
    int topk;
  };
  const Case c = GENERATE(Case{{8, 2, 128, 64, 128}, 20000, 8}, Case{{4, 4, 64, 64, 512}, 16384, 3},
                          Case{{8, 2, 128, 128, 2048}, 20000, 3},
                          Case{{4, 1, 128, 64, 128}, 9000, 0}, Case{{5, 1, 64, 64, 64}, 12000, 32});
  AttentionWorld<BFloat16> world(c.shape, {c.length}, fresh_seed(), 2.0F);
  CudaWorld<BFloat16> device(cuda_context(), world);
  AttentionConfig config = device.config();
  config.max_num_batched_tokens = 1 << 15;
  CudaAttentionOptions rows;
  rows.kernels = KernelChoice::kRow;
  auto slow = create_cuda_attention_backend(cuda_context(), config, rows);
  const std::vector<Chunk> chunks{{0, 0, c.length, c.topk}};
  const auto expected = device.run(*slow, chunks);
  for (const KernelChoice kernels : {KernelChoice::kBest, KernelChoice::kSm80}) {
    CudaAttentionOptions options;
    options.kernels = kernels;
    options.max_partial_bytes = std::int64_t{64} << 20;
    auto backend = create_cuda_attention_backend(cuda_context(), config, options);
    const auto out = device.run(*backend, chunks);
    std::size_t far = 0;
    const auto width = static_cast<std::size_t>(c.shape.head_dim);
    for (std::size_t row = 0; row < out.size() / width; ++row) {
      float largest = 0;
      float difference = 0;
      for (std::size_t d = row * width; d < (row + 1) * width; ++d) {
        largest = std::max(largest, std::abs(static_cast<float>(expected[d])));
        const float delta = std::abs(static_cast<float>(out[d]) - static_cast<float>(expected[d]));
        difference = std::isnan(delta) ? INFINITY : std::max(difference, delta);
      }
      if (!(difference <= 2e-2F * largest)) ++far;
    }
    INFO(c.shape.describe() << ", k " << c.topk << ": " << far << " of " << out.size() / width);
    // Rounding may choose another block where two scores nearly tie.
    CHECK(static_cast<double>(far) <=
          (c.topk == 0 ? 0 : 2e-4) * static_cast<double>(out.size() / width));
  }
}

TEST_CASE("a captured decode graph serves other batches", "[attention][small]") {
  const AttentionShape shape =
      GENERATE(AttentionShape{8, 2, 128, 64, 128}, AttentionShape{6, 2, 64, 16, 32});
  AttentionWorld<BFloat16> world(shape, {3000, 1200, 2500, 700}, fresh_seed(), 2.0F);
  CudaWorld<BFloat16> device(cuda_context(), world);
  auto backend = create_cuda_attention_backend(cuda_context(), device.config(2), tested_kernels());
  const std::vector<std::vector<Chunk>> batches{
      {{0, 2999, 3000, 4}, {1, 1199, 1200, 4}, {2, 2499, 2500, 0}, {3, 699, 700, 3}},
      {{1, 1100, 1101, 2}, {3, 650, 651, 4}, {0, 2000, 2001, 8}, {2, 31, 32, 1}},
      {{2, 2490, 2491, 3}, {0, 0, 1, 4}, {3, 699, 700, 3}, {1, 1199, 1200, 0}},
      {{0, 2998, 2999, 4}, {1, 1198, 1199, 4}, {0, 0, 0, 0}, {0, 0, 0, 0}}};
  for (const auto& chunks : batches) device.store(chunks);

  const std::size_t elements = std::size_t{4} * static_cast<std::size_t>(shape.num_q_heads) *
                               static_cast<std::size_t>(shape.head_dim);
  DeviceBytes q(elements * 2);
  DeviceBytes out0(elements * 2);
  DeviceBytes out1(elements * 2);
  const cudaStream_t stream = cuda_context().cuda()->stream();
  cudaGraphExec_t graph = nullptr;
  std::optional<std::uint64_t> key;
  for (const auto& chunks : batches) {
    auto b = world.batch(chunks, 2);
    q.upload(b.q.data(), b.q.size() * 2);
    out0.poison();
    out1.poison();
    backend->plan(b.metadata);
    if (graph == nullptr) {
      key = backend->capture_key();
      REQUIRE(key.has_value());
      MOBA_CUDA_CHECK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
      backend->run(0, device.view(q, elements), device.cache(), device.view(out0, elements));
      backend->run(1, device.view(q, elements), device.cache(), device.view(out1, elements));
      cudaGraph_t captured = nullptr;
      MOBA_CUDA_CHECK(cudaStreamEndCapture(stream, &captured));
      MOBA_CUDA_CHECK(cudaGraphInstantiate(&graph, captured, 0));
      MOBA_CUDA_CHECK(cudaGraphDestroy(captured));
    }
    CHECK(backend->capture_key() == key);
    MOBA_CUDA_CHECK(cudaGraphLaunch(graph, stream));
    cuda_context().synchronize();
    std::vector<BFloat16> result(b.q.size());
    out0.download(result.data(), result.size() * 2);
    const Deviation sparse = compare(result, world.reference(chunks), shape.head_dim);
    CHECK(sparse.all_written);
    CHECK(sparse.worst <= 1e-2);
    std::vector<Chunk> full = chunks;
    for (Chunk& c : full) c.topk = 0;
    out1.download(result.data(), result.size() * 2);
    const Deviation dense = compare(result, world.reference(full), shape.head_dim);
    CHECK(dense.all_written);
    CHECK(dense.worst <= 1e-2);
  }
  MOBA_CUDA_CHECK(cudaGraphExecDestroy(graph));
}

TEST_CASE("pages past 2^31 elements are found on CUDA", "[attention][large]") {
  const AttentionShape shape{4, 2, 128, 64, 128};
  AttentionWorld<BFloat16> world(shape, {2000}, fresh_seed(), 2.0F);
  world.store(0, 2000);
  auto& sequence = world.sequences()[0];
  const PagedKvView host = world.cache();
  const std::int64_t page = host.page_stride();
  const std::int64_t far = (std::int64_t{1} << 32) / page;  // the first page past 2^32 elements
  const std::int64_t num_pages = far + static_cast<std::int64_t>(sequence.pages.size());
  DeviceBytes k(static_cast<std::size_t>(num_pages * page) * 2);
  DeviceBytes v(static_cast<std::size_t>(num_pages * page) * 2);
  DeviceBytes centroids(static_cast<std::size_t>(num_pages * shape.num_kv_heads * shape.head_dim) *
                        2);
  PagedKvView cache = host;
  cache.k = k.data();
  cache.v = v.data();
  cache.centroids = centroids.data();
  cache.num_pages = num_pages;
  // The even pages of the sequence near, the odd ones far.
  const std::vector<Chunk> chunks{{0, 1200, 2000, 3}};
  const ReferenceAttention expected = world.reference(chunks);
  auto b = world.batch(chunks);
  for (std::size_t i = 0; i < sequence.pages.size(); ++i) {
    const std::int64_t from = sequence.pages[i];
    const std::int64_t to = static_cast<std::int64_t>(i) + (i % 2 == 1 ? far : 0);
    b.block_tables[i] = static_cast<std::int32_t>(to);
    const auto copy = [&](void* target, const void* source, std::int64_t elements) {
      MOBA_CUDA_CHECK(cudaMemcpy(static_cast<BFloat16*>(target) + to * elements,
                                 static_cast<const BFloat16*>(source) + from * elements,
                                 static_cast<std::size_t>(elements) * 2, cudaMemcpyHostToDevice));
    };
    copy(cache.k, host.k, page);
    copy(cache.v, host.v, page);
    copy(cache.centroids, host.centroids, std::int64_t{shape.num_kv_heads} * shape.head_dim);
  }
  CudaWorld<BFloat16> device(cuda_context(), world);
  DeviceBytes q(b.q.size() * 2);
  DeviceBytes out(b.q.size() * 2);
  q.upload(b.q.data(), b.q.size() * 2);
  for (const KernelChoice kernels :
       {KernelChoice::kBest, KernelChoice::kSm80, KernelChoice::kRow}) {
    CudaAttentionOptions options;
    options.kernels = kernels;
    auto backend = create_cuda_attention_backend(cuda_context(), device.config(), options);
    out.poison();
    backend->plan(b.metadata);
    backend->run(0, device.view(q, b.q.size()), cache, device.view(out, b.q.size()));
    cuda_context().synchronize();
    std::vector<BFloat16> result(b.q.size());
    out.download(result.data(), result.size() * 2);
    const Deviation deviation = compare(result, expected, shape.head_dim);
    CHECK(deviation.all_written);
    CHECK(deviation.worst <= 1e-2);
  }
}

// Many sequences in the same pages: the last one's queries and outputs lie past 2^31 elements, and
// its results are those that it has alone.
TEST_CASE("queries past 2^31 elements are found on CUDA", "[attention][large]") {
  const AttentionShape shape{16, 1, 128, 64, 128};
  const std::int64_t length = 16384;
  constexpr std::int64_t kCopies = 66;
  const int topk = GENERATE(0, 3);
  AttentionWorld<BFloat16> world(shape, {length}, fresh_seed(), 2.0F);
  CudaWorld<BFloat16> device(cuda_context(), world);
  AttentionConfig config = device.config();
  config.max_num_batched_tokens = static_cast<int>(kCopies * length);
  config.max_num_seqs = kCopies;
  auto backend = create_cuda_attention_backend(cuda_context(), config, {});
  const std::vector<Chunk> chunk{{0, 0, length, topk}};
  const std::vector<BFloat16> expected = device.run(*backend, chunk);

  const auto batch = world.batch(chunk);
  std::vector<std::int32_t> cu_seqlens_q{0};
  std::vector<std::int32_t> tables;
  for (std::int64_t i = 0; i < kCopies; ++i) {
    cu_seqlens_q.push_back(static_cast<std::int32_t>((i + 1) * length));
    tables.insert(tables.end(), batch.block_tables.begin(), batch.block_tables.end());
  }
  const std::vector<std::int32_t> seq_lens(kCopies, static_cast<std::int32_t>(length));
  const std::vector<std::int32_t> topks(kCopies, topk);
  AttentionMetadata metadata = batch.metadata;
  metadata.num_seqs = kCopies;
  metadata.cu_seqlens_q = cu_seqlens_q;
  metadata.seq_lens = seq_lens;
  metadata.block_tables = tables;
  metadata.moba_topk = topks;
  const std::size_t elements = expected.size();
  REQUIRE((kCopies - 1) * static_cast<std::int64_t>(elements) >= std::int64_t{1} << 31);
  DeviceBytes q(kCopies * elements * 2);
  DeviceBytes out(kCopies * elements * 2);
  for (std::int64_t i = 0; i < kCopies; ++i) {
    MOBA_CUDA_CHECK(cudaMemcpy(static_cast<BFloat16*>(q.data()) + i * std::int64_t(elements),
                               batch.q.data(), elements * 2, cudaMemcpyHostToDevice));
  }
  out.poison();
  backend->plan(metadata);
  backend->run(0, device.view(q, kCopies * elements), device.cache(),
               device.view(out, kCopies * elements));
  cuda_context().synchronize();
  std::vector<BFloat16> got(elements);
  for (const std::int64_t i : {std::int64_t{0}, kCopies / 2, kCopies - 1}) {
    MOBA_CUDA_CHECK(cudaMemcpy(got.data(),
                               static_cast<BFloat16*>(out.data()) + i * std::int64_t(elements),
                               elements * 2, cudaMemcpyDeviceToHost));
    CAPTURE(i);
    CHECK(same_bits(expected, got));
  }
}

}  // namespace
}  // namespace moba
