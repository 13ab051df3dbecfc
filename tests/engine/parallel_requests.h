// Requests of all kinds, and what they give, to compare engines over several ranks with one.
#pragma once

#include <cstddef>
#include <cstdint>
#include <fstream>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

#include "moba/engine.h"
#include "tests/catch.h"

namespace moba::test {

inline const std::string kParallelModelDir =
    std::string(MOBA_SOURCE_DIR) + "/configs/models/moba-books-19m";

inline std::unique_ptr<Engine> make_engine(const EngineConfig& config) {
  auto engine = Engine::create(config);
  INFO(engine.status().message());
  REQUIRE(engine.ok());
  return std::move(engine.value());
}

inline std::vector<std::int32_t> needle_ids(std::size_t count) {
  std::ifstream file(kParallelModelDir + "/golden.json");
  const nlohmann::json golden = nlohmann::json::parse(file);
  for (const auto& prompt : golden["prompts"]) {
    if (prompt["name"] != "needle") continue;
    auto ids = prompt["ids"].get<std::vector<std::int32_t>>();
    ids.resize(count);
    return ids;
  }
  return {};
}

inline std::vector<Request> requests(int max_tokens) {
  const std::vector<std::int32_t> ids = needle_ids(900);
  std::vector<Request> list;
  for (int i = 0; i < 6; ++i) {
    Request request;
    // Beginnings in common, so that the prefix cache has something to find.
    request.prompt_ids.assign(ids.begin(), ids.begin() + 300 + 100 * i);
    request.sampling.temperature = 0;
    request.sampling.max_tokens = max_tokens;
    request.sampling.ignore_eos = true;
    request.sampling.logprobs = 2;
    if (i % 2 == 1) request.attention.mode = AttentionMode::kFull;
    if (i % 3 == 2) request.sampling.repetition_penalty = 1.2F;
    if (i == 4) {
      request.sampling.temperature = 1;
      request.sampling.top_k = 20;
      request.sampling.seed = 5;
      request.sampling.n = 2;
    }
    if (i == 5) request.sampling.prompt_logprobs = 1;
    list.push_back(request);
  }
  return list;
}

inline std::vector<RequestOutput> run_all(Engine& engine, int max_tokens = 20) {
  std::vector<RequestHandle> handles;
  for (const Request& request : requests(max_tokens)) {
    auto handle = engine.submit(request);
    REQUIRE(handle.ok());
    handles.push_back(handle.value());
  }
  std::vector<RequestOutput> outputs;
  for (const RequestHandle& handle : handles) {
    INFO(handle.wait().status().message());
    REQUIRE(handle.wait().ok());
    outputs.push_back(handle.wait().value());
  }
  return outputs;
}

inline void check_same(const std::vector<RequestOutput>& got,
                       const std::vector<RequestOutput>& expected) {
  for (std::size_t i = 0; i < expected.size(); ++i) {
    CAPTURE(i);
    CHECK(got[i].token_ids == expected[i].token_ids);
    REQUIRE(got[i].logprobs.size() == expected[i].logprobs.size());
    for (std::size_t t = 0; t < got[i].logprobs.size(); ++t) {
      CHECK(got[i].logprobs[t].logprob == Approx(expected[i].logprobs[t].logprob).margin(1e-3));
    }
    REQUIRE(got[i].prompt_logprobs.size() == expected[i].prompt_logprobs.size());
    for (std::size_t t = 0; t < got[i].prompt_logprobs.size(); ++t) {
      CHECK(got[i].prompt_logprobs[t].logprob ==
            Approx(expected[i].prompt_logprobs[t].logprob).margin(1e-3));
    }
    REQUIRE(got[i].more_samples.size() == expected[i].more_samples.size());
    for (std::size_t s = 0; s < got[i].more_samples.size(); ++s) {
      CHECK(got[i].more_samples[s].token_ids == expected[i].more_samples[s].token_ids);
    }
  }
}

}  // namespace moba::test
