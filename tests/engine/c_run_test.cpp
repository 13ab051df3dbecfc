// Requests through the C interface: generating, callbacks, handles and streams.
#include <cmath>
#include <cstddef>
#include <stdexcept>

#include "moba/engine.h"
#include "tests/engine/c_test_util.h"
#include "tests/engine/engine_test_util.h"

namespace moba {
namespace {

using namespace test_c;  // NOLINT(google-build-using-namespace)

TEST_CASE("C generates what C++ generates", "[c_api]") {
  const CEngine engine = make_c_engine();
  const auto same = test::make_engine();
  const std::vector<int32_t> ids = {1, 318, 1247, 90};
  CRequest request =
      make_c_request(engine, ids,
                     R"({"n": 2, "max_tokens": 9, "seed": 5, "logprobs": 3, "prompt_logprobs": 1,
          "attention": "moba", "moba_topk": 2, "ignore_eos": true, "temperature": 0.7})");
  ok(moba_request_set_double(request, "temperature", 0.9));
  ok(moba_request_set_logit_bias(request, 13, -4));
  Request expected = test::greedy_request(ids, 9);
  expected.sampling.temperature = 0.9F;
  expected.sampling.n = 2;
  expected.sampling.seed = 5;
  expected.sampling.logprobs = 3;
  expected.sampling.prompt_logprobs = 1;
  expected.sampling.logit_bias[13] = -4;
  expected.attention.mode = AttentionMode::kMoba;
  expected.attention.moba_topk = 2;
  const RequestOutput reference = same->generate(expected).value();
  Output output;
  ok(moba_generate(engine, request, nullptr, output.out()));
  size_t size = 0;
  ok(moba_output_num_samples(output, &size));
  REQUIRE(size == 2);
  CHECK(ids_of(output) == reference.token_ids);
  CHECK(text_of(output) == reference.text);
  CHECK(ids_of(output, 1) == reference.more_samples[0].token_ids);
  CHECK(text_of(output, 1) == reference.more_samples[0].text);
  int32_t reason = -1;
  ok(moba_output_finish_reason(output, 1, &reason));
  CHECK(reason == MOBA_FINISH_LENGTH);
  const char* stop = nullptr;
  ok(moba_output_stop_reason(output, 0, &stop));
  CHECK(std::string(stop).empty());
  const int32_t* prompt = nullptr;
  ok(moba_output_prompt_ids(output, &prompt, &size));
  CHECK(std::vector<int32_t>(prompt, prompt + size) == ids);

  for (size_t sample = 0; sample < 2; ++sample) {
    const std::vector<TokenLogprob>& list =
        sample == 0 ? reference.logprobs : reference.more_samples[0].logprobs;
    ok(moba_output_num_logprobs(output, sample, &size));
    REQUIRE(size == list.size());
    for (size_t i = 0; i < size; ++i) {
      const moba_logprob* logprob = nullptr;
      ok(moba_output_logprob(output, sample, i, &logprob));
      CHECK(logprob->token_id == list[i].token_id);
      CHECK(logprob->logprob == list[i].logprob);
      REQUIRE(logprob->num_top == 3);
      for (size_t j = 0; j < 3; ++j) {
        CHECK(logprob->top[j].token_id == list[i].top[j].first);
        CHECK(logprob->top[j].logprob == list[i].top[j].second);
      }
    }
  }
  ok(moba_output_num_prompt_logprobs(output, &size));
  REQUIRE(size == 3);
  const moba_logprob* logprob = nullptr;
  ok(moba_output_prompt_logprob(output, 2, &logprob));
  CHECK(logprob->logprob == reference.prompt_logprobs[2].logprob);
  CHECK_THAT(refused(moba_output_prompt_logprob(output, 3, &logprob)), Contains("3"));
  CHECK_THAT(refused(moba_output_logprob(output, 2, 0, &logprob)),
             Contains("sample is 2, and there are 2"));

  moba_metrics metrics = moba_metrics_init();
  ok(moba_output_metrics(output, &metrics));
  CHECK(metrics.num_prompt_tokens == 4);
  CHECK(metrics.num_output_tokens == 18);
  CHECK(metrics.moba_blocks_available >= metrics.moba_blocks_attended);
  CHECK(metrics.prompt_seconds > 0);
}

TEST_CASE("requests of C begin with the checkpoint's sampling and take a configuration's",
          "[c_api]") {
  const CEngine engine = make_c_engine();
  const auto run = [&](const CRequest& request) {
    Output output;
    ok(moba_generate(engine, request, nullptr, output.out()));
    return ids_of(output);
  };
  // The embedded model's default is greedy: the same each time, without a seed.
  CRequest request = make_c_request(engine, {1, 318}, R"({"max_tokens": 12})");
  const std::vector<int32_t> greedy = run(request);
  CHECK(run(request) == greedy);
  Config config;
  ok(moba_config_create(config.out()));
  ok(moba_config_add_json(config, R"({"sampling": {"temperature": 2, "seed": 4}})"));
  ok(moba_request_use_config(request, config));
  const std::vector<int32_t> sampled = run(request);
  CHECK(sampled != greedy);
  CHECK(run(request) == sampled);

  // Text prompts, stop strings and stop tokens.
  CRequest text;
  ok(moba_request_create(engine, text.out()));
  ok(moba_request_set_prompt(text, "It was a dark", MOBA_STRLEN));
  ok(moba_request_set_int(text, "max_tokens", 60));
  const std::vector<int32_t> whole = run(text);
  ok(moba_request_add_stop_token(text, whole[4]));
  CHECK(run(text).size() <= 5);
  ok(moba_request_set_json(text, "stop_token_ids", "[]"));
  ok(moba_request_add_stop(text, "zzz", MOBA_STRLEN));
  ok(moba_request_add_stop(text, " the", 4));
  Output output;
  ok(moba_generate(engine, text, nullptr, output.out()));
  CHECK(text_of(output).find(" the") == std::string::npos);
  const char* reason = nullptr;
  ok(moba_output_stop_reason(output, 0, &reason));
  CHECK(std::string(reason) == " the");

  CHECK_THAT(refused(moba_request_set_int(text, "max_tokenz", 1)),
             Contains("did you mean \"max_tokens\"?"));
  CHECK_THAT(refused(moba_request_set_string(text, "top_k", "many")),
             Contains("top_k: expected an integer, got \"many\""));
  CHECK_THAT(refused(moba_request_add_json(text, "{\"top_k\": 1.5}")), Contains("top_k"));
  // Ranges are refused when it is submitted, with the numbers.
  ok(moba_request_set_double(text, "top_p", 7));
  CHECK_THAT(refused(moba_generate(engine, text, nullptr, output.out())), Contains("7"));
}

// What callbacks saw.
struct Seen {
  moba_engine* engine = nullptr;
  const moba_request* request = nullptr;
  std::vector<int32_t> ids;
  std::string text;
  int64_t computed = 0;
  int prompts = 0;
  int finishes = 0;
  moba_status status = -1;
  std::string message;
  std::vector<int32_t> output_ids;
  size_t stop_after = 1000;
  std::string nested;

  moba_callbacks callbacks() {
    moba_callbacks c = moba_callbacks_init();
    c.user_data = this;
    c.on_token = [](void* self, const moba_token* token) {
      auto& seen = *static_cast<Seen*>(self);
      seen.ids.push_back(token->token_id);
      seen.text.append(token->text, token->text_length);
      return seen.ids.size() < seen.stop_after;
    };
    c.on_prompt = [](void* self, int64_t num_computed, int64_t) {
      auto& seen = *static_cast<Seen*>(self);
      seen.computed = num_computed;
      ++seen.prompts;
      if (seen.engine != nullptr) {
        moba_output* output = nullptr;
        // No assertions here: the test framework is for one thread, and this is the engine's.
        const auto refusal = [](moba_status how) {
          return std::string(how == MOBA_INVALID_ARGUMENT ? moba_last_error() : "not refused");
        };
        seen.nested = refusal(moba_generate(seen.engine, seen.request, nullptr, &output));
        seen.nested += refusal(moba_engine_destroy(seen.engine));
      }
      return true;
    };
    c.on_finish = [](void* self, moba_status how, const char* why, const moba_output* output) {
      auto& seen = *static_cast<Seen*>(self);
      ++seen.finishes;
      seen.status = how;
      seen.message = why;
      const int32_t* given = nullptr;
      size_t count = 0;
      if (output != nullptr && moba_output_token_ids(output, 0, &given, &count) == MOBA_OK) {
        seen.output_ids.assign(given, given + count);
      }
    };
    return c;
  }
};

TEST_CASE("callbacks of C are called with their data", "[c_api]") {
  const CEngine engine = make_c_engine();
  const CRequest request =
      make_c_request(engine, {1, 318, 1247}, R"({"max_tokens": 8, "ignore_eos": true})");
  Seen seen;
  seen.engine = engine;
  seen.request = request;
  moba_callbacks callbacks = seen.callbacks();
  Output output;
  ok(moba_generate(engine, request, &callbacks, output.out()));
  CHECK(seen.ids == ids_of(output));
  CHECK(seen.text == text_of(output));
  CHECK(seen.computed == 3);
  CHECK(seen.prompts == 1);
  CHECK(seen.finishes == 1);
  CHECK(seen.status == MOBA_OK);
  CHECK(seen.output_ids == seen.ids);
  CHECK_THAT(seen.nested, Contains("callback") && Contains("destroyed"));

  Seen stopped;
  stopped.stop_after = 3;
  callbacks = stopped.callbacks();
  Output short_output;
  ok(moba_generate(engine, request, &callbacks, short_output.out()));
  CHECK(stopped.ids.size() == 3);
  int32_t reason = 0;
  ok(moba_output_finish_reason(short_output, 0, &reason));
  CHECK(reason == MOBA_FINISH_CANCELLED);

  // Callbacks alone, no handle; and a struct that ends before on_finish.
  Seen alone;
  callbacks = alone.callbacks();
  ok(moba_submit(engine, request, &callbacks, nullptr));
  Seen unfinished;
  callbacks = unfinished.callbacks();
  callbacks.struct_size = offsetof(moba_callbacks, on_finish);
  Handle handle;
  ok(moba_submit(engine, request, &callbacks, handle.out()));
  ok(moba_handle_wait(handle, -1, nullptr));
  CHECK(unfinished.ids.size() == 8);
  CHECK(unfinished.finishes == 0);
  Handle last;
  ok(moba_submit(engine, request, nullptr, last.out()));
  ok(moba_handle_wait(last, -1, nullptr));
  CHECK(alone.finishes == 1);
  CHECK(alone.ids == seen.ids);
}

TEST_CASE("an exception of a callback fails its request and nothing else", "[c_api]") {
  const CEngine engine = make_c_engine();
  const CRequest request = make_c_request(engine, {1, 318}, R"({"max_tokens": 8})");
  moba_callbacks callbacks = moba_callbacks_init();
  callbacks.on_token = [](void*, const moba_token*) -> bool { throw std::runtime_error("no"); };
  Output output;
  CHECK_THAT(refused(moba_generate(engine, request, &callbacks, output.out()), MOBA_INTERNAL),
             Contains("a callback threw: no"));
  ok(moba_generate(engine, request, nullptr, output.out()));
}

TEST_CASE("handles of C wait, tell and cancel", "[c_api]") {
  CEngine engine = make_c_engine(R"({"max_num_seqs": 1, "max_num_queued": 1})");
  const CRequest longer =
      make_c_request(engine, {1, 318}, R"({"max_tokens": 2000, "ignore_eos": true})");
  Handle first;
  Handle second;
  ok(moba_submit(engine, longer, nullptr, first.out()));
  ok(moba_submit(engine, longer, nullptr, second.out()));
  moba_handle* third = nullptr;
  CHECK_THAT(refused(moba_submit(engine, longer, nullptr, &third), MOBA_RESOURCE_EXHAUSTED),
             Contains("queue is full"));
  CHECK(third == nullptr);
  int64_t first_id = 0;
  int64_t second_id = 0;
  ok(moba_handle_id(first, &first_id));
  ok(moba_handle_id(second, &second_id));
  CHECK(first_id < second_id);
  CHECK(moba_handle_wait(first, 0.01, nullptr) == MOBA_TIMEOUT);
  CHECK(moba_handle_wait(first, 0, nullptr) == MOBA_TIMEOUT);
  CHECK_THAT(refused(moba_handle_wait(first, std::nan(""), nullptr)), Contains("NaN"));
  ok(moba_handle_cancel(first));
  Output output;
  ok(moba_handle_wait(first, -1, output.out()));
  bool done = false;
  ok(moba_handle_done(first, &done));
  CHECK(done);
  int32_t reason = 0;
  ok(moba_output_finish_reason(output, 0, &reason));
  CHECK(reason == MOBA_FINISH_CANCELLED);
  moba_stats stats = moba_stats_init();
  ok(moba_engine_stats(engine, &stats));
  CHECK(stats.num_finished == 1);
  CHECK(stats.num_cancelled == 1);
  CHECK(stats.num_refused == 1);
  moba_latency latency = moba_latency_init();
  ok(moba_engine_latency(engine, MOBA_LATENCY_STEP_TIME, &latency));
  CHECK(latency.count > 0);
  CHECK(latency.p50_seconds > 0);
  CHECK(latency.p50_seconds <= latency.p99_seconds);
  CHECK_THAT(refused(moba_engine_latency(engine, 5, &latency)), Contains("5"));

  // The engine goes first; its request ends as cancelled, and the handle still knows.
  { const CEngine gone = std::move(engine); }
  Output after;
  ok(moba_handle_wait(second, 0, after.out()));
  ok(moba_output_finish_reason(after, 0, &reason));
  CHECK(reason == MOBA_FINISH_CANCELLED);
  ok(moba_handle_cancel(second));
}

TEST_CASE("streams of C give tokens, their end, and take time limits", "[c_api]") {
  const CEngine engine = make_c_engine();
  const CRequest request = make_c_request(
      engine, {1, 318, 1247}, R"({"max_tokens": 10, "ignore_eos": true, "logprobs": 2})");
  Stream stream;
  ok(moba_stream_create(engine, request, stream.out()));
  std::vector<int32_t> ids;
  std::string text;
  const moba_token* token = nullptr;
  moba_status status = MOBA_OK;
  while ((status = moba_stream_next(stream, ids.size() % 2 == 0 ? -1 : 30, &token)) == MOBA_OK) {
    ids.push_back(token->token_id);
    text.append(token->text, token->text_length);
    REQUIRE(token->logprob != nullptr);
    CHECK(token->logprob->num_top == 2);
    CHECK(token->logprob->token_id == token->token_id);
    CHECK(token->sample == 0);
  }
  CHECK(status == MOBA_END);
  Output output;
  ok(moba_stream_wait(stream, -1, output.out()));
  CHECK(ids_of(output) == ids);
  CHECK(text_of(output) == text);

  const CRequest longer =
      make_c_request(engine, {1, 318}, R"({"max_tokens": 2000, "ignore_eos": true})");
  Stream cancelled;
  ok(moba_stream_create(engine, longer, cancelled.out()));
  ok(moba_stream_next(cancelled, -1, &token));
  CHECK(moba_stream_wait(cancelled, 0, nullptr) == MOBA_TIMEOUT);
  ok(moba_stream_cancel(cancelled));
  while (moba_stream_next(cancelled, -1, &token) == MOBA_OK) {
  }
  ok(moba_stream_wait(cancelled, -1, nullptr));
  CHECK_THAT(refused(moba_stream_next(cancelled, std::nan(""), &token)), Contains("NaN"));
}

}  // namespace
}  // namespace moba
