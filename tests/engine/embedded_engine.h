// The public engine over the embedded model and over small checkpoints.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "moba/engine.h"
#include "tests/catch.h"

namespace moba::test {

inline std::string embedded_dir() {
  return std::string(MOBA_SOURCE_DIR) + "/configs/models/moba-books-19m";
}

inline EngineConfig embedded_config() {
  EngineConfig config;
  config.model = embedded_dir();
  config.dtype = ComputeDType::kFloat32;
  config.max_model_len = 2048;
  return config;
}

inline std::unique_ptr<Engine> make_engine(const EngineConfig& config = embedded_config()) {
  auto engine = Engine::create(config);
  INFO(engine.status().message());
  REQUIRE(engine.ok());
  return std::move(engine.value());
}

// Greedy, past the end of the text.
inline Request greedy_request(std::vector<std::int32_t> ids, int max_tokens) {
  Request request;
  request.prompt_ids = std::move(ids);
  request.sampling.temperature = 0;
  request.sampling.max_tokens = max_tokens;
  request.sampling.ignore_eos = true;
  return request;
}

}  // namespace moba::test
