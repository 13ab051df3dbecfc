// Real models over shared, forked and recomputed pages: their logits equal those of a cold run bit
// by bit.
#include <cmath>
#include <cstring>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "engine/engine_core.h"
#include "engine/model_runner.h"
#include "tests/engine/engine_test_util.h"
#include "tests/engine/hash_model.h"

namespace moba {
namespace {

using Rows = std::vector<std::vector<float>>;

// Keeps the logits that a model gives.
class RecordingModel : public CausalLM {
 public:
  RecordingModel(std::unique_ptr<CausalLM> model, Rows& rows)
      : model_(std::move(model)), rows_(rows) {}
  const ModelConfig& config() const override { return model_->config(); }
  const ShardPlan& shard() const override { return model_->shard(); }
  TensorView forward(const ForwardBatch& batch, KvPool& cache,
                     AttentionBackend& attention) override {
    return model_->forward(batch, cache, attention);
  }
  void compute_logits(const TensorView& hidden, const TensorView& logits) override {
    model_->compute_logits(hidden, logits);
    const auto width = static_cast<std::size_t>(model_->config().vocab_size);
    const auto count = static_cast<std::size_t>(hidden.shape()[0]);
    for (std::size_t i = 0; i < count; ++i) {
      const float* row = logits.data<float>() + i * width;
      rows_.emplace_back(row, row + width);
    }
  }
  std::int64_t weight_bytes() const override { return model_->weight_bytes(); }
  std::int64_t activation_bytes() const override { return model_->activation_bytes(); }

 private:
  std::unique_ptr<CausalLM> model_;
  Rows& rows_;
};

struct WorldOptions {
  std::string model = "moba_llama";
  DType dtype = DType::kFloat32;
  std::int64_t num_pages = 1000;
  int budget = 37;
  int max_seqs = 8;
};

// An engine core over a small checkpoint, pages of 4 tokens in MoBA blocks of 16 or 64. Unwritten
// memory of the cache is NaN.
class World : public StepRunner {
 public:
  explicit World(const WorldOptions& options) {
    const std::string dir = std::string(MOBA_TEST_DATA_DIR) + "/models/" + options.model;
    EngineCoreConfig config;
    config.model = load_model_config(dir);
    config.geometry.block_size = 4;
    config.geometry.moba_block_size = config.model.moba.block_size;
    config.scheduler.max_num_batched_tokens = options.budget;
    config.scheduler.max_num_seqs = options.max_seqs;
    config.num_pages = options.num_pages;
    config.max_model_len = std::min<std::int64_t>(512, options.num_pages * 4);
    KvPoolConfig pool{config.model.num_layers,         config.model.num_kv_heads,
                      config.model.head_dim,           4,
                      config.geometry.moba_block_size, options.dtype};
    auto cache = std::make_unique<KvPool>(context_.device(), pool, options.num_pages);
    for (int layer = 0; layer < pool.num_layers; ++layer) {
      const PagedKvView& view = cache->layer(layer);
      const std::size_t bytes =
          static_cast<std::size_t>(view.page_stride() * view.num_pages) * dtype_size(options.dtype);
      std::memset(view.k, 0xff, bytes);
      std::memset(view.v, 0xff, bytes);
      std::memset(view.centroids, 0xff, bytes / 4);
    }
    AttentionConfig attention;
    attention.num_layers = pool.num_layers;
    attention.num_q_heads = config.model.num_q_heads;
    attention.num_kv_heads = pool.num_kv_heads;
    attention.head_dim = pool.head_dim;
    attention.block_size = pool.block_size;
    attention.moba_block_size = pool.moba_block_size;
    attention.softmax_scale = 1.0F / std::sqrt(static_cast<float>(pool.head_dim));
    attention.dtype = options.dtype;
    attention.max_num_batched_tokens = options.budget;
    attention.max_num_seqs = options.max_seqs;
    attention.max_model_len = config.max_model_len;
    ModelOptions model{options.dtype, config.max_model_len, options.budget};
    runner_ = std::make_unique<ModelRunner>(
        context_,
        std::make_unique<RecordingModel>(load_causal_lm(context_, dir, config.model, model), rows_),
        create_attention_backend(context_, attention), std::move(cache), config.scheduler);
    core_ = std::make_unique<EngineCore>(config, std::make_shared<ByteTokenizer>(),
                                         std::make_unique<Forward>(*this));
  }

  StepResult& run(const Batch& batch) override {
    rows_.clear();
    StepResult& result = runner_->run(batch);
    REQUIRE(rows_.size() == batch.sample_rows.size());
    for (std::size_t i = 0; i < rows_.size(); ++i) {
      const Sequence& sequence = *batch.sample_rows[i].sequence;
      logits_[{sequence.request_id, sequence.sample}].push_back(std::move(rows_[i]));
    }
    return result;
  }

  std::int64_t submit(Request request) {
    const std::int64_t id = next_id_;
    next_id_ += request.sampling.n;
    auto active = core_->prepare(std::move(request), {}, Clock::now());
    active->on_finish = [this, id](Result<RequestOutput> result) {
      INFO(result.status().message());
      REQUIRE(result.ok());
      outputs_.emplace(id, std::move(result.value()));
    };
    core_->add(std::move(active), id);
    return id;
  }
  void step() { core_->step(); }
  void finish() {
    while (core_->has_work()) core_->step();
  }
  const RequestOutput& output(std::int64_t id) const { return outputs_.at(id); }
  // Of each output token.
  const Rows& logits(std::int64_t id, int sample = 0) const { return logits_.at({id, sample}); }
  EngineStats stats() const { return core_->stats(); }

 private:
  // The core owns its runner; the world outlives it.
  struct Forward : StepRunner {
    explicit Forward(World& w) : world(w) {}
    StepResult& run(const Batch& batch) override { return world.run(batch); }
    World& world;
  };

  DeviceContext context_{2};
  Rows rows_;
  std::map<std::pair<std::int64_t, int>, Rows> logits_;
  std::map<std::int64_t, RequestOutput> outputs_;
  std::int64_t next_id_ = 1;
  std::unique_ptr<ModelRunner> runner_;
  std::unique_ptr<EngineCore> core_;
};

enum class Mode { kMoba, kFull, kFullDecode };

Request make_request(std::size_t length, int max_tokens, Mode mode, std::uint32_t seed = 1) {
  std::mt19937 random(seed);
  Request request;
  for (std::size_t i = 0; i < length; ++i) {
    request.prompt_ids.push_back(static_cast<std::int32_t>(3 + random() % 120));
  }
  request.sampling.max_tokens = max_tokens;
  request.sampling.ignore_eos = true;
  request.sampling.temperature = 0;
  if (mode == Mode::kFull) request.attention.mode = AttentionMode::kFull;
  if (mode == Mode::kFullDecode) request.attention.decode = DecodeAttention::kFull;
  return request;
}

// By itself, in a cache that holds nothing.
Rows cold_logits(const WorldOptions& options, const Request& request, int sample = 0) {
  WorldOptions large = options;
  large.num_pages = 1000;
  World world(large);
  const std::int64_t id = world.submit(request);
  world.finish();
  return world.logits(id, sample);
}

bool same_bits(const Rows& a, const Rows& b) {
  if (a.size() != b.size()) return false;
  for (std::size_t i = 0; i < a.size(); ++i) {
    if (a[i].size() != b[i].size() ||
        std::memcmp(a[i].data(), b[i].data(), a[i].size() * sizeof(float)) != 0) {
      return false;
    }
  }
  return true;
}

TEST_CASE("hits in the prefix cache give the logits of a cold run, bit by bit", "[prefix_reuse]") {
  for (const char* model : {"moba_llama", "moba_qwen3"}) {
    for (const DType dtype : {DType::kFloat32, DType::kBFloat16}) {
      for (const Mode mode : {Mode::kMoba, Mode::kFull, Mode::kFullDecode}) {
        CAPTURE(model, dtype_name(dtype), static_cast<int>(mode));
        WorldOptions options;
        options.model = model;
        options.dtype = dtype;
        World world(options);
        const Request document = make_request(303, 9, mode);
        const Rows cold = cold_logits(options, document);
        REQUIRE(cold.size() == 9);
        const std::int64_t first = world.submit(document);
        world.finish();
        CHECK(same_bits(world.logits(first), cold));
        // All of it: the last MoBA block is shared in part.
        const std::int64_t again = world.submit(document);
        world.finish();
        CHECK(world.output(again).metrics.num_cached_tokens == 300);
        CHECK(same_bits(world.logits(again), cold));
        // Beginnings that end anywhere in a MoBA block, and go on differently.
        for (const std::size_t common : {64U, 141U, 202U, 255U}) {
          Request other = make_request(common + 60, 5, mode, 7);
          std::copy_n(document.prompt_ids.begin(), common, other.prompt_ids.begin());
          const std::int64_t id = world.submit(other);
          world.finish();
          CAPTURE(common);
          CHECK(world.output(id).metrics.num_cached_tokens ==
                static_cast<std::int64_t>(common / 4 * 4));
          CHECK(same_bits(world.logits(id), cold_logits(options, other)));
        }
      }
    }
  }
}

TEST_CASE("samples that fork from cached pages give the logits of a cold run", "[prefix_reuse]") {
  for (const Mode mode : {Mode::kMoba, Mode::kFull, Mode::kFullDecode}) {
    CAPTURE(static_cast<int>(mode));
    const WorldOptions options;
    World world(options);
    Request request = make_request(150, 40, mode);
    request.sampling.n = 4;
    request.sampling.temperature = 1;
    request.sampling.seed = 5;
    world.submit(request);
    world.finish();
    const std::int64_t warm = world.submit(request);
    const std::int64_t beside = world.submit(make_request(90, 20, Mode::kFull, 3));
    world.finish();
    CHECK(world.output(warm).metrics.num_cached_tokens == 148);
    for (int sample = 0; sample < 4; ++sample) {
      CHECK(same_bits(world.logits(warm, sample), cold_logits(options, request, sample)));
    }
    CHECK(same_bits(world.logits(beside),
                    cold_logits(options, make_request(90, 20, Mode::kFull, 3))));
  }
}

TEST_CASE("requests of different modes in one batch, preempted, give the logits of each alone",
          "[prefix_reuse]") {
  WorldOptions options;
  options.num_pages = 130;
  World world(options);
  std::map<std::int64_t, Request> requests;
  for (std::uint32_t i = 0; i < 6; ++i) {
    Request request = make_request(60 + 10 * i, 45, static_cast<Mode>(i % 3), 1 + i / 3);
    if (i == 4) request.attention.moba_topk = 2;
    requests.emplace(world.submit(request), request);
    world.step();
  }
  world.finish();
  CHECK(world.stats().num_preemptions > 0);
  CHECK(world.stats().num_pages_in_use == 0);
  for (const auto& [id, request] : requests) {
    CAPTURE(id);
    CHECK(same_bits(world.logits(id), cold_logits(options, request)));
  }
}

}  // namespace
}  // namespace moba
