#include "engine/engine_core.h"

#include <map>
#include <random>
#include <set>

#include "tests/engine/core_fixture.h"
#include "tests/sanitizers.h"

namespace moba {
namespace {

TEST_CASE("one request", "[engine_core]") {
  Fixture f;
  const Request request = make_request(37, 20);
  std::vector<std::int64_t> progress;
  std::vector<std::int32_t> streamed;
  std::string text;
  Callbacks callbacks;
  callbacks.on_prompt = [&](std::int64_t computed, std::int64_t total) {
    CHECK(total == 37);
    progress.push_back(computed);
    return true;
  };
  callbacks.on_token = [&](const TokenEvent& event) {
    streamed.push_back(event.token_id);
    text += event.text;
    CHECK(event.logprob == nullptr);
    return true;
  };
  const std::int64_t id = f.submit(request, callbacks);
  f.run();
  const RequestOutput& output = f.output(id);
  CHECK(output.prompt_ids == request.prompt_ids);
  CHECK(output.token_ids == f.expected(request, 20));
  CHECK(output.token_ids == streamed);
  CHECK(output.text == text);
  CHECK(output.finish_reason == FinishReason::kLength);
  CHECK(progress == std::vector<std::int64_t>{16, 32, 37});
  CHECK(output.metrics.num_prompt_tokens == 37);
  CHECK(output.metrics.num_output_tokens == 20);
  CHECK(output.metrics.time_to_first_token_seconds >= output.metrics.prompt_seconds);
  const MobaBlockCounts blocks = count_moba_blocks(0, 56, 8, 2);
  CHECK(output.metrics.moba_blocks_attended == 3 * blocks.attended);
  CHECK(output.metrics.moba_blocks_available == 3 * blocks.available);
  const EngineStats stats = f.core->stats();
  CHECK(stats.num_pages_in_use == 0);
  CHECK(stats.num_prompt_tokens == 37);
  CHECK(stats.num_output_tokens == 20);
  CHECK(stats.num_finished == 1);
  CHECK(stats.num_steps == 3 + 19);
}

TEST_CASE("tokens do not depend on chunks, batches or modes beside them", "[engine_core]") {
  for (const int budget : {1, 3, 16, 1000}) {
    for (const int max_seqs : {1, 3, 8}) {
      Fixture f(small_config(200, budget, max_seqs));
      std::map<std::int64_t, Request> requests;
      for (std::uint32_t i = 0; i < 12; ++i) {
        Request request = make_request(1 + 7 * i, static_cast<int>(1 + 3 * i), i);
        if (i % 3 == 1) request.attention.mode = AttentionMode::kFull;
        if (i % 3 == 2) request.attention.decode = DecodeAttention::kFull;
        requests.emplace(f.submit(request), request);
      }
      f.run();
      for (const auto& [id, request] : requests) {
        CAPTURE(budget, max_seqs, id);
        CHECK(f.output(id).token_ids == f.expected(request, *request.sampling.max_tokens));
      }
      CHECK(f.core->stats().num_pages_in_use == 0);
    }
  }
}

TEST_CASE("nothing to generate: the prompt alone", "[engine_core]") {
  Fixture f;
  Request request = make_request(150, 0);
  request.sampling.prompt_logprobs = 0;
  const std::int64_t id = f.submit(request);
  f.run();
  CHECK(f.output(id).token_ids.empty());
  CHECK(f.output(id).finish_reason == FinishReason::kLength);
  REQUIRE(f.output(id).prompt_logprobs.size() == 149);
  for (std::size_t i = 0; i < 149; ++i) {
    CHECK(f.output(id).prompt_logprobs[i].logprob == static_cast<float>(i + 1));
    CHECK(f.output(id).prompt_logprobs[i].token_id == request.prompt_ids[i + 1]);
  }
}

TEST_CASE("an output ends at max_model_len", "[engine_core]") {
  Fixture f;
  Request request = make_request(149, 1000);
  const std::int64_t one = f.submit(request);
  request = make_request(100, 0);
  request.sampling.max_tokens.reset();
  const std::int64_t unlimited = f.submit(request);
  f.run();
  CHECK(f.output(one).token_ids.size() == 1);
  CHECK(f.output(unlimited).token_ids.size() == 50);
  CHECK(f.output(unlimited).finish_reason == FinishReason::kLength);
}

TEST_CASE("bad requests are refused with the numbers and leave nothing behind", "[engine_core]") {
  Fixture f;
  const auto message = [&](const Request& request) {
    const Status status = refusal(f, request);
    CHECK(status.code() == StatusCode::kInvalidArgument);
    return status.message();
  };
  CHECK_THAT(message({}), Contains("empty"));
  CHECK_THAT(message(make_request(150, 1)), Contains("150") && Contains("max_model_len"));
  CHECK_THAT(message(make_request(151, 0)), Contains("151") && Contains("max_model_len"));
  Request request = make_request(5, 5);
  request.prompt_ids[3] = kVocabSize;
  CHECK_THAT(message(request), Contains("token 3") && Contains("259"));
  request.prompt_ids[3] = -1;
  CHECK_THAT(message(request), Contains("token 3"));
  request = make_request(5, 5);
  request.sampling.temperature = -1;
  CHECK_THAT(message(request), Contains("temperature"));
  request = make_request(5, 5);
  request.attention.full_attention_layers = "7";
  CHECK_THAT(message(request), Contains("layer 7"));
  request = make_request(5, 5);
  request.timeout_seconds = -1;
  CHECK_THAT(message(request), Contains("timeout_seconds"));
  CHECK_FALSE(f.core->has_work());
  const Request good = make_request(5, 5);
  const std::int64_t id = f.submit(good);
  f.run();
  CHECK(f.output(id).token_ids == f.expected(good, 5));
}

TEST_CASE("cancelling gives pages back at once", "[engine_core]") {
  Fixture f;
  SECTION("during the prompt, by callback") {
    Callbacks callbacks;
    callbacks.on_prompt = [](std::int64_t computed, std::int64_t) { return computed < 32; };
    const std::int64_t id = f.submit(make_request(100, 5), callbacks);
    f.core->step();
    CHECK(f.core->stats().num_pages_in_use == 4);
    f.core->step();
    CHECK(f.core->stats().num_pages_in_use == 0);
    CHECK(f.output(id).finish_reason == FinishReason::kCancelled);
    CHECK(f.output(id).token_ids.empty());
  }
  SECTION("while generating, by callback") {
    int count = 0;
    Callbacks callbacks;
    callbacks.on_token = [&count](const TokenEvent&) { return ++count < 3; };
    const Request request = make_request(10, 50);
    const std::int64_t id = f.submit(request, callbacks);
    f.run();
    CHECK(f.output(id).finish_reason == FinishReason::kCancelled);
    CHECK(f.output(id).token_ids == f.expected(request, 3));
    CHECK(f.core->stats().num_pages_in_use == 0);
  }
  SECTION("from outside, others go on") {
    const Request other = make_request(20, 10, 5);
    const std::int64_t a = f.submit(make_request(100, 5));
    const std::int64_t b = f.submit(other);
    f.core->step();
    f.core->cancel(a);
    CHECK(f.output(a).finish_reason == FinishReason::kCancelled);
    f.core->cancel(a);
    f.run();
    CHECK(f.output(b).token_ids == f.expected(other, 10));
  }
  CHECK(f.core->stats().num_pages_in_use == 0);
}

TEST_CASE("deadlines", "[engine_core]") {
  Fixture f;
  Request late = make_request(100, 5);
  late.timeout_seconds = 5;
  Request endless = make_request(20, 5, 3);
  endless.timeout_seconds = 1e300;
  const std::int64_t a = f.submit(late);
  const std::int64_t b = f.submit(endless);
  f.core->step();
  f.core->expire(Clock::now());
  CHECK(f.outcomes.empty());
  f.core->expire(Clock::now() + std::chrono::seconds(6));
  CHECK(f.output(a).finish_reason == FinishReason::kCancelled);
  CHECK(f.output(a).stop_reason == "deadline");
  f.run();
  CHECK(f.output(b).finish_reason == FinishReason::kLength);
}

TEST_CASE("a request whose callback throws fails alone", "[engine_core]") {
  Fixture f;
  Callbacks callbacks;
  SECTION("exception") {
    callbacks.on_token = [](const TokenEvent&) -> bool { throw std::runtime_error("broken pipe"); };
  }
  SECTION("anything") {
    callbacks.on_prompt = [](std::int64_t, std::int64_t) -> bool { throw 7; };
  }
  const Request good = make_request(30, 10, 9);
  const std::int64_t a = f.submit(make_request(10, 5), callbacks);
  const std::int64_t b = f.submit(good);
  f.run();
  CHECK(f.outcomes.at(a).status().code() == StatusCode::kInternal);
  CHECK_THAT(f.outcomes.at(a).status().message(), Contains("a callback threw"));
  CHECK(f.output(b).token_ids == f.expected(good, 10));
}

TEST_CASE("a sequence whose logits are broken fails alone", "[engine_core]") {
  Fixture f;
  const Request good = make_request(30, 10, 9);
  const std::int64_t a = f.submit(make_request(10, 5));
  const std::int64_t b = f.submit(good);
  f.runner->sample_error = [a](const Sequence& s) { return s.id == a ? "not finite" : ""; };
  f.run();
  CHECK(f.outcomes.at(a).status().code() == StatusCode::kInternal);
  CHECK(f.outcomes.at(a).status().message() == "not finite");
  CHECK(f.output(b).token_ids == f.expected(good, 10));
  CHECK(f.core->stats().num_pages_in_use == 0);
}

TEST_CASE("a failed step fails its requests, the engine goes on", "[engine_core]") {
  Fixture f;
  const std::int64_t a = f.submit(make_request(10, 5));
  f.runner->on_batch = [](const Batch&) { throw Error("the device is gone"); };
  f.core->step();
  CHECK(f.outcomes.at(a).status().message() == "the device is gone");
  CHECK(f.core->stats().num_pages_in_use == 0);
  f.runner->on_batch = nullptr;
  const Request good = make_request(30, 10, 9);
  const std::int64_t b = f.submit(good);
  f.run();
  CHECK(f.output(b).token_ids == f.expected(good, 10));
}

TEST_CASE("an error in the engine's own books ends its requests, the engine goes on",
          "[engine_core]") {
  Fixture f(small_config(50, 16, 2));
  ActiveRequest* broken = nullptr;
  f.on_add = [&](ActiveRequest& request) { broken = &request; };
  const std::int64_t a = f.submit(make_request(20, 30));
  f.on_add = nullptr;
  const std::int64_t b = f.submit(make_request(20, 30, 2));
  f.core->step();
  f.core->step();
  // Nobody holds that page: the scheduler finds out when it preempts the request.
  broken->samples[0]->sequence.block_table.push_back(49);
  Request urgent = make_request(20, 5, 3);
  urgent.priority = -1;
  urgent.sampling.n = 2;
  const std::int64_t c = f.submit(urgent);
  CHECK_NOTHROW(f.core->step());
  for (const std::int64_t id : {a, b, c}) {
    CHECK(f.outcomes.at(id).status().code() == StatusCode::kInternal);
    CHECK_THAT(f.outcomes.at(id).status().message(), Contains("page 49 freed twice"));
  }
  CHECK(f.core->stats().num_pages_in_use == 0);
  CHECK(f.core->stats().num_pages_cached == 0);
  const Request good = make_request(30, 10, 9);
  const std::int64_t d = f.submit(good);
  f.run();
  CHECK(f.output(d).token_ids == f.expected(good, 10));
}

TEST_CASE("a common beginning is computed once", "[engine_core]") {
  Fixture f(small_config(100, 64, 8));
  Request request = make_request(101, 3);
  const std::int64_t first = f.submit(request);
  f.run();
  CHECK(f.core->stats().num_pages_in_use == 0);
  CHECK(f.core->stats().num_pages_cached > 0);
  const std::int64_t computed = f.runner->num_computed;
  const std::int64_t again = f.submit(request);
  f.run();
  CHECK(f.output(again).token_ids == f.output(first).token_ids);
  CHECK(f.output(again).metrics.num_cached_tokens == 100);
  CHECK(f.runner->num_computed == computed + 3);

  // Another salt or another attention mode shares nothing.
  Request salted = request;
  salted.cache_salt = "tenant";
  Request full = request;
  full.attention.mode = AttentionMode::kFull;
  const std::int64_t a = f.submit(salted);
  const std::int64_t b = f.submit(full);
  f.run();
  CHECK(f.output(a).metrics.num_cached_tokens == 0);
  CHECK(f.output(b).metrics.num_cached_tokens == 0);
  CHECK(f.output(a).token_ids == f.output(first).token_ids);
  CHECK(f.output(b).token_ids == f.expected(full, 3));

  // Log probabilities of the prompt need every row.
  Request logprobs = request;
  logprobs.sampling.prompt_logprobs = 0;
  const std::int64_t c = f.submit(logprobs);
  f.run();
  CHECK(f.output(c).metrics.num_cached_tokens == 0);
  CHECK(f.output(c).prompt_logprobs.size() == 100);
}

TEST_CASE("requests wait for one that reads what they share", "[engine_core]") {
  EngineCoreConfig config = small_config(1000, 200, 8);
  config.max_model_len = 3000;
  Fixture g(config);
  const Request document = make_request(2001, 1);
  std::map<std::int64_t, Request> requests;
  for (int i = 0; i < 12; ++i) {
    Request question = document;
    for (int j = 0; j < 9; ++j) question.prompt_ids.push_back(i + j);
    question.sampling.max_tokens = 4;
    requests.emplace(g.submit(question), question);
  }
  g.run();
  for (const auto& [id, request] : requests) {
    CHECK(g.output(id).token_ids == g.expected(request, 4));
  }
  // The document once, and for each the rest of its last page, the question and the output.
  CHECK(g.runner->num_computed < 2001 + 12 * (4 + 9 + 4));
}

TEST_CASE("when pages run out, the last in rank is computed again later", "[engine_core]") {
  Fixture f(small_config(20, 32, 4));
  std::map<std::int64_t, Request> requests;
  for (std::uint32_t i = 0; i < 4; ++i) {
    Request request = make_request(16, 40, i);
    if (i == 2) request.attention.decode = DecodeAttention::kFull;
    requests.emplace(f.submit(request), request);
  }
  f.run();
  CHECK(f.core->stats().num_preemptions > 0);
  for (const auto& [id, request] : requests) {
    CAPTURE(id);
    CHECK(f.output(id).token_ids == f.expected(request, 40));
  }
  CHECK(f.core->stats().num_pages_in_use == 0);
}

TEST_CASE("a more urgent request takes the place of others", "[engine_core]") {
  Fixture f(small_config(50, 16, 2));
  const Request slow = make_request(20, 60, 1);
  const std::int64_t a = f.submit(slow);
  const std::int64_t b = f.submit(slow);
  for (int i = 0; i < 5; ++i) f.core->step();
  Request urgent = make_request(20, 5, 2);
  urgent.priority = -1;
  const std::int64_t c = f.submit(urgent);
  for (int i = 0; i < 8; ++i) f.core->step();
  CHECK(f.outcomes.count(c) == 1);
  CHECK(f.outcomes.size() == 1);
  f.run();
  CHECK(f.output(c).token_ids == f.expected(urgent, 5));
  CHECK(f.output(a).token_ids == f.expected(slow, 60));
  CHECK(f.output(b).token_ids == f.expected(slow, 60));
}

TEST_CASE("parallel samples share the prompt's pages", "[engine_core]") {
  // 30 tokens: the last page is not full when the samples part.
  for (const std::size_t length : {30, 32, 1}) {
    for (const bool caching : {true, false}) {
      CAPTURE(length, caching);
      EngineCoreConfig config = small_config(200, 16, 5);
      config.enable_prefix_caching = caching;
      Fixture f(config);
      Request request = make_request(length, 12);
      request.sampling.n = 5;
      std::map<int, std::vector<std::int32_t>> streamed;
      Callbacks callbacks;
      callbacks.on_token = [&](const TokenEvent& event) {
        streamed[event.sample].push_back(event.token_id);
        return true;
      };
      const Request other = make_request(40, 10, 3);
      const std::int64_t a = f.submit(request, callbacks);
      const std::int64_t b = f.submit(other);
      f.run();
      const RequestOutput& output = f.output(a);
      REQUIRE(output.more_samples.size() == 4);
      const LayerAttention attention =
          resolve_attention(f.config_.model, f.config_.geometry, f.config_.attention, {});
      for (int i = 0; i < 5; ++i) {
        const auto expected =
            f.runner->math().generate(request.prompt_ids, 12, attention.prefill_topk,
                                      attention.decode_topk, static_cast<std::uint32_t>(i));
        CHECK(streamed[i] == expected);
        const auto& got = i == 0 ? output.token_ids
                                 : output.more_samples[static_cast<std::size_t>(i) - 1].token_ids;
        CHECK(got == expected);
      }
      CHECK(output.metrics.num_output_tokens == 60);
      CHECK(f.output(b).token_ids == f.expected(other, 10));
      CHECK(f.core->stats().num_pages_in_use == 0);
      const auto prompt = static_cast<std::int64_t>(length);
      CHECK(f.runner->num_computed == prompt + 5 * 11 + 40 + 9);
    }
  }
  Fixture f;
  Request request = make_request(5, 5);
  request.sampling.n = 5;
  CHECK_THAT(refusal(f, request).message(), Contains("n is 5") && Contains("max_num_seqs is 4"));
}

TEST_CASE("random requests, cancels and failures", "[engine_core]") {
  const int seed = GENERATE(1, 2, 3, 4, 5, 6, 7, 8, 9, 10);
  CAPTURE(seed);
  std::mt19937 random(static_cast<std::uint32_t>(seed));
  const auto between = [&random](int low, int high) {
    return low + static_cast<int>(random() % static_cast<unsigned>(high - low + 1));
  };
  const HashRunner::Steps steps = seed == 10      ? HashRunner::Steps::kOnThread
                                  : seed % 2 == 0 ? HashRunner::Steps::kWhenCollected
                                                  : HashRunner::Steps::kSynchronous;
  EngineCoreConfig config = small_config(between(20, 120), between(1, 60), between(1, 8));
  config.scheduler.long_prefill_token_threshold = between(0, 10);
  if (seed % 3 == 0) config.geometry.moba_block_size = 16;
  Fixture f(config, steps);
  std::map<std::int64_t, Request> requests;
  Clock::time_point now = Clock::now();
  const int num_steps = kSanitized ? 2000 : 12000;
  for (int i = 0; i < num_steps; ++i) {
    if (f.core->stats().num_waiting < 5 && between(0, 2) == 0) {
      const int longest = static_cast<int>(std::min<std::int64_t>(f.config_.max_model_len, 90));
      Request request = make_request(static_cast<std::size_t>(between(1, longest)), between(0, 20),
                                     static_cast<std::uint32_t>(between(0, 5)));
      request.sampling.n = between(0, 3) == 0 ? between(1, f.config_.scheduler.max_num_seqs) : 1;
      request.priority = between(0, 2);
      if (between(0, 5) == 0) request.cache_salt = "other";
      if (between(0, 9) == 0) request.sampling.prompt_logprobs = 0;
      if (static_cast<std::int64_t>(request.prompt_ids.size()) == f.config_.max_model_len) {
        request.sampling.max_tokens = 0;
      }
      if (between(0, 3) == 0) request.attention.mode = AttentionMode::kFull;
      if (between(0, 3) == 0) request.attention.decode = DecodeAttention::kFull;
      if (between(0, 9) == 0) request.timeout_seconds = between(1, 100);
      if (between(0, 9) == 0) request.sampling.presence_penalty = 1;  // cannot run ahead
      if (between(0, 3) == 0) request.sampling.ignore_eos = false;
      if (between(0, 3) == 0) request.sampling.stop_token_ids = {between(0, 255), between(0, 255)};
      requests.emplace(f.submit(request), request);
    }
    now += std::chrono::seconds(1);
    f.core->expire(now);
    if (!requests.empty() && between(0, 30) == 0) {
      auto it = requests.begin();
      std::advance(it, between(0, static_cast<int>(requests.size()) - 1));
      f.core->cancel(it->first);
    }
    f.core->step();
  }
  f.run();
  CHECK(f.core->stats().num_pages_in_use == 0);
  CHECK(f.core->stats().num_preemptions > 0);
  CHECK(f.core->stats().num_prefix_hit_tokens > 0);
  REQUIRE(f.outcomes.size() == requests.size());
  for (const auto& [id, request] : requests) {
    const RequestOutput& output = f.output(id);
    const auto count = static_cast<std::int64_t>(output.token_ids.size());
    REQUIRE(output.token_ids == f.expected(request, count));
    const LayerAttention attention = resolve_attention(f.config_.model, f.config_.geometry,
                                                       f.config_.attention, request.attention);
    for (std::size_t i = 0; i < output.more_samples.size(); ++i) {
      const auto& tokens = output.more_samples[i].token_ids;
      REQUIRE(tokens == f.runner->math().generate(request.prompt_ids,
                                                  static_cast<std::int64_t>(tokens.size()),
                                                  attention.prefill_topk, attention.decode_topk,
                                                  static_cast<std::uint32_t>(i + 1)));
    }
    if (output.finish_reason == FinishReason::kLength) {
      REQUIRE(count ==
              std::min<std::int64_t>(
                  *request.sampling.max_tokens,
                  f.config_.max_model_len - static_cast<std::int64_t>(request.prompt_ids.size())));
    }
  }
}

}  // namespace
}  // namespace moba
