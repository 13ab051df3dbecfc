// An engine core over the hash model, for tests that drive it step by step.
#pragma once

#include <algorithm>
#include <functional>
#include <map>
#include <memory>
#include <random>
#include <utility>
#include <vector>

#include "engine/engine_core.h"
#include "engine/status_error.h"
#include "tests/engine/engine_test_util.h"
#include "tests/engine/hash_model.h"

namespace moba {

inline constexpr std::int32_t kVocabSize = ByteTokenizer::kVocabSize;

inline ModelConfig small_model() {
  ModelConfig model;
  model.vocab_size = kVocabSize;
  model.num_layers = 2;
  model.num_q_heads = 3;
  model.moba = {8, 2};
  model.layer_kinds = {AttentionKind::kMoba, AttentionKind::kFull};
  return model;
}

inline EngineCoreConfig small_config(std::int64_t num_pages = 50, int budget = 16,
                                     int max_seqs = 4) {
  EngineCoreConfig config;
  config.model = small_model();
  config.geometry.block_size = 4;
  config.geometry.moba_block_size = 8;
  config.scheduler.max_num_batched_tokens = budget;
  config.scheduler.max_num_seqs = max_seqs;
  config.num_pages = num_pages;
  config.max_model_len = std::min<std::int64_t>(150, num_pages * 4);
  config.eos_token_ids = {ByteTokenizer::kEos};
  return config;
}

// A core over the hash model; outcomes by id.
struct Fixture {
  explicit Fixture(EngineCoreConfig config = small_config(),
                   HashRunner::Steps steps = HashRunner::Steps::kSynchronous)
      : config_(std::move(config)) {
    HashModelConfig model;
    model.block_size = config_.geometry.block_size;
    model.moba_block_size = config_.geometry.moba_block_size;
    model.num_pages = config_.num_pages;
    auto owned = std::make_unique<HashRunner>(model, steps);
    runner = owned.get();
    core =
        std::make_unique<EngineCore>(config_, std::make_shared<ByteTokenizer>(), std::move(owned));
  }
  ~Fixture() { core->cancel_all(); }

  std::int64_t submit(Request request, Callbacks callbacks = {}) {
    const std::int64_t id = next_id;
    next_id += request.sampling.n;
    auto active = core->prepare(std::move(request), std::move(callbacks), Clock::now());
    active->on_finish = [this, id](Result<RequestOutput> result) {
      outcomes.emplace(id, std::move(result));
    };
    if (on_add) on_add(*active);
    core->add(std::move(active), id);
    return id;
  }
  void run(int max_steps = 100000) {
    while (core->has_work() && max_steps-- > 0) core->step();
  }
  const RequestOutput& output(std::int64_t id) {
    INFO("request " << id);
    REQUIRE(outcomes.count(id) == 1);
    INFO(outcomes.at(id).status().message());
    REQUIRE(outcomes.at(id).ok());
    return outcomes.at(id).value();
  }
  std::vector<std::int32_t> expected(const Request& request, std::int64_t count) {
    const LayerAttention attention =
        resolve_attention(config_.model, config_.geometry, config_.attention, request.attention);
    return runner->math().generate(request.prompt_ids, count, attention.prefill_topk,
                                   attention.decode_topk);
  }

  EngineCoreConfig config_;
  std::function<void(ActiveRequest&)> on_add;
  HashRunner* runner = nullptr;
  std::unique_ptr<EngineCore> core;
  std::map<std::int64_t, Result<RequestOutput>> outcomes;
  std::int64_t next_id = 1;
};

inline Request make_request(std::size_t prompt_len, int max_tokens, std::uint32_t seed = 1) {
  std::mt19937 random(seed);
  Request request;
  for (std::size_t i = 0; i < prompt_len; ++i) {
    request.prompt_ids.push_back(static_cast<std::int32_t>(random() % 256));
  }
  request.sampling.max_tokens = max_tokens;
  request.sampling.ignore_eos = true;
  return request;
}

inline Status refusal(Fixture& fixture, Request request) {
  try {
    fixture.core->prepare(std::move(request), {}, Clock::now());
  } catch (const StatusError& error) {
    return Status(error.code(), error.what());
  }
  return {};
}

}  // namespace moba
