// The C interface, from C++ for the comforts of a test framework; c_api_test.c is its use from C.
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <nlohmann/json.hpp>
#include <thread>

#include "engine/c_api/c_status.h"
#include "moba/inspect.h"
#include "moba/moba.h"
#include "moba/settings.h"
#include "tests/engine/embedded_engine.h"
#include "tests/engine/engine_test_util.h"

namespace moba {
namespace {

using test::embedded_dir;

// An object of the interface and its end.
template <typename T, auto Destroy>
struct Owned {
  T* object = nullptr;
  Owned() = default;
  Owned(Owned&& other) noexcept : object(std::exchange(other.object, nullptr)) {}
  Owned& operator=(Owned&& other) = delete;
  ~Owned() { Destroy(object); }
  T** out() { return &object; }
  operator T*() const { return object; }  // NOLINT(google-explicit-constructor)
};
using Config = Owned<moba_config, moba_config_destroy>;
using CEngine = Owned<moba_engine, moba_engine_destroy>;
using CTokenizer = Owned<moba_tokenizer, moba_tokenizer_destroy>;
using CRequest = Owned<moba_request, moba_request_destroy>;
using Output = Owned<moba_output, moba_output_destroy>;
using Handle = Owned<moba_handle, moba_handle_destroy>;
using Stream = Owned<moba_stream, moba_stream_destroy>;

std::string taken(char* text) {
  std::string copy = text;
  moba_free(text);
  return copy;
}

void ok(moba_status status) {
  INFO(moba_last_error());
  REQUIRE(status == MOBA_OK);
}

// The message of a call that must be refused with that status.
std::string refused(moba_status status, moba_status expected = MOBA_INVALID_ARGUMENT) {
  CHECK(status == expected);
  return moba_last_error();
}

Config embedded_config(const char* more = "{}") {
  Config config;
  ok(moba_config_create(config.out()));
  ok(moba_config_set_string(config, "model", embedded_dir().c_str()));
  ok(moba_config_set_string(config, "dtype", "float32"));
  ok(moba_config_set_int(config, "max_model_len", 2048));
  ok(moba_config_add_json(config, more));
  return config;
}

CEngine make_c_engine(const char* more = "{}") {
  CEngine engine;
  ok(moba_engine_create(embedded_config(more), engine.out()));
  return engine;
}

CRequest make_c_request(const moba_engine* engine, const std::vector<int32_t>& ids,
                        const char* fields) {
  CRequest request;
  ok(moba_request_create(engine, request.out()));
  ok(moba_request_set_prompt_ids(request, ids.data(), ids.size()));
  ok(moba_request_add_json(request, fields));
  return request;
}

std::vector<int32_t> ids_of(const moba_output* output, size_t sample = 0) {
  const int32_t* ids = nullptr;
  size_t count = 0;
  ok(moba_output_token_ids(output, sample, &ids, &count));
  return {ids, ids + count};
}

std::string text_of(const moba_output* output, size_t sample = 0) {
  const char* text = nullptr;
  size_t length = 0;
  ok(moba_output_text(output, sample, &text, &length));
  CHECK(std::strlen(text) == length);
  return text;
}

TEST_CASE("null is refused by name", "[c_api]") {
  const CEngine engine = make_c_engine();
  CRequest request;
  ok(moba_request_create(nullptr, request.out()));
  CTokenizer tokenizer;
  ok(moba_engine_tokenizer(engine, tokenizer.out()));
  const Config config = embedded_config();
  moba_config* null_config = nullptr;
  int32_t* ids = nullptr;
  size_t size = 0;
  char* text = nullptr;
  moba_output* output = nullptr;
  const std::vector<std::pair<moba_status, const char*>> calls = {
      {moba_config_create(nullptr), "out"},
      {moba_config_set_string(null_config, "a", "b"), "config"},
      {moba_config_set_string(config, nullptr, "b"), "key"},
      {moba_config_set_string(config, "a", nullptr), "value"},
      {moba_config_set_int(null_config, "a", 1), "config"},
      {moba_config_set_double(null_config, "a", 1), "config"},
      {moba_config_set_bool(config, nullptr, true), "key"},
      {moba_config_set_json(config, "a", nullptr), "value"},
      {moba_config_add_json(config, nullptr), "json"},
      {moba_config_add_file(config, nullptr), "path"},
      {moba_config_to_json(config, nullptr), "out"},
      {moba_tokenizer_open(nullptr, nullptr), "dir"},
      {moba_tokenizer_open("x", nullptr), "out"},
      {moba_tokenize(nullptr, "a", 1, true, true, &ids, &size), "tokenizer"},
      {moba_tokenize(tokenizer, nullptr, 1, true, true, &ids, &size), "text"},
      {moba_tokenize(tokenizer, "a", 1, true, true, nullptr, &size), "ids"},
      {moba_tokenize(tokenizer, "a", 1, true, true, &ids, nullptr), "num_ids"},
      {moba_detokenize(tokenizer, nullptr, 1, true, &text, nullptr), "ids"},
      {moba_detokenize(tokenizer, ids, 0, true, nullptr, nullptr), "text"},
      {moba_token_bytes(tokenizer, 5, nullptr, nullptr), "bytes"},
      {moba_token_name(tokenizer, 5, nullptr), "name"},
      {moba_vocab_size(tokenizer, nullptr), "size"},
      {moba_bos_id(nullptr, nullptr), "tokenizer"},
      {moba_eos_id(tokenizer, nullptr), "id"},
      {moba_engine_create(nullptr, nullptr), "config"},
      {moba_engine_create(config, nullptr), "out"},
      {moba_engine_tokenizer(nullptr, nullptr), "engine"},
      {moba_engine_info(engine, nullptr), "info"},
      {moba_engine_stats(engine, nullptr), "stats"},
      {moba_engine_latency(engine, MOBA_LATENCY_STEP_TIME, nullptr), "latency"},
      {moba_inspect_checkpoint(nullptr, nullptr, nullptr), "dir"},
      {moba_inspect_checkpoint("x", nullptr, nullptr), "json"},
      {moba_request_create(engine, nullptr), "out"},
      {moba_request_set_prompt(nullptr, "a", 1), "request"},
      {moba_request_set_prompt(request, nullptr, 1), "text"},
      {moba_request_set_prompt_ids(request, nullptr, 1), "ids"},
      {moba_request_set_string(request, "stop", nullptr), "value"},
      {moba_request_set_int(request, nullptr, 1), "key"},
      {moba_request_set_double(nullptr, "a", 1), "request"},
      {moba_request_set_bool(nullptr, "a", true), "request"},
      {moba_request_set_json(request, "a", nullptr), "value"},
      {moba_request_add_json(request, nullptr), "json"},
      {moba_request_add_stop(request, nullptr, 2), "text"},
      {moba_request_add_stop_token(nullptr, 2), "request"},
      {moba_request_set_logit_bias(nullptr, 2, 1), "request"},
      {moba_request_use_config(request, nullptr), "config"},
      {moba_output_num_samples(nullptr, &size), "output"},
      {moba_output_text(nullptr, 0, nullptr, nullptr), "text"},
      {moba_output_token_ids(nullptr, 0, nullptr, nullptr), "ids"},
      {moba_output_finish_reason(nullptr, 0, nullptr), "reason"},
      {moba_output_stop_reason(nullptr, 0, nullptr), "reason"},
      {moba_output_num_logprobs(nullptr, 0, &size), "output"},
      {moba_output_logprob(nullptr, 0, 0, nullptr), "output"},
      {moba_output_prompt_ids(nullptr, nullptr, nullptr), "output"},
      {moba_output_num_prompt_logprobs(nullptr, &size), "output"},
      {moba_output_prompt_logprob(nullptr, 0, nullptr), "output"},
      {moba_output_metrics(nullptr, nullptr), "output"},
      {moba_generate(nullptr, request, nullptr, &output), "engine"},
      {moba_generate(engine, nullptr, nullptr, &output), "request"},
      {moba_generate(engine, request, nullptr, nullptr), "out"},
      {moba_submit(engine, request, nullptr, nullptr), "out"},
      {moba_handle_id(nullptr, nullptr), "handle"},
      {moba_handle_cancel(nullptr), "handle"},
      {moba_handle_done(nullptr, nullptr), "handle"},
      {moba_handle_wait(nullptr, 0, nullptr), "handle"},
      {moba_stream_create(engine, request, nullptr), "out"},
      {moba_stream_next(nullptr, 0, nullptr), "stream"},
      {moba_stream_cancel(nullptr), "stream"},
      {moba_stream_wait(nullptr, 0, nullptr), "stream"},
  };
  for (const auto& [status, name] : calls) {
    CAPTURE(name);
    CHECK(status == MOBA_INVALID_ARGUMENT);
  }
  CHECK(refused(moba_engine_info(nullptr, nullptr)) == "engine is null");
  CHECK(refused(moba_handle_id(nullptr, nullptr)) == "handle is null");
  // Nothing to destroy is fine.
  moba_config_destroy(nullptr);
  moba_tokenizer_destroy(nullptr);
  CHECK(moba_engine_destroy(nullptr) == MOBA_OK);
  moba_request_destroy(nullptr);
  moba_output_destroy(nullptr);
  moba_handle_destroy(nullptr);
  moba_stream_destroy(nullptr);
  moba_free(nullptr);
}

TEST_CASE("configurations are set by name and type", "[c_api]") {
  const Config config = embedded_config(R"({"attention": {"moba_topk": 3}})");
  ok(moba_config_set_bool(config, "enable_prefix_caching", false));
  ok(moba_config_set_json(config, "full_attention_layers", "[1, 2]"));
  ok(moba_config_set_double(config, "temperature", 0.25));
  char* json = nullptr;
  ok(moba_config_to_json(config, &json));
  const auto settings = nlohmann::json::parse(taken(json));
  CHECK(settings.at("model") == embedded_dir());
  CHECK(settings.at("moba_topk") == 3);
  CHECK(settings.at("enable_prefix_caching") == false);
  CHECK(settings.at("full_attention_layers") == "1,2");

  CHECK_THAT(refused(moba_config_set_int(config, "modle", 3)),
             Contains("unknown key \"modle\", did you mean \"model\"?"));
  CHECK_THAT(refused(moba_config_set_int(config, "model", 3)), Contains("expected a string"));
  CHECK_THAT(
      refused(moba_config_set_double(config, "top_p", std::numeric_limits<double>::quiet_NaN())),
      Contains("finite"));
  CHECK_THAT(refused(moba_config_add_json(config, "{")), Contains("not JSON"));
  CHECK_THAT(refused(moba_config_add_file(config, "/no/such/file")), Contains("/no/such/file"));
  ok(moba_config_add_file(config, (std::string(MOBA_SOURCE_DIR) + "/configs/story.json").c_str()));

  ok(moba_config_set_string(config, "model", "/no/such/dir"));
  moba_engine* engine = nullptr;
  CHECK_THAT(refused(moba_engine_create(config, &engine), MOBA_INVALID_CHECKPOINT),
             Contains("/no/such/dir"));
  CHECK(engine == nullptr);
}

TEST_CASE("each thread has its own last error", "[c_api]") {
  CHECK_FALSE(refused(moba_handle_id(nullptr, nullptr)).empty());
  std::string elsewhere = "none";
  std::string after;
  std::thread([&] {
    elsewhere = moba_last_error();
    moba_engine_info(nullptr, nullptr);
    after = moba_last_error();
  }).join();
  CHECK(elsewhere.empty());
  CHECK(after == "engine is null");
  CHECK(std::string(moba_last_error()) == "handle is null");
}

TEST_CASE("texts become tokens and back in C", "[c_api]") {
  CTokenizer tokenizer;
  ok(moba_tokenizer_open(embedded_dir().c_str(), tokenizer.out()));
  const auto same = TokenizerHandle::open(embedded_dir());
  const std::string text("Caf\xC3\xA9\0!", 7);
  int32_t* ids = nullptr;
  size_t size = 0;
  ok(moba_tokenize(tokenizer, text.data(), text.size(), true, false, &ids, &size));
  const std::vector<int32_t> all(ids, ids + size);
  CHECK(all == same.value().encode(text).value());
  char* back = nullptr;
  size_t length = 0;
  ok(moba_detokenize(tokenizer, ids, size, true, &back, &length));
  CHECK(std::string(back, length) == same.value().decode(all).value());
  moba_free(back);
  ok(moba_token_name(tokenizer, ids[0], &back));
  CHECK(taken(back) == "<s>");
  moba_free(ids);
  ok(moba_tokenize(tokenizer, "", MOBA_STRLEN, false, false, &ids, &size));
  CHECK(size == 0);
  moba_free(ids);
  ok(moba_tokenize(tokenizer, "</s>", MOBA_STRLEN, false, true, &ids, &size));
  int32_t eos = 0;
  ok(moba_eos_id(tokenizer, &eos));
  CHECK((size == 1 && ids[0] == eos));
  moba_free(ids);
  int32_t vocab_size = 0;
  ok(moba_vocab_size(tokenizer, &vocab_size));
  CHECK(vocab_size == 8192);
  CHECK_THAT(refused(moba_token_name(tokenizer, vocab_size, &back)), Contains("8192"));
  ok(moba_token_bytes(tokenizer, eos, &back, &length));
  CHECK(taken(back) == "</s>");
  CHECK(length == 4);
  CHECK_THAT(refused(moba_tokenizer_open("/no/such/dir", tokenizer.out()), MOBA_INVALID_CHECKPOINT),
             Contains("/no/such/dir"));
}

TEST_CASE("the fields of C are the fields of C++", "[c_api]") {
  // A field that is added to one of these makes this not compile: give it to moba.h as well, at
  // the end of the struct, and to docs/library.md.
  [[maybe_unused]] const auto& [m1, m2, m3, m4, m5, m6, m7, m8] = RequestMetrics{};
  // Given by name: engine/setting_table.cpp and engine/request_fields.cpp.
  const Request request;
  [[maybe_unused]] const auto& [r1, r2, r3, r4, r5, r6, r7, r8] = request;
  [[maybe_unused]] const auto& [a1, a2, a3, a4] = request.attention;
  [[maybe_unused]] const auto& [p1, p2, p3, p4, p5, p6, p7, p8, p9, p10, p11, p12, p13, p14, p15,
                                p16, p17, p18, p19] = request.sampling;
  CHECK(nlohmann::json::parse(to_json(request.sampling)).size() + 1 == 19);  // n is a request's

  const CEngine engine = make_c_engine();
  const auto same = test::make_engine();
  moba_info info = moba_info_init();
  ok(moba_engine_info(engine, &info));
  const EngineInfo& expected = same->info();
  CHECK(info.architecture == expected.architecture);
  CHECK(info.dtype == expected.dtype);
  CHECK(info.cpu_isa == expected.cpu_isa);
  CHECK(info.num_threads == expected.num_threads);
  CHECK(std::vector<int>(info.layer_topk, info.layer_topk + info.num_layers) ==
        expected.layer_topk);
  CHECK(info.moba_block_size == expected.moba_block_size);
  CHECK(info.block_size == expected.block_size);
  CHECK(info.vocab_size == expected.vocab_size);
  CHECK(info.max_model_len == expected.max_model_len);
  CHECK(info.num_pages == expected.num_pages);
  CHECK(info.weight_bytes == expected.weight_bytes);
  CHECK(info.kv_cache_bytes == expected.kv_cache_bytes);
  CHECK(info.kv_bytes_per_token == expected.kv_bytes_per_token);
  CHECK(info.workspace_bytes == expected.workspace_bytes);
}

TEST_CASE("structs of other versions are filled as far as they go", "[c_api]") {
  const CEngine engine = make_c_engine();
  struct {
    moba_stats stats;
    int64_t more[2];
  } longer = {moba_stats_init(), {7, 7}};
  longer.stats.struct_size = sizeof(longer);
  ok(moba_engine_stats(engine, &longer.stats));
  CHECK(longer.stats.struct_size == sizeof(longer));
  CHECK(longer.more[0] == 0);
  CHECK(longer.more[1] == 0);

  moba_info shorter = moba_info_init();
  shorter.struct_size = offsetof(moba_info, num_layers);
  shorter.num_layers = -3;
  ok(moba_engine_info(engine, &shorter));
  CHECK(shorter.num_threads > 0);
  CHECK(shorter.num_layers == -3);

  for (const size_t size : {size_t{0}, size_t{8}, size_t{1} << 40}) {
    moba_stats wrong = moba_stats_init();
    wrong.struct_size = size;
    CHECK_THAT(refused(moba_engine_stats(engine, &wrong)), Contains("struct_size"));
    moba_callbacks callbacks = moba_callbacks_init();
    callbacks.struct_size = size;
    moba_output* output = nullptr;
    const CRequest request = make_c_request(engine, {1}, "{}");
    CHECK_THAT(refused(moba_generate(engine, request, &callbacks, &output)),
               Contains("struct_size"));
  }
}

TEST_CASE("inspection in C has the fields of C++", "[c_api]") {
  CheckpointInfo plain;
  [[maybe_unused]] const auto& [c1, c2, c3, c4, c5, c6, c7, c8, c9, c10, c11, c12, c13, c14, c15,
                                c16, c17, c18, c19] = plain;
  char* json = nullptr;
  Config full;
  ok(moba_config_create(full.out()));
  ok(moba_config_set_string(full, "attention", "full"));
  ok(moba_inspect_checkpoint(embedded_dir().c_str(), full, &json));
  const auto info = nlohmann::json::parse(taken(json));
  CHECK(info.size() == 19);
  CHECK(info.at("num_parameters") == 18882432);
  CHECK(info.at("layer_topk")[0] == 0);
  CHECK(info.at("tensors")[0].at("name") == "model.embed_tokens.weight");
  CHECK_THAT(refused(moba_inspect_checkpoint("/no/dir", nullptr, &json), MOBA_INVALID_CHECKPOINT),
             Contains("/no/dir"));
}

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
        seen.nested = refused(moba_generate(seen.engine, seen.request, nullptr, &output));
        seen.nested += refused(moba_engine_destroy(seen.engine));
      }
      return true;
    };
    c.on_finish = [](void* self, moba_status how, const char* why, const moba_output* output) {
      auto& seen = *static_cast<Seen*>(self);
      ++seen.finishes;
      seen.status = how;
      seen.message = why;
      if (output != nullptr) seen.output_ids = ids_of(output);
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

TEST_CASE("the log and the versions in C", "[c_api]") {
  CHECK(moba_abi_version() == MOBA_ABI_VERSION);
  CHECK(std::string(moba_version()).size() >= 5);
  std::vector<std::string> lines;
  ok(moba_set_log_callback(
      [](void* data, int32_t level, const char* message) {
        static_cast<std::vector<std::string>*>(data)->push_back(std::to_string(level) + message);
      },
      &lines));
  ok(moba_set_log_level(MOBA_LOG_INFO));
  make_c_engine();
  ok(moba_set_log_level(MOBA_LOG_WARNING));
  ok(moba_set_log_callback(nullptr, nullptr));
  REQUIRE_FALSE(lines.empty());
  CHECK(lines[0].rfind("1engine: ", 0) == 0);
  CHECK_THAT(refused(moba_set_log_level(9)), Contains("9"));
}

TEST_CASE("every status has its number in C", "[c_api]") {
  CHECK(c_api::to_c(StatusCode::kOk) == MOBA_OK);
  CHECK(c_api::to_c(StatusCode::kInvalidArgument) == MOBA_INVALID_ARGUMENT);
  CHECK(c_api::to_c(StatusCode::kInvalidCheckpoint) == MOBA_INVALID_CHECKPOINT);
  CHECK(c_api::to_c(StatusCode::kResourceExhausted) == MOBA_RESOURCE_EXHAUSTED);
  CHECK(c_api::to_c(StatusCode::kCancelled) == MOBA_CANCELLED);
  CHECK(c_api::to_c(StatusCode::kInternal) == MOBA_INTERNAL);
  const auto thrown = [](auto value) {
    return c_api::guarded([&]() -> moba_status { throw value; });
  };
  CHECK(refused(thrown(7), MOBA_INTERNAL) == "something was thrown that is no exception");
  CHECK(refused(thrown(std::bad_alloc()), MOBA_RESOURCE_EXHAUSTED) == "out of memory");
  CHECK(refused(thrown(std::runtime_error("x")), MOBA_INTERNAL) == "x");
  CHECK(refused(thrown(Error("y")), MOBA_INVALID_ARGUMENT) == "y");
}

}  // namespace
}  // namespace moba
