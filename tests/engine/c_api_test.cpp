// The C interface, from C++ for the comforts of a test framework; c_api_test.c is its use from C
// and c_run_test.cpp runs requests.
#include <cstddef>
#include <limits>
#include <nlohmann/json.hpp>
#include <thread>

#include "engine/c_api/c_status.h"
#include "moba/chat_template.h"
#include "moba/inspect.h"
#include "moba/settings.h"
#include "tests/engine/c_test_util.h"
#include "tests/engine/engine_test_util.h"

namespace moba {
namespace {

using namespace test_c;  // NOLINT(google-build-using-namespace)

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
  const char* const template_file = MOBA_TEST_DATA_DIR "/chat/chatml.jinja";
  CChatTemplate chat;
  ok(moba_chat_template_open_file(template_file, tokenizer, chat.out()));
  const std::vector<std::pair<moba_status, const char*>> calls = {
      {moba_chat_template_open(nullptr, tokenizer, chat.out()), "dir"},
      {moba_chat_template_open("x", nullptr, chat.out()), "tokenizer"},
      {moba_chat_template_open("x", tokenizer, nullptr), "out"},
      {moba_chat_template_open_file(nullptr, tokenizer, chat.out()), "path"},
      {moba_chat_template_encode(nullptr, "[]", 2, nullptr, &ids, &size), "chat_template"},
      {moba_chat_template_encode(chat, nullptr, 2, nullptr, &ids, &size), "messages"},
      {moba_chat_template_encode(chat, "[]", 2, nullptr, nullptr, &size), "ids"},
      {moba_chat_template_encode(chat, "[]", 2, nullptr, &ids, nullptr), "num_ids"},
      {moba_chat_template_render(chat, "[]", 2, nullptr, nullptr, nullptr), "text"},
      {moba_run_rank(nullptr), "config"},
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

TEST_CASE("a conversation becomes a prompt in C", "[c_api]") {
  CTokenizer tokenizer;
  ok(moba_tokenizer_open(embedded_dir().c_str(), tokenizer.out()));
  CChatTemplate chat;
  // The embedded model has no template.
  CHECK_THAT(refused(moba_chat_template_open(embedded_dir().c_str(), tokenizer, chat.out())),
             Contains("no chat template"));
  const std::string path = MOBA_TEST_DATA_DIR "/chat/chatml.jinja";
  ok(moba_chat_template_open_file(path.c_str(), tokenizer, chat.out()));
  const std::string messages = R"([{"role": "user", "content": "Hi </s>"}])";
  const auto same_tokenizer = TokenizerHandle::open(embedded_dir());
  const auto same = ChatTemplateHandle::open_file(path, same_tokenizer.value());

  char* text = nullptr;
  size_t length = 0;
  ok(moba_chat_template_render(chat, messages.data(), messages.size(), nullptr, &text, &length));
  CHECK(length == same.value().render(messages).value().size());
  CHECK(taken(text) == same.value().render(messages).value());
  int32_t* ids = nullptr;
  size_t size = 0;
  ok(moba_chat_template_encode(chat, messages.c_str(), MOBA_STRLEN, nullptr, &ids, &size));
  CHECK(std::vector<int32_t>(ids, ids + size) == same.value().encode(messages).value());
  moba_free(ids);

  moba_chat_options options = moba_chat_options_init();
  options.add_generation_prompt = false;
  ok(moba_chat_template_render(chat, messages.c_str(), MOBA_STRLEN, &options, &text, nullptr));
  const std::string closed = taken(text);
  CHECK(closed.size() < length);
  // A caller who knows only the first fields gets the others' zero.
  moba_chat_options shorter = moba_chat_options_init();
  shorter.struct_size = offsetof(moba_chat_options, add_generation_prompt);
  ok(moba_chat_template_render(chat, messages.c_str(), MOBA_STRLEN, &shorter, &text, nullptr));
  CHECK(taken(text) == closed);
  shorter.struct_size = 1;
  CHECK_THAT(refused(moba_chat_template_render(chat, messages.c_str(), MOBA_STRLEN, &shorter, &text,
                                               nullptr)),
             Contains("struct_size"));
  options.variables = "[";
  CHECK_FALSE(refused(moba_chat_template_render(chat, messages.c_str(), MOBA_STRLEN, &options,
                                                &text, nullptr))
                  .empty());
  CHECK_FALSE(
      refused(moba_chat_template_encode(chat, "{", MOBA_STRLEN, nullptr, &ids, &size)).empty());
  CHECK_THAT(refused(moba_chat_template_open_file("/no/such/file", tokenizer, chat.out())),
             Contains("/no/such/file"));
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
  CHECK(info.device == expected.device);
  CHECK(info.device_name == expected.device_name);
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
  CHECK(info.tensor_parallel_size == expected.tensor_parallel_size);
  CHECK(info.tensor_parallel_size == 1);
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
