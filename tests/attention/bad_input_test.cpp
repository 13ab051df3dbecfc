// What does not fit is refused, with a line that names it.
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "attention/attention_backend.h"
#include "attention/cpu/workspace.h"
#include "device/check.h"
#include "tests/attention/attention_world.h"
#include "tests/catch.h"

namespace moba {
namespace {

using testing::AttentionShape;
using testing::AttentionWorld;
using testing::Chunk;

const AttentionShape kShape{4, 2, 64, 16, 32};

// The message of the Error that `act` throws; empty if it throws none.
std::string error_of(const std::function<void()>& act) {
  try {
    act();
  } catch (const Error& e) {
    return e.what();
  }
  return "";
}

TEST_CASE("a configuration that cannot run is refused", "[bad_input]") {
  DeviceContext context(1);
  const AttentionWorld<float> world(kShape, {40}, 1);
  const AttentionConfig good = world.config();
  REQUIRE(create_attention_backend(context, good) != nullptr);
  struct Case {
    const char* names;
    std::function<void(AttentionConfig&)> spoil;
  };
  const std::vector<Case> cases{
      {"num_layers", [](AttentionConfig& c) { c.num_layers = 0; }},
      {"num_q_heads 3", [](AttentionConfig& c) { c.num_q_heads = 3; }},
      {"num_q_heads", [](AttentionConfig& c) { c.num_q_heads = 0; }},
      {"num_kv_heads", [](AttentionConfig& c) { c.num_kv_heads = -2; }},
      {"head_dim 60", [](AttentionConfig& c) { c.head_dim = 60; }},
      {"head_dim 264", [](AttentionConfig& c) { c.head_dim = 264; }},
      {"head_dim 0", [](AttentionConfig& c) { c.head_dim = 0; }},
      {"block_size", [](AttentionConfig& c) { c.block_size = 0; }},
      {"moba_block_size 40", [](AttentionConfig& c) { c.moba_block_size = 40; }},
      {"moba_block_size", [](AttentionConfig& c) { c.moba_block_size = 0; }},
      {"softmax_scale", [](AttentionConfig& c) { c.softmax_scale = 0; }},
      {"softmax_scale", [](AttentionConfig& c) { c.softmax_scale = std::nanf(""); }},
      {"float16", [](AttentionConfig& c) { c.dtype = DType::kFloat16; }},
      {"max_num_batched_tokens", [](AttentionConfig& c) { c.max_num_batched_tokens = 0; }},
      {"max_num_seqs", [](AttentionConfig& c) { c.max_num_seqs = -1; }},
      {"max_model_len", [](AttentionConfig& c) { c.max_model_len = 0; }},
  };
  for (const Case& c : cases) {
    AttentionConfig config = good;
    c.spoil(config);
    INFO(c.names);
    const std::string error = error_of([&] { create_attention_backend(context, config); });
    CHECK(error.find(c.names) != std::string::npos);
    CHECK(error.find('\n') == std::string::npos);
  }
}

TEST_CASE("metadata that does not fit is refused", "[bad_input]") {
  DeviceContext context(1);
  AttentionWorld<float> world(kShape, {100, 50}, 1);
  AttentionConfig config = world.config(2);
  config.max_num_batched_tokens = 60;
  config.max_num_seqs = 3;
  config.max_model_len = 100;
  auto backend = create_attention_backend(context, config);
  const std::vector<Chunk> chunks{{0, 50, 100, 2}, {1, 49, 50, 2}};
  using Batch = AttentionWorld<float>::Batch;
  struct Case {
    const char* names;
    std::function<void(Batch&)> spoil;
  };
  const std::vector<Case> cases{
      {"cu_seqlens_q",
       [](Batch& b) { b.metadata.cu_seqlens_q = b.metadata.cu_seqlens_q.first(2); }},
      {"seq_lens", [](Batch& b) { b.metadata.seq_lens = b.metadata.seq_lens.first(1); }},
      {"block_tables",
       [](Batch& b) { b.metadata.block_tables = b.metadata.block_tables.first(3); }},
      {"moba_topk", [](Batch& b) { b.metadata.moba_topk = b.metadata.moba_topk.first(3); }},
      {"cu_seqlens_q starts at 1", [](Batch& b) { b.cu_seqlens_q[0] = 1; }},
      {"sequence 1: cu_seqlens_q falls", [](Batch& b) { b.cu_seqlens_q[2] = 49; }},
      {"sequence 0 has 50 queries but 49 keys", [](Batch& b) { b.seq_lens[0] = 49; }},
      {"sequence 1 has 101 keys", [](Batch& b) { b.seq_lens[1] = 101; }},
      {"sequence 1 has 0 queries but -5 keys",
       [](Batch& b) { b.cu_seqlens_q[2] = 50, b.seq_lens[1] = -5; }},
      {"sequence 0: page 3 has id -7", [](Batch& b) { b.block_tables[3] = -7; }},
      {"sequence 1, layer 1: moba_topk is -1", [](Batch& b) { b.moba_topk[3] = -1; }},
      {"batch of 61 tokens", [](Batch& b) { b.cu_seqlens_q[2] = 61, b.seq_lens[1] = 50; }},
      {"4 sequences", [](Batch& b) { b.metadata.num_seqs = 4; }},
      {"-1 sequences", [](Batch& b) { b.metadata.num_seqs = -1; }},
      {"max_blocks_per_seq", [](Batch& b) { b.metadata.max_blocks_per_seq = -1; }},
      {"more than its 6 pages",
       [](Batch& b) {
         b.metadata.max_blocks_per_seq = 6;
         b.metadata.block_tables = b.metadata.block_tables.first(12);
       }},
  };
  for (const Case& c : cases) {
    Batch b = world.batch(chunks, 2);
    backend->plan(b.metadata);
    c.spoil(b);
    INFO(c.names);
    const std::string error = error_of([&] { backend->plan(b.metadata); });
    INFO(error);
    CHECK(error.find(c.names) != std::string::npos);
    // A refused batch leaves nothing to run.
    Batch other = world.batch(chunks, 2);
    CHECK(error_of([&] {
            backend->run(0, world.view(other.q), world.cache(), world.view(other.out));
          }) != "");
  }
}

TEST_CASE("tensors and caches that do not fit are refused", "[bad_input]") {
  DeviceContext context(1);
  AttentionWorld<float> world(kShape, {100}, 1);
  AttentionWorld<BFloat16> narrow(kShape, {100}, 1);
  auto backend = create_attention_backend(context, world.config());
  world.store(0, 100);
  auto b = world.batch({{0, 90, 100, 2}});
  const TensorView q = world.view(b.q);
  const TensorView out = world.view(b.out);
  CHECK(error_of([&] { backend->run(0, q, world.cache(), out); }) != "");  // no plan
  backend->plan(b.metadata);
  CHECK(error_of([&] { backend->run(0, q, world.cache(), out); }) == "");
  CHECK(error_of([&] { backend->run(1, q, world.cache(), out); }) != "");
  CHECK(error_of([&] { backend->run(-1, q, world.cache(), out); }) != "");
  CHECK(error_of([&] { backend->run(0, q.rows(0, 9), world.cache(), out); }) != "");
  CHECK(error_of([&] { backend->run(0, q, world.cache(), out.rows(0, 9)); }) != "");
  CHECK(error_of([&] { backend->run(0, q, narrow.cache(), out); }) != "");
  PagedKvView cache = world.cache();
  cache.num_pages = 2;  // the sequence has pages past it
  CHECK(error_of([&] { backend->run(0, q, cache, out); }).find("page") != std::string::npos);
  cache = world.cache();
  cache.moba_block_size = 16;
  CHECK(error_of([&] { backend->run(0, q, cache, out); }) != "");
  cache = world.cache();
  cache.head_dim = 32;
  CHECK(error_of([&] { backend->run(0, q, cache, out); }) != "");
  auto narrow_batch = narrow.batch({{0, 90, 100, 2}});
  CHECK(error_of([&] { backend->run(0, narrow.view(narrow_batch.q), world.cache(), out); }) != "");
}

TEST_CASE("a topk beyond the workspace is refused where it would matter", "[bad_input]") {
  DeviceContext context(1);
  const AttentionShape shape{1, 1, 8, 16, 16};
  const std::int64_t length = 16 * (cpu::kMaxMobaTopk + 3);
  AttentionWorld<float> world(shape, {length}, 1);
  auto backend = create_attention_backend(context, world.config());
  CHECK(world.run(*backend, {{0, length - 5, length, cpu::kMaxMobaTopk}}).size() == 40);
  CHECK(world.run(*backend, {{0, length - 5, length, cpu::kMaxMobaTopk + 3}}).size() == 40);
  CHECK(error_of([&] {
          world.run(*backend, {{0, length - 5, length, cpu::kMaxMobaTopk + 1}});
        }).find("moba_topk 1025") != std::string::npos);
}

TEST_CASE("an empty batch is fine", "[attention]") {
  DeviceContext context(2);
  AttentionWorld<float> world(kShape, {100}, 1);
  auto backend = create_attention_backend(context, world.config());
  CHECK(world.run(*backend, {}).empty());
  CHECK(world.run(*backend, {{0, 0, 0, 2}, {0, 40, 40, 0}}).empty());
}

}  // namespace
}  // namespace moba
