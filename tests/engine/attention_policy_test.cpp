#include "engine/attention_policy.h"

#include <algorithm>
#include <string>

#include "tests/engine/engine_test_util.h"

namespace moba {
namespace {

ModelConfig plain_model(int num_layers = 4) {
  ModelConfig config;
  config.num_layers = num_layers;
  config.layer_kinds.assign(static_cast<std::size_t>(num_layers), AttentionKind::kFull);
  return config;
}

// Layers 0 and 1 MoBA, 2 and 3 full.
ModelConfig moba_model() {
  ModelConfig config = plain_model();
  config.moba = {64, 8};
  config.layer_kinds = {AttentionKind::kMoba, AttentionKind::kMoba, AttentionKind::kFull,
                        AttentionKind::kFull};
  return config;
}

using Topk = std::vector<std::int32_t>;

LayerAttention resolve(const ModelConfig& model, const AttentionOptions& options,
                       const AttentionOverride& request = {}) {
  return resolve_attention(model, resolve_cache_geometry(model, options, {}), options, request);
}

TEST_CASE("auto follows the checkpoint", "[attention_policy]") {
  CHECK(resolve(moba_model(), {}) == LayerAttention{Topk{8, 8, 0, 0}, Topk{8, 8, 0, 0}});
  CHECK(resolve(plain_model(), {}) == LayerAttention{Topk{0, 0, 0, 0}, Topk{0, 0, 0, 0}});
}

TEST_CASE("options replace parts of the checkpoint's MoBA settings", "[attention_policy]") {
  AttentionOptions options;
  options.moba_topk = 3;
  CHECK(resolve(moba_model(), options).prefill_topk == Topk{3, 3, 0, 0});
  options.full_attention_layers = "last:1";
  CHECK(resolve(moba_model(), options).prefill_topk == Topk{3, 3, 3, 0});
  options.full_attention_layers = "none";
  CHECK(resolve(moba_model(), options).prefill_topk == Topk{3, 3, 3, 3});
  options.full_attention_layers = "0,3";
  CHECK(resolve(moba_model(), options).prefill_topk == Topk{0, 3, 3, 0});
}

TEST_CASE("full and decode modes", "[attention_policy]") {
  AttentionOptions options;
  options.mode = AttentionMode::kFull;
  options.moba_topk = 5;
  CHECK(resolve(moba_model(), options) == LayerAttention{Topk{0, 0, 0, 0}, Topk{0, 0, 0, 0}});
  options = {};
  options.decode = DecodeAttention::kFull;
  CHECK(resolve(moba_model(), options) == LayerAttention{Topk{8, 8, 0, 0}, Topk{0, 0, 0, 0}});
}

TEST_CASE("moba on a checkpoint without it needs both sizes", "[attention_policy]") {
  AttentionOptions options;
  options.mode = AttentionMode::kMoba;
  CHECK_THAT(message_of([&] { resolve(plain_model(), options); }), Contains("moba_block_size"));
  options.moba_block_size = 128;
  CHECK_THAT(message_of([&] { resolve(plain_model(), options); }), Contains("moba_topk"));
  options.moba_topk = 2;
  CHECK(resolve(plain_model(), options).prefill_topk == Topk{2, 2, 2, 2});
  options.full_attention_layers = "last:2";
  CHECK(resolve(plain_model(), options).prefill_topk == Topk{2, 2, 0, 0});
}

TEST_CASE("auto refuses MoBA settings that would be ignored", "[attention_policy]") {
  AttentionOptions options;
  options.moba_topk = 2;
  CHECK_THAT(message_of([&] { resolve(plain_model(), options); }), Contains("moba_topk 2"));
  options = {};
  options.full_attention_layers = "last:1";
  CHECK_THAT(message_of([&] { resolve(plain_model(), options); }), Contains("last:1"));
}

TEST_CASE("a request overrides the engine", "[attention_policy]") {
  AttentionOverride request;
  request.mode = AttentionMode::kFull;
  CHECK(resolve(moba_model(), {}, request).prefill_topk == Topk{0, 0, 0, 0});
  request = {};
  request.moba_topk = 2;
  request.full_attention_layers = "1";
  request.decode = DecodeAttention::kFull;
  CHECK(resolve(moba_model(), {}, request) == LayerAttention{Topk{2, 0, 2, 2}, Topk{0, 0, 0, 0}});
  AttentionOptions full;
  full.mode = AttentionMode::kFull;
  request = {};
  request.mode = AttentionMode::kMoba;
  CHECK(resolve(moba_model(), full, request).prefill_topk == Topk{8, 8, 0, 0});
  // An engine without MoBA blocks cannot serve it.
  CHECK_THAT(message_of([&] { resolve(plain_model(), full, request); }),
             Contains("moba_block_size"));
  request.moba_topk = 0;
  CHECK_THAT(message_of([&] { resolve(moba_model(), {}, request); }), Contains("moba_topk is 0"));
}

TEST_CASE("lists of full layers", "[attention_policy]") {
  CHECK(parse_full_attention_layers("none", 2) == std::vector<bool>{false, false});
  CHECK(parse_full_attention_layers("last:0", 2) == std::vector<bool>{false, false});
  CHECK(parse_full_attention_layers("last:2", 2) == std::vector<bool>{true, true});
  CHECK(parse_full_attention_layers("1", 2) == std::vector<bool>{false, true});
  CHECK(parse_full_attention_layers("1,0,1", 2) == std::vector<bool>{true, true});
  for (const char* bad : {"", "last:", "last:3", "last:-1", "last:x", "2", "-1", "0,", ",0", "0 1",
                          "a", "all", "99999999999", "0x1", "last:1,0", " 1"}) {
    CAPTURE(bad);
    CHECK_THAT(message_of([&] { parse_full_attention_layers(bad, 2); }),
               Contains("full_attention_layers '" + std::string(bad) + "'"));
  }
}

TEST_CASE("page and MoBA block sizes", "[attention_policy]") {
  const auto geometry = [](const ModelConfig& model, int moba_block, int block) {
    AttentionOptions attention;
    attention.moba_block_size = moba_block;
    CacheOptions cache;
    cache.block_size = block;
    return resolve_cache_geometry(model, attention, cache);
  };
  CHECK(geometry(plain_model(), 0, 0).block_size == 64);
  CHECK(geometry(plain_model(), 0, 0).moba_block_size == 0);
  CHECK(geometry(plain_model(), 0, 0).pool_moba_block_size() == 64);
  CHECK(geometry(plain_model(), 0, 17).pool_moba_block_size() == 17);
  CHECK(geometry(moba_model(), 0, 0).block_size == 64);
  CHECK(geometry(moba_model(), 0, 16).block_size == 16);
  CHECK(geometry(moba_model(), 4096, 0).block_size == 64);
  CHECK(geometry(moba_model(), 96, 0).block_size == 32);
  CHECK(geometry(moba_model(), 7, 0).block_size == 1);
  CHECK_THAT(message_of([&] { geometry(moba_model(), 96, 64); }),
             Contains("96 is not a multiple of the cache's block_size 64"));
  CHECK_THAT(message_of([&] { geometry(moba_model(), 32, 64); }), Contains("multiple"));
  CHECK_THAT(message_of([&] { geometry(moba_model(), -1, 0); }), Contains("moba_block_size is -1"));
  CHECK_THAT(message_of([&] { geometry(moba_model(), 0, -64); }), Contains("block_size is -64"));
  CHECK_THAT(message_of([&] { geometry(moba_model(), 1 << 30, 0); }), Contains("moba_block_size"));
}

TEST_CASE("block counts are sums over positions", "[attention_policy]") {
  for (const int block : {1, 3, 64}) {
    for (const int topk : {1, 2, 8, 1000}) {
      for (const std::int64_t first : {0, 1, 63, 64, 65, 200}) {
        for (const std::int64_t count : {0, 1, 5, 64, 300}) {
          MobaBlockCounts expected;
          for (std::int64_t p = first; p < first + count; ++p) {
            expected.available += p / block + 1;
            expected.attended += std::min<std::int64_t>(p / block + 1, topk);
          }
          const MobaBlockCounts got = count_moba_blocks(first, first + count, block, topk);
          CHECK(got.available == expected.available);
          CHECK(got.attended == expected.attended);
        }
      }
    }
  }
}

}  // namespace
}  // namespace moba
