// The public engine over the embedded model.
#include "moba/engine.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>
#include <thread>

#include "engine/logging.h"
#include "moba/inspect.h"
#include "tests/engine/engine_test_util.h"

namespace moba {
namespace {

const std::string kModelDir = std::string(MOBA_SOURCE_DIR) + "/configs/models/moba-books-19m";

EngineConfig embedded_config() {
  engine_logger()->set_level(spdlog::level::warn);
  EngineConfig config;
  config.model = kModelDir;
  config.device = "cpu";
  config.dtype = ComputeDType::kFloat32;
  config.max_model_len = 4096;
  return config;
}

std::unique_ptr<Engine> make_engine(const EngineConfig& config = embedded_config()) {
  auto engine = Engine::create(config);
  INFO(engine.status().message());
  REQUIRE(engine.ok());
  return std::move(engine.value());
}

nlohmann::json golden_prompt(const char* name) {
  std::ifstream file(kModelDir + "/golden.json");
  const nlohmann::json golden = nlohmann::json::parse(file);
  for (const auto& prompt : golden["prompts"]) {
    if (prompt["name"] == name) return prompt;
  }
  return {};
}

Request greedy_request(std::vector<std::int32_t> ids, int max_tokens) {
  Request request;
  request.prompt_ids = std::move(ids);
  request.sampling.temperature = 0;
  request.sampling.max_tokens = max_tokens;
  request.sampling.ignore_eos = true;
  return request;
}

RequestOutput generate(Engine& engine, const Request& request, const Callbacks& callbacks = {}) {
  auto output = engine.generate(request, callbacks);
  INFO(output.status().message());
  REQUIRE(output.ok());
  return std::move(output.value());
}

double mean_nll(const RequestOutput& output) {
  double sum = 0;
  for (const TokenLogprob& logprob : output.prompt_logprobs) {
    sum -= static_cast<double>(logprob.logprob);
  }
  return sum / static_cast<double>(output.prompt_logprobs.size());
}

TEST_CASE("golden outputs of the embedded model", "[engine][long]") {
  const auto engine = make_engine();
  CHECK(engine->info().dtype == "float32");
  CHECK(engine->info().layer_topk == std::vector<int>{8, 8, 8, 8, 8, 8, 8, 8, 0, 0});
  for (const char* name : {"short", "needle"}) {
    const nlohmann::json prompt = golden_prompt(name);
    for (const char* mode : {"moba", "full"}) {
      CAPTURE(name, mode);
      const nlohmann::json& golden = prompt["modes"][mode];
      const auto ids = golden["greedy_ids"].get<std::vector<std::int32_t>>();
      const auto margins = golden["greedy_margins"].get<std::vector<double>>();
      Request request = greedy_request(prompt["ids"].get<std::vector<std::int32_t>>(),
                                       static_cast<int>(ids.size()));
      request.sampling.prompt_logprobs = 0;
      request.sampling.logprobs = 32;
      if (std::string(mode) == "full") request.attention.mode = AttentionMode::kFull;
      const RequestOutput output = generate(*engine, request);

      CHECK(mean_nll(output) == Approx(golden["mean_nll"].get<double>()).margin(1e-4));
      const bool tolerant = std::string(name) == "needle" && std::string(mode) == "moba";
      const double tolerance = tolerant ? 2e-2 : 1e-3;
      REQUIRE(output.logprobs[0].top.size() == 32);
      for (std::size_t i = 0; i < 32; ++i) {
        const auto [id, logprob] = output.logprobs[0].top[i];
        const double expected =
            golden["top_logits"][i].get<double>() - golden["logsumexp"].get<double>();
        CHECK(static_cast<double>(logprob) == Approx(expected).margin(2 * tolerance));
        if (!tolerant) CHECK(id == golden["top_ids"][i].get<std::int32_t>());
      }
      REQUIRE(output.token_ids.size() == ids.size());
      for (std::size_t i = 0; i < ids.size(); ++i) {
        CAPTURE(i, margins[i]);
        CHECK(output.token_ids[i] == ids[i]);
        if (margins[i] < 0.02) break;
      }
    }
  }
  CHECK(engine->stats().num_pages_in_use == 0);
}

TEST_CASE("the text of a prompt is encoded with BOS", "[engine]") {
  const auto engine = make_engine();
  const nlohmann::json prompt = golden_prompt("short");
  Request request = greedy_request({}, 3);
  request.prompt = prompt["text"].get<std::string>();
  const RequestOutput output = generate(*engine, request);
  CHECK(output.prompt_ids == prompt["ids"].get<std::vector<std::int32_t>>());
  CHECK(output.text == engine->tokenizer()
                           .decode([&] {
                             std::vector<std::int32_t> all = output.prompt_ids;
                             all.insert(all.end(), output.token_ids.begin(),
                                        output.token_ids.end());
                             return all;
                           }())
                           .value()
                           .substr(engine->tokenizer().decode(output.prompt_ids).value().size()));
}

TEST_CASE("the same tokens and log probabilities for any chunk size and thread count",
          "[engine][long]") {
  const auto ids = golden_prompt("needle")["ids"].get<std::vector<std::int32_t>>();
  std::vector<std::int32_t> tokens;
  std::vector<float> logprobs;
  for (const auto [budget, threads, block] :
       {std::array<int, 3>{2048, 2, 64}, {4096, 1, 64}, {7, 2, 64}, {64, 2, 16}, {1000, 3, 32}}) {
    CAPTURE(budget, threads, block);
    EngineConfig config = embedded_config();
    config.scheduler.max_num_batched_tokens = budget;
    config.num_threads = threads;
    config.cache.block_size = block;
    const auto engine = make_engine(config);
    Request request = greedy_request(ids, 16);
    if (budget == 7) request.prompt_ids.resize(900);
    request.sampling.prompt_logprobs = 0;
    const RequestOutput output = generate(*engine, request);
    std::vector<float> got;
    for (const TokenLogprob& logprob : output.prompt_logprobs) got.push_back(logprob.logprob);
    if (tokens.empty()) {
      tokens = output.token_ids;
      logprobs = got;
    }
    if (budget != 7) CHECK(output.token_ids == tokens);
    CHECK(std::equal(got.begin(), got.end(), logprobs.begin()));
  }
}

TEST_CASE("requests batched together get what they get alone", "[engine]") {
  EngineConfig config = embedded_config();
  config.cache.enable_prefix_caching = GENERATE(false, true);
  const auto engine = make_engine(config);
  const auto ids = golden_prompt("needle")["ids"].get<std::vector<std::int32_t>>();
  std::vector<Request> requests;
  for (int i = 0; i < 8; ++i) {
    Request request = greedy_request(
        std::vector<std::int32_t>(ids.begin() + 50 * i, ids.begin() + 50 * i + 30 + 200 * i), 24);
    if (i % 3 == 1) request.attention.mode = AttentionMode::kFull;
    if (i % 3 == 2) request.attention.moba_topk = 2;
    if (i % 2 == 1) {
      request.sampling.temperature = 1;
      request.sampling.seed = 17 + i;
    }
    requests.push_back(request);
  }
  std::vector<std::vector<std::int32_t>> alone;
  for (const Request& request : requests) alone.push_back(generate(*engine, request).token_ids);
  const std::int64_t steps = engine->stats().num_steps;
  std::vector<RequestHandle> handles;
  for (const Request& request : requests) {
    auto handle = engine->submit(request);
    REQUIRE(handle.ok());
    handles.push_back(handle.value());
  }
  for (std::size_t i = 0; i < handles.size(); ++i) {
    CAPTURE(i);
    REQUIRE(handles[i].wait().ok());
    CHECK(handles[i].wait().value().token_ids == alone[i]);
    CHECK(handles[i].done());
  }
  CHECK(engine->stats().num_steps - steps < 8 * 24 / 2);
  CHECK(engine->stats().num_pages_in_use == 0);
}

TEST_CASE("a hit in the prefix cache gives bit-identical results", "[engine]") {
  const auto engine = make_engine();
  const auto ids = golden_prompt("needle")["ids"].get<std::vector<std::int32_t>>();
  Request request = greedy_request(ids, 12);
  request.sampling.logprobs = 5;
  const RequestOutput cold = generate(*engine, request);
  CHECK(cold.metrics.num_cached_tokens == 0);
  const RequestOutput warm = generate(*engine, request);
  CHECK(warm.metrics.num_cached_tokens == 2496);  // 39 pages of 64
  CHECK(warm.token_ids == cold.token_ids);
  for (std::size_t i = 0; i < 12; ++i) {
    CHECK(warm.logprobs[i].logprob == cold.logprobs[i].logprob);
    CHECK(warm.logprobs[i].top == cold.logprobs[i].top);
  }
  CHECK(engine->stats().num_pages_in_use == 0);
  CHECK(engine->stats().num_prefix_hit_tokens == 2496);
}

TEST_CASE("parallel samples of one prompt", "[engine]") {
  const auto engine = make_engine();
  const auto ids = golden_prompt("short")["ids"].get<std::vector<std::int32_t>>();
  Request request = greedy_request(ids, 20);
  request.sampling.temperature = 1;
  request.sampling.seed = 3;
  const RequestOutput alone = generate(*engine, request);
  request.sampling.n = 4;
  const RequestOutput output = generate(*engine, request);
  REQUIRE(output.more_samples.size() == 3);
  CHECK(output.token_ids == alone.token_ids);
  CHECK(output.more_samples[0].token_ids != output.token_ids);
  CHECK(output.more_samples[1].token_ids != output.more_samples[0].token_ids);
  request.sampling.temperature = 0;
  const RequestOutput greedy = generate(*engine, request);
  for (const SampleOutput& sample : greedy.more_samples)
    CHECK(sample.token_ids == greedy.token_ids);
}

TEST_CASE("sampling is reproducible by seed", "[engine]") {
  const auto engine = make_engine();
  Request request = greedy_request({1, 318, 1247}, 40);
  request.sampling.temperature = 1;
  request.sampling.seed = 5;
  const auto first = generate(*engine, request).token_ids;
  CHECK(generate(*engine, request).token_ids == first);
  request.sampling.seed = 6;
  CHECK(generate(*engine, request).token_ids != first);
  request.sampling.seed.reset();
  CHECK(generate(*engine, request).token_ids != generate(*engine, request).token_ids);
}

TEST_CASE("stop strings and streamed text", "[engine]") {
  const auto engine = make_engine();
  const auto ids = golden_prompt("short")["ids"].get<std::vector<std::int32_t>>();
  const std::string text = generate(*engine, greedy_request(ids, 30)).text;
  const std::string stop = text.substr(text.size() / 2, 7);
  Request request = greedy_request(ids, 30);
  request.sampling.stop = {stop};
  std::string streamed;
  Callbacks callbacks;
  callbacks.on_token = [&](const TokenEvent& event) {
    streamed += event.text;
    return true;
  };
  const RequestOutput output = generate(*engine, request, callbacks);
  CHECK(output.text == text.substr(0, text.find(stop)));
  CHECK(streamed == output.text);
  CHECK(output.finish_reason == FinishReason::kStop);
  CHECK(output.stop_reason == stop);
}

TEST_CASE("bad requests are refused and the next is right", "[engine]") {
  const auto engine = make_engine();
  const auto ids = golden_prompt("short")["ids"].get<std::vector<std::int32_t>>();
  const auto expected = generate(*engine, greedy_request(ids, 8)).token_ids;
  const auto refused = [&](const Request& request) {
    const auto result = engine->generate(request);
    REQUIRE_FALSE(result.ok());
    CHECK(result.status().code() == StatusCode::kInvalidArgument);
    return result.status().message();
  };
  CHECK_THAT(refused({}), Contains("empty"));
  CHECK_THAT(refused(greedy_request(std::vector<std::int32_t>(4096, 5), 1)),
             Contains("4096") && Contains("max_model_len"));
  CHECK_THAT(refused(greedy_request({1, 8192}, 1)), Contains("8192"));
  Request request = greedy_request(ids, 8);
  request.sampling.temperature = std::numeric_limits<float>::quiet_NaN();
  CHECK_THAT(refused(request), Contains("temperature"));
  request = greedy_request(ids, 8);
  request.attention.moba_topk = 0;
  CHECK_THAT(refused(request), Contains("moba_topk"));
  CHECK(generate(*engine, greedy_request(ids, 8)).token_ids == expected);
  CHECK(generate(*engine, greedy_request(std::vector<std::int32_t>(4096, 5), 0)).token_ids.empty());
}

TEST_CASE("cancelling in the middle of a prompt", "[engine]") {
  EngineConfig config = embedded_config();
  config.scheduler.max_num_batched_tokens = 128;
  const auto engine = make_engine(config);
  const auto ids = golden_prompt("needle")["ids"].get<std::vector<std::int32_t>>();
  Callbacks callbacks;
  std::int64_t pages = 0;
  callbacks.on_prompt = [&](std::int64_t computed, std::int64_t total) {
    CHECK(total == 2500);
    pages = std::max(pages, computed / 64);
    return computed < 1000;
  };
  const RequestOutput output = generate(*engine, greedy_request(ids, 8), callbacks);
  CHECK(output.finish_reason == FinishReason::kCancelled);
  CHECK(output.token_ids.empty());
  CHECK(pages == 16);
  CHECK(engine->stats().num_pages_in_use == 0);

  // By handle, from another thread than the engine's.
  auto handle = engine->submit(greedy_request(ids, 1000));
  REQUIRE(handle.ok());
  handle.value().cancel();
  REQUIRE(handle.value().wait().ok());
  CHECK(handle.value().wait().value().finish_reason == FinishReason::kCancelled);
  handle.value().cancel();
  CHECK(engine->stats().num_pages_in_use == 0);
}

TEST_CASE("many threads at once", "[engine]") {
  const auto engine = make_engine();
  const auto ids = golden_prompt("short")["ids"].get<std::vector<std::int32_t>>();
  const auto expected = generate(*engine, greedy_request(ids, 12)).token_ids;
  std::atomic<int> right{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < 6; ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < 5; ++i) {
        if ((t + i) % 3 == 0) {
          auto handle = engine->submit(greedy_request(ids, 500));
          if (handle.ok()) handle.value().cancel();
        }
        const auto output = engine->generate(greedy_request(ids, 12));
        if (output.ok() && output.value().token_ids == expected) ++right;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  CHECK(right == 30);
}

TEST_CASE("a full queue refuses, an engine that goes ends its requests", "[engine]") {
  EngineConfig config = embedded_config();
  config.scheduler.max_num_seqs = 1;
  config.scheduler.max_num_queued = 1;
  auto engine = make_engine(config);
  const Request longer = greedy_request({1, 318, 1247}, 4000);
  auto first = engine->submit(longer);
  auto second = engine->submit(longer);
  REQUIRE((first.ok() && second.ok()));
  const auto third = engine->submit(longer);
  REQUIRE_FALSE(third.ok());
  CHECK(third.status().code() == StatusCode::kResourceExhausted);
  CHECK_THAT(third.status().message(), Contains("queue is full: 2"));
  // It is refused before anything is looked at.
  CHECK_THAT(engine->submit({}).status().message(), Contains("queue is full: 2"));
  CHECK(engine->stats().num_refused == 2);
  engine.reset();
  REQUIRE(first.value().wait().ok());
  CHECK(first.value().wait().value().finish_reason == FinishReason::kCancelled);
  CHECK(second.value().wait().value().finish_reason == FinishReason::kCancelled);
  second.value().cancel();
}

TEST_CASE("on_finish is told of every end once", "[engine]") {
  const auto engine = make_engine();
  struct Ends {
    int count = 0;
    bool ok = false;
    FinishReason reason = FinishReason::kNone;
    std::vector<std::int32_t> token_ids;
  };
  const auto watch = [](Ends& ends) {
    Callbacks callbacks;
    callbacks.on_finish = [&ends](const Result<RequestOutput>& result) {
      ++ends.count;
      ends.ok = result.ok();
      if (!ends.ok) return;
      ends.reason = result.value().finish_reason;
      ends.token_ids = result.value().token_ids;
      throw std::runtime_error("lost");
    };
    return callbacks;
  };
  Ends finished;
  const RequestOutput output = generate(*engine, greedy_request({1, 318}, 3), watch(finished));
  CHECK(finished.count == 1);
  CHECK(finished.reason == FinishReason::kLength);
  CHECK(finished.token_ids == output.token_ids);

  Ends cancelled;
  Callbacks callbacks = watch(cancelled);
  callbacks.on_token = [](const TokenEvent&) { return false; };
  generate(*engine, greedy_request({1, 318}, 30), callbacks);
  CHECK(cancelled.count == 1);
  CHECK(cancelled.reason == FinishReason::kCancelled);

  Ends failed;
  callbacks = watch(failed);
  callbacks.on_token = [](const TokenEvent&) -> bool { throw std::runtime_error("no"); };
  CHECK_FALSE(engine->generate(greedy_request({1, 318}, 30), callbacks).ok());
  CHECK(failed.count == 1);
  CHECK_FALSE(failed.ok);

  Ends refused;
  CHECK_FALSE(engine->generate(Request{}, watch(refused)).ok());
  CHECK(refused.count == 0);
}

TEST_CASE("a token's bytes, one after another, are the text", "[engine]") {
  const auto engine = make_engine();
  const TokenizerHandle& tokenizer = engine->tokenizer();
  const std::string text = "It rained, caf\xC3\xA9 \xF0\x9F\x8C\xA7.";
  std::string bytes;
  const auto ids = tokenizer.encode(text, /*add_special_tokens=*/false).value();
  for (const std::int32_t id : ids) {
    bytes += tokenizer.token_bytes(id).value();
  }
  CHECK(bytes == " " + text);
  CHECK(tokenizer.token_bytes(*tokenizer.eos_id()).value() == "</s>");
  CHECK_FALSE(tokenizer.token_bytes(tokenizer.vocab_size()).ok());
}

TEST_CASE("a callback cannot wait for the engine it runs on", "[engine]") {
  const auto engine = make_engine();
  Callbacks callbacks;
  bool refused = false;
  callbacks.on_token = [&](const TokenEvent&) {
    refused = !engine->generate(greedy_request({1, 2, 3}, 1)).ok();
    return true;
  };
  generate(*engine, greedy_request({1, 318}, 1), callbacks);
  CHECK(refused);
}

TEST_CASE("configurations that cannot work are refused", "[engine]") {
  const auto refused = [](const std::function<void(EngineConfig&)>& change, StatusCode code) {
    EngineConfig config = embedded_config();
    change(config);
    const auto engine = Engine::create(config);
    REQUIRE_FALSE(engine.ok());
    CHECK(engine.status().code() == code);
    return engine.status().message();
  };
  const auto argument = StatusCode::kInvalidArgument;
  CHECK_THAT(refused([](auto& c) { c.model = ""; }, argument), Contains("model"));
  CHECK_THAT(refused([](auto& c) { c.model = "/no/such/dir"; }, StatusCode::kInvalidCheckpoint),
             Contains("/no/such/dir"));
  CHECK_THAT(refused([](auto& c) { c.max_model_len = 1 << 20; }, argument),
             Contains("1048576") && Contains("131072"));
  CHECK_THAT(refused([](auto& c) { c.max_model_len = -5; }, argument), Contains("max_model_len"));
  CHECK_THAT(refused([](auto& c) { c.cache.memory_bytes = std::int64_t{1} << 50; },
                     StatusCode::kResourceExhausted),
             Contains("kv cache memory"));
  CHECK_THAT(
      refused([](auto& c) { c.cache.memory_bytes = 1 << 20; }, StatusCode::kResourceExhausted),
      Contains("4096"));
  CHECK_THAT(refused([](auto& c) { c.cache.block_size = 48; }, argument), Contains("48"));
  CHECK_THAT(refused([](auto& c) { c.attention.moba_topk = -1; }, argument), Contains("moba_topk"));
  CHECK_THAT(refused([](auto& c) { c.attention.full_attention_layers = "last:11"; }, argument),
             Contains("last:11"));
  CHECK_THAT(refused([](auto& c) { c.scheduler.max_num_seqs = -1; }, argument),
             Contains("max_num_seqs"));
  CHECK_THAT(refused([](auto& c) { c.scheduler.max_num_batched_tokens = -1; }, argument),
             Contains("max_num_batched_tokens"));
  CHECK_THAT(refused([](auto& c) { c.num_threads = -1; }, argument), Contains("threads"));
}

TEST_CASE("sampling defaults come from the checkpoint", "[engine]") {
  CHECK(make_engine()->default_sampling().temperature == 0.0F);
}

TEST_CASE("inspection of the embedded model", "[engine]") {
  const auto info = inspect_checkpoint(kModelDir);
  REQUIRE(info.ok());
  CHECK(info.value().architecture == "LlamaForCausalLM");
  CHECK(info.value().dtype == "bfloat16");
  CHECK(info.value().num_layers == 10);
  CHECK(info.value().moba_block_size == 64);
  CHECK(info.value().layer_topk[7] == 8);
  CHECK(info.value().layer_topk[8] == 0);
  CHECK(info.value().weight_bytes == 2 * info.value().num_parameters);
  // 10 layers, keys and values of 2 heads of 64 in 2 bytes, and a 64th of a key for the centroid.
  CHECK(info.value().kv_bytes_per_token == 10 * 2 * 2 * 64 * 2 + 10 * 2 * 64 * 2 / 64);
  CHECK(tokens_that_fit(info.value(), info.value().weight_bytes - 1) == 0);
  CHECK(tokens_that_fit(info.value(), info.value().weight_bytes + 100 * 5160) == 100);
  AttentionOptions full;
  full.mode = AttentionMode::kFull;
  CHECK(inspect_checkpoint(kModelDir, full).value().layer_topk == std::vector<int>(10, 0));
  CHECK(inspect_checkpoint("/no/such/dir").status().code() == StatusCode::kInvalidCheckpoint);
}

}  // namespace
}  // namespace moba
