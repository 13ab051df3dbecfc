// Settings by name: configurations and the fields of requests.
#include "moba/settings.h"

#include <cmath>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "tests/catch.h"
#include "tests/model/temp_files.h"

namespace moba {
namespace {

using Json = nlohmann::json;

std::string refusal(const std::string& json) {
  Configuration configuration;
  const Status status = configuration.add_json(json, "c");
  CHECK(configuration.values().empty());
  if (status.ok()) return "accepted";
  CHECK(status.code() == StatusCode::kInvalidArgument);
  return status.message();
}

TEST_CASE("a configuration sets an engine and sampling, later ones win", "[settings]") {
  Configuration configuration;
  REQUIRE(configuration
              .add_json(R"({
    // comments are allowed
    "description": "mine", "model": "m", "num_threads": 3,
    "attention": {"mode": "moba", "moba_topk": 4, "full_attention_layers": [0, 8]},
    "cache": {"memory_bytes": "1.5GiB", "enable_prefix_caching": false},
    "scheduler": {"max_num_seqs": 4, "long_prefill_token_threshold": 7},
    "sampling": {"temperature": 0.5, "stop": "x", "logit_bias": {"5": "-inf", "6": 1}}
  })")
              .ok());
  REQUIRE(configuration.set("moba_topk", "5").ok());
  REQUIRE(configuration.set("scheduler.max_num_seqs", "9").ok());
  REQUIRE(configuration.set_text("attention.mode", "full").ok());
  REQUIRE(configuration.set("top_k", "11").ok());
  REQUIRE(configuration.set_text("model", "caf\xE9").ok());

  EngineConfig base;
  base.max_model_len = 77;
  const EngineConfig engine = configuration.engine(base);
  CHECK(engine.max_model_len == 77);
  CHECK(engine.model == "caf\xE9");
  CHECK(engine.num_threads == 3);
  CHECK(engine.attention.mode == AttentionMode::kFull);
  CHECK(engine.attention.moba_topk == 5);
  CHECK(engine.attention.full_attention_layers == "0,8");
  CHECK(engine.cache.memory_bytes == 3LL << 29);
  CHECK_FALSE(engine.cache.enable_prefix_caching);
  CHECK(engine.scheduler.max_num_seqs == 9);
  CHECK(engine.scheduler.long_prefill_token_threshold == 7);

  SamplingParams sampling_base;
  sampling_base.top_p = 0.25F;
  const SamplingParams sampling = configuration.sampling(sampling_base);
  CHECK(sampling.top_p == 0.25F);
  CHECK(sampling.temperature == 0.5F);
  CHECK(sampling.top_k == 11);
  CHECK(sampling.stop == std::vector<std::string>{"x"});
  CHECK(std::isinf(sampling.logit_bias.at(5)));
  CHECK(sampling.logit_bias.at(6) == 1.0F);

  // What is written is read back as the same.
  Configuration again;
  EngineConfig written = engine;
  written.model = "m";
  REQUIRE(again.add_json(to_json(written)).ok());
  REQUIRE(again.add_json(to_json(sampling)).ok());
  CHECK(to_json(again.engine()) == to_json(written));
  CHECK(to_json(again.sampling()) == to_json(sampling));
}

TEST_CASE("a configuration that is wrong is refused as a whole, by key", "[settings]") {
  CHECK(refusal(R"({"threads": 2, "temperatur": 1})") ==
        "c: unknown key \"temperatur\", did you mean \"temperature\"?");
  CHECK(refusal(R"({"attention": {"temperature": 1}})")
            .rfind("c: unknown key \"attention.temperature\"", 0) == 0);
  CHECK(refusal(R"({"threads": "two"})") == "c: threads: expected an integer, got \"two\"");
  CHECK(refusal(R"({"attention": {"mode": "sparse"}})") ==
        "c: attention.mode: expected one of auto, full, moba, got \"sparse\"");
  CHECK(refusal(R"({"top_k": 1, "top_k": 2})") == "c: key \"top_k\" stands twice");
  CHECK(refusal(R"({"threads": 1, "num_threads": 2})") == "c: threads is given twice");
  CHECK(refusal("[1]") == "c: expected a JSON object of settings");
  CHECK(refusal("{\n\"top_k\": 1,\n}") == "c: not JSON at line 3");
  CHECK(refusal(std::string("{}\0", 3)) == "c: not JSON at line 1");
  CHECK(refusal(R"({"model": "\xff"})").rfind("c: not JSON", 0) == 0);
  CHECK(refusal("{\"temperature\": 1e999}").rfind("c: not JSON", 0) == 0);
  CHECK(refusal(std::string(2 << 20, ' ')).find("more than the 1048576") != std::string::npos);
  CHECK(refusal("{\"model\": " + std::string(100, '[') + std::string(100, ']') + "}")
            .find("nested deeper") != std::string::npos);
  for (const char* token : {"-1", "x", "", "1e3", "99999999999"}) {
    CAPTURE(token);
    CHECK(refusal(R"({"logit_bias": {")" + std::string(token) + R"(": 1}})")
              .find("expected a token id") != std::string::npos);
  }

  Configuration configuration;
  CHECK(configuration.set("moba_topk", "\"x\"").message() ==
        "moba_topk: expected an integer, got \"x\"");
  CHECK(configuration.set("moba_topk", "\"x\"", "--moba-topk").message() ==
        "--moba-topk: expected an integer, got \"x\"");
  CHECK(configuration.set("nothing.like.it", "1").message().rfind("unknown key", 0) == 0);
  CHECK_FALSE(configuration.set("moba_topk", "").ok());
  CHECK(
      configuration.add_file("/no/such/file.json").message().find("/no/such/file.json: No such") ==
      0);
  CHECK(configuration.add_file("/").message().rfind("/: ", 0) == 0);
  CHECK(configuration.values().empty());
}

TEST_CASE("a configuration file is read, and named in refusals", "[settings]") {
  const test::TempDir dir;
  Configuration configuration;
  const std::string good = dir.write("a.json", R"({"threads": 2})").string();
  REQUIRE(configuration.add_file(good).ok());
  REQUIRE(configuration.values().size() == 1);
  CHECK(configuration.values()[0].key == "threads");
  CHECK(configuration.values()[0].origin == good + ": threads");
  CHECK_FALSE(configuration.values()[0].sampling);
  const std::string bad = dir.write("b.json", R"({"threads": 2.5})").string();
  CHECK(configuration.add_file(bad).message() == bad + ": threads: expected an integer, got 2.5");
  CHECK_FALSE(configuration.add_file(dir.write("c.json", "").string()).ok());
}

TEST_CASE("the fields of a request by name", "[settings]") {
  Request request;
  REQUIRE(set_request_fields(request, R"({
    "prompt": "p", "prompt_ids": [1, 2], "parse_special_tokens": true, "n": 3,
    "attention": "full", "moba_topk": 2, "full_attention_layers": "last:1",
    "decode_attention": "full", "cache_salt": "s", "priority": -4, "timeout_seconds": 1.5,
    "temperature": 0, "max_tokens": 5, "logprobs": 2, "stop": ["a", "b"]
  })")
              .ok());
  CHECK(request.prompt == "p");
  CHECK(request.prompt_ids == std::vector<std::int32_t>{1, 2});
  CHECK(request.parse_special_tokens);
  CHECK(request.sampling.n == 3);
  CHECK(request.attention.mode == AttentionMode::kFull);
  CHECK(request.attention.moba_topk == 2);
  CHECK(request.attention.full_attention_layers == "last:1");
  CHECK(request.attention.decode == DecodeAttention::kFull);
  CHECK(request.cache_salt == "s");
  CHECK(request.priority == -4);
  CHECK(request.timeout_seconds == 1.5);
  CHECK(request.sampling.temperature == 0);
  CHECK(request.sampling.max_tokens == 5);
  CHECK(request.sampling.logprobs == 2);
  CHECK(request.sampling.stop.size() == 2);

  REQUIRE(
      set_request_fields(
          request,
          R"({"attention": null, "timeout_seconds": null, "max_tokens": null, "moba_topk": null})")
          .ok());
  CHECK_FALSE(request.attention.mode.has_value());
  CHECK_FALSE(request.attention.moba_topk.has_value());
  CHECK_FALSE(request.timeout_seconds.has_value());
  CHECK_FALSE(request.sampling.max_tokens.has_value());

  // Refused as a whole.
  CHECK(set_request_fields(request, R"({"priority": 9, "temprature": 1})").message() ==
        "unknown key \"temprature\" of a request, did you mean \"temperature\"?");
  CHECK(request.priority == -4);
  CHECK(set_request_field(request, "prompt_ids", "[1, -2]").message() ==
        "prompt_ids: token id -2 is out of range");
  CHECK(set_request_field(request, "prompt_ids", "3").message() ==
        "prompt_ids: expected a list of token ids, got 3");
  CHECK(set_request_field(request, "max_num_seqs", "3").message().rfind("unknown key", 0) == 0);
  CHECK(set_request_fields(request, "3").message() == "request: expected a JSON object of fields");
}

TEST_CASE("sizes in bytes are read in any locale", "[settings]") {
  CHECK(parse_size("1.5 gib").value() == 3LL << 29);
  CHECK(parse_size("512MB").value() == 512'000'000);
  for (const char* text : {"", "x", "1.5.5", "-1", "1 XiB", "1Ki", "M", "1e5", "9999999T", "inf"}) {
    CAPTURE(text);
    CHECK_FALSE(parse_size(text).ok());
  }
}

TEST_CASE("the presets are configurations", "[settings]") {
  int count = 0;
  for (const auto& entry :
       std::filesystem::directory_iterator(std::string(MOBA_SOURCE_DIR) + "/configs")) {
    if (entry.path().extension() != ".json") continue;
    Configuration configuration;
    CAPTURE(entry.path().string());
    CHECK(configuration.add_file(entry.path().string()).ok());
    ++count;
  }
  CHECK(count >= 3);
}

}  // namespace
}  // namespace moba
