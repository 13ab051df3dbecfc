// The engine on a GPU over the embedded model: the golden outputs, and the CPU engine beside it.
#include <algorithm>
#include <cmath>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>
#include <random>
#include <string>
#include <vector>

#include "engine/logging.h"
#include "moba/engine.h"
#include "tests/catch.h"

namespace moba {
namespace {

const std::string kModelDir = std::string(MOBA_SOURCE_DIR) + "/configs/models/moba-books-19m";

EngineConfig config_on(const std::string& device, ComputeDType dtype = ComputeDType::kFloat32) {
  engine_logger()->set_level(spdlog::level::warn);
  EngineConfig config;
  config.model = kModelDir;
  config.device = device;
  config.dtype = dtype;
  config.max_model_len = 4096;
  config.cache.memory_bytes = std::int64_t{256} << 20;
  return config;
}

std::unique_ptr<Engine> make_engine(const EngineConfig& config) {
  auto engine = Engine::create(config);
  INFO(engine.status().message());
  REQUIRE(engine.ok());
  return std::move(engine.value());
}

std::string refusal(const EngineConfig& config) {
  auto engine = Engine::create(config);
  REQUIRE(!engine.ok());
  return engine.status().message();
}

bool one_line_with(const std::string& text, const std::string& word) {
  INFO(text);
  return text.find('\n') == std::string::npos && text.find(word) != std::string::npos;
}

nlohmann::json golden_prompts() {
  std::ifstream file(kModelDir + "/golden.json");
  return nlohmann::json::parse(file)["prompts"];
}

Request greedy_request(std::vector<std::int32_t> ids, int max_tokens) {
  Request request;
  request.prompt_ids = std::move(ids);
  request.sampling.temperature = 0;
  request.sampling.max_tokens = max_tokens;
  request.sampling.ignore_eos = true;
  return request;
}

RequestOutput generate(Engine& engine, const Request& request) {
  auto output = engine.generate(request);
  INFO(output.status().message());
  REQUIRE(output.ok());
  return std::move(output.value());
}

// Tokens of golden greedy outputs up to the first that is nearly tied.
std::vector<std::int32_t> certain_tokens(const nlohmann::json& mode) {
  const auto ids = mode["greedy_ids"].get<std::vector<std::int32_t>>();
  const auto margins = mode["greedy_margins"].get<std::vector<double>>();
  std::size_t count = 0;
  while (count < ids.size() && margins[count] >= 0.02) ++count;
  return {ids.begin(), ids.begin() + static_cast<std::ptrdiff_t>(count)};
}

Request golden_request(const nlohmann::json& prompt, const std::string& mode, int max_tokens) {
  Request request = greedy_request(prompt["ids"].get<std::vector<std::int32_t>>(), max_tokens);
  request.attention.mode = mode == "moba" ? AttentionMode::kMoba : AttentionMode::kFull;
  return request;
}

std::vector<std::int32_t> random_ids(std::size_t count, std::mt19937& random, std::int64_t vocab) {
  std::vector<std::int32_t> ids(count);
  for (std::int32_t& id : ids) {
    id = static_cast<std::int32_t>(random() % static_cast<unsigned>(vocab));
  }
  return ids;
}

}  // namespace

TEST_CASE("the engine on a GPU gives the golden tokens, and their likelihoods") {
  const auto engine = make_engine(config_on("cuda"));
  CHECK(engine->info().device == "cuda:0");
  CHECK(!engine->info().device_name.empty());
  for (const nlohmann::json& prompt : golden_prompts()) {
    for (const std::string mode : {"moba", "full"}) {
      INFO(prompt["name"].get<std::string>() << " " << mode);
      const nlohmann::json& golden = prompt["modes"][mode];
      const std::vector<std::int32_t> expected = certain_tokens(golden);
      REQUIRE(!expected.empty());
      Request request = golden_request(prompt, mode, static_cast<int>(expected.size()));
      request.sampling.prompt_logprobs = 3;
      request.sampling.logprobs = 2;
      const RequestOutput output = generate(*engine, request);
      CHECK(output.token_ids == expected);
      double nll = 0;
      for (const TokenLogprob& token : output.prompt_logprobs) {
        nll -= static_cast<double>(token.logprob);
        REQUIRE(token.top.size() == 3);
      }
      CHECK(nll / static_cast<double>(output.prompt_logprobs.size()) ==
            Approx(golden["mean_nll"].get<double>()).margin(1e-4));
      REQUIRE(output.logprobs.size() == expected.size());
      CHECK(output.logprobs[0].top[0].first == expected[0]);
    }
  }
}

TEST_CASE("16-bit engines on a GPU stay near the golden outputs") {
  for (const ComputeDType dtype : {ComputeDType::kBFloat16, ComputeDType::kFloat16}) {
    const auto engine = make_engine(config_on("cuda:0", dtype));
    for (const nlohmann::json& prompt : golden_prompts()) {
      for (const std::string mode : {"moba", "full"}) {
        Request request = golden_request(prompt, mode, 1);
        request.sampling.prompt_logprobs = 0;
        const RequestOutput output = generate(*engine, request);
        double nll = 0;
        for (const TokenLogprob& token : output.prompt_logprobs) {
          nll -= static_cast<double>(token.logprob);
        }
        const double mean = nll / static_cast<double>(output.prompt_logprobs.size());
        INFO(prompt["name"].get<std::string>() << " " << mode);
        CHECK(mean == Approx(prompt["modes"][mode]["mean_nll"].get<double>()).margin(0.005));
        CHECK(output.token_ids[0] == prompt["modes"][mode]["top_ids"][0].get<std::int32_t>());
      }
    }
  }
}

TEST_CASE("on a GPU many requests side by side get what each gets alone") {
  EngineConfig config = config_on("cuda");
  config.scheduler.max_num_batched_tokens = 700;
  const auto engine = make_engine(config);
  const auto cpu_engine = make_engine(config_on("cpu"));
  std::mt19937 random(7);
  std::vector<Request> requests;
  for (int i = 0; i < 24; ++i) {
    requests.push_back(
        greedy_request(random_ids(1 + random() % 900, random, engine->info().vocab_size), 40));
    requests.back().attention.mode = i % 2 == 0 ? AttentionMode::kMoba : AttentionMode::kFull;
    if (i % 3 == 0) {
      requests.back().sampling.temperature = 0.8F;
      requests.back().sampling.top_p = 0.9F;
      requests.back().sampling.seed = 1000U + static_cast<unsigned>(i);
    }
  }
  std::vector<RequestHandle> handles;
  for (const Request& request : requests) {
    auto handle = engine->submit(request);
    REQUIRE(handle.ok());
    handles.push_back(std::move(handle.value()));
  }
  int same_as_cpu = 0;
  for (std::size_t i = 0; i < requests.size(); ++i) {
    INFO("request " << i);
    const Result<RequestOutput>& together = handles[i].wait();
    REQUIRE(together.ok());
    const RequestOutput alone = generate(*engine, requests[i]);
    CHECK(together.value().token_ids.size() == 40);
    // The first tokens: after those a rounding may have sent the two different ways.
    const auto first = [](const RequestOutput& output) {
      return std::vector<std::int32_t>(output.token_ids.begin(), output.token_ids.begin() + 4);
    };
    CHECK(first(together.value()) == first(alone));
    if (i < 6) {
      same_as_cpu += first(generate(*cpu_engine, requests[i])) == first(alone) ? 1 : 0;
    }
  }
  CHECK(same_as_cpu >= 5);
}

TEST_CASE("on a GPU a shared beginning comes from the cache, and samples fork") {
  const auto engine = make_engine(config_on("cuda"));
  std::mt19937 random(11);
  const std::vector<std::int32_t> ids = random_ids(1000, random, engine->info().vocab_size);
  Request request = greedy_request(ids, 30);
  request.attention.mode = AttentionMode::kMoba;
  const RequestOutput first = generate(*engine, request);
  const RequestOutput second = generate(*engine, request);
  CHECK(second.metrics.num_cached_tokens >= 896);
  CHECK(first.token_ids == second.token_ids);
  request.sampling.n = 4;
  request.sampling.temperature = 1;
  request.sampling.seed = 5;
  const RequestOutput samples = generate(*engine, request);
  REQUIRE(samples.more_samples.size() == 3);
  CHECK(samples.more_samples[0].token_ids != samples.token_ids);
}

TEST_CASE("a GPU that cannot be had is refused in one line") {
  CHECK(one_line_with(refusal(config_on("cuda:63")), "cuda:63"));
  CHECK(one_line_with(refusal(config_on("gpu")), "gpu"));
  CHECK(one_line_with(refusal(config_on("cuda:")), "cuda:"));
  CHECK(one_line_with(refusal(config_on("cuda:-1")), "cuda:-1"));
  EngineConfig config = config_on("cuda");
  config.cache.memory_bytes = std::int64_t{1} << 50;
  CHECK(one_line_with(refusal(config), "does not fit"));
  config = config_on("cuda");
  config.cache.gpu_memory_utilization = 1.5;
  CHECK(one_line_with(refusal(config), "gpu_memory_utilization"));
  config = config_on("cuda");
  config.cache.memory_bytes = 0;
  config.cache.gpu_memory_utilization = 1e-6;
  CHECK(one_line_with(refusal(config), "no room"));
}

}  // namespace moba
