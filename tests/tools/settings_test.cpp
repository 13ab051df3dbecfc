#include "tools/moba/settings.h"

#include <filesystem>
#include <set>

#include "tests/catch.h"
#include "tests/tools/process.h"
#include "tools/moba/config_file.h"
#include "tools/moba/errors.h"

namespace moba::cli {
namespace {

using test::repo_path;
using test::TempDir;

Settings load(const std::string& json) {
  const TempDir dir;
  const std::vector<SettingValue> values = load_config_file(dir.write("c.json", json));
  Settings settings;
  apply_settings(values, /*sampling=*/false, settings);
  apply_settings(values, /*sampling=*/true, settings);
  return settings;
}

// What the refusal says after the file's name.
std::string refusal(const std::string& json) {
  const TempDir dir;
  const std::string path = dir.write("c.json", json);
  try {
    load_config_file(path);
  } catch (const CommandError& error) {
    const std::string message = error.what();
    REQUIRE(message.rfind(path + ": ", 0) == 0);
    return message.substr(path.size() + 2);
  }
  return "accepted";
}

constexpr const char* kEverything = R"({
  "model": "m", "dtype": "bfloat16", "device": "cuda:1", "max_model_len": 4096, "attention": "moba",
  "moba_block_size": 128, "moba_topk": 4, "full_attention_layers": "last:2",
  "decode_attention": "full", "kv_cache_memory": "1.5GiB", "block_size": 32,
  "gpu_memory_utilization": 0.5,
  "enable_prefix_caching": false, "max_num_batched_tokens": 512, "max_num_seqs": 2,
  "long_prefill_token_threshold": 99, "max_num_queued": 5,
  "tensor_parallel_size": 2, "rank_timeout_seconds": 2.5, "communicate_alone": true, "skip_communication": true,
  "peer_message_bytes": 4096, "min_overlapped_tokens": 2048,
  "num_processes": 2, "process_rank": 1, "local_rank": 1, "master_address": "h", "master_port": 4,
  "threads": 3, "decode_graphs": false,
  "temperature": 0.7, "top_k": 40, "top_p": 0.9, "min_p": 0.05, "repetition_penalty": 1.1,
  "presence_penalty": 0.5, "frequency_penalty": -0.5, "logit_bias": {"15": -1.5, "2": "-inf"},
  "seed": 7, "max_tokens": 9, "min_tokens": 2, "stop": ["a", "b"],
  "include_stop_str_in_output": true, "stop_token_ids": [5, 6], "ignore_eos": true,
  "skip_special_tokens": false, "logprobs": 3, "prompt_logprobs": 0
})";

void check_everything(const Settings& s) {
  CHECK(s.engine.model == "m");
  CHECK(s.engine.dtype == ComputeDType::kBFloat16);
  CHECK(s.engine.max_model_len == 4096);
  CHECK(s.engine.num_threads == 3);
  CHECK_FALSE(s.engine.decode_graphs);
  CHECK(s.engine.attention.mode == AttentionMode::kMoba);
  CHECK(s.engine.device == "cuda:1");
  CHECK(s.engine.attention.moba_block_size == 128);
  CHECK(s.engine.attention.moba_topk == 4);
  CHECK(s.engine.attention.full_attention_layers == "last:2");
  CHECK(s.engine.attention.decode == DecodeAttention::kFull);
  CHECK(s.engine.cache.memory_bytes == 3LL << 29);
  CHECK(s.engine.cache.block_size == 32);
  CHECK(s.engine.cache.gpu_memory_utilization == 0.5);
  CHECK_FALSE(s.engine.cache.enable_prefix_caching);
  CHECK(s.engine.scheduler.max_num_batched_tokens == 512);
  CHECK(s.engine.scheduler.long_prefill_token_threshold == 99);
  CHECK(s.engine.scheduler.max_num_seqs == 2);
  CHECK(s.engine.scheduler.max_num_queued == 5);
  CHECK(s.engine.parallel.tensor_parallel_size == 2);
  CHECK(s.engine.parallel.rank_timeout_seconds == 2.5);
  CHECK(s.engine.parallel.communicate_alone);
  CHECK(s.engine.parallel.skip_communication);
  CHECK(s.engine.parallel.peer_message_bytes == 4096);
  CHECK(s.engine.parallel.min_overlapped_tokens == 2048);
  CHECK(s.engine.parallel.num_processes == 2);
  CHECK(s.engine.parallel.process_rank == 1);
  CHECK(s.engine.parallel.local_rank == 1);
  CHECK(s.engine.parallel.master_address == "h");
  CHECK(s.engine.parallel.master_port == 4);
  CHECK(s.sampling.temperature == 0.7F);
  CHECK(s.sampling.top_k == 40);
  CHECK(s.sampling.top_p == 0.9F);
  CHECK(s.sampling.min_p == 0.05F);
  CHECK(s.sampling.repetition_penalty == 1.1F);
  CHECK(s.sampling.presence_penalty == 0.5F);
  CHECK(s.sampling.frequency_penalty == -0.5F);
  CHECK(s.sampling.logit_bias.at(15) == -1.5F);
  CHECK(std::isinf(s.sampling.logit_bias.at(2)));
  CHECK(s.sampling.seed == 7U);
  CHECK(s.sampling.max_tokens == 9);
  CHECK(s.sampling.min_tokens == 2);
  CHECK(s.sampling.stop == std::vector<std::string>{"a", "b"});
  CHECK(s.sampling.include_stop_str_in_output);
  CHECK(s.sampling.stop_token_ids == std::vector<std::int32_t>{5, 6});
  CHECK(s.sampling.ignore_eos);
  CHECK_FALSE(s.sampling.skip_special_tokens);
  CHECK(s.sampling.logprobs == 3);
  CHECK(s.sampling.prompt_logprobs == 0);
}

TEST_CASE("a file sets every setting") {
  check_everything(load(kEverything));
  // Nothing was forgotten above: the file names all of them.
  const auto json = nlohmann::json::parse(kEverything);
  nlohmann::json written = settings_json(Settings{});
  written.update(nlohmann::json(written.at("sampling")));
  written.erase("sampling");
  for (const auto& [key, value] : written.items()) {
    CAPTURE(key);
    CHECK(json.contains(key));
  }
  CHECK(json.size() == written.size());
}

TEST_CASE("settings written out give the same settings again") {
  check_everything(load(settings_json(load(kEverything)).dump()));
  CHECK(settings_json(load(settings_json(Settings{}).dump())) == settings_json(Settings{}));
}

TEST_CASE("keys may stand in their sections, under the names of the library too") {
  const Settings s = load(R"({
    // comments are allowed
    "description": "mine",
    "attention": {"mode": "full", "moba_topk": 3, "decode": "full", "full_attention_layers": [0, 8]},
    "cache": {"memory_bytes": 1000, "block_size": 16},
    "scheduler": {"max_num_seqs": 4},
    "sampling": {"temperature": 0, "stop": "x"},
    "num_threads": 2
  })");
  CHECK(s.engine.attention.mode == AttentionMode::kFull);
  CHECK(s.engine.attention.moba_topk == 3);
  CHECK(s.engine.attention.decode == DecodeAttention::kFull);
  CHECK(s.engine.attention.full_attention_layers == "0,8");
  CHECK(s.engine.cache.memory_bytes == 1000);
  CHECK(s.engine.cache.block_size == 16);
  CHECK(s.engine.scheduler.max_num_seqs == 4);
  CHECK(s.engine.num_threads == 2);
  CHECK(s.sampling.temperature == 0);
  CHECK(s.sampling.stop == std::vector<std::string>{"x"});
}

TEST_CASE("null and -1 take a limit away") {
  CHECK_FALSE(load(R"({"max_tokens": null})").sampling.max_tokens.has_value());
  CHECK_FALSE(load(R"({"max_tokens": -1})").sampling.max_tokens.has_value());
  CHECK_FALSE(load(R"({"seed": -1})").sampling.seed.has_value());
  CHECK(load(R"({"seed": 18446744073709551615})").sampling.seed == 18446744073709551615ULL);
}

TEST_CASE("files that are wrong are refused by key") {
  CHECK(refusal(R"({"temperatur": 1})") ==
        "unknown key \"temperatur\", did you mean \"temperature\"?");
  CHECK(refusal(R"({"frobnicate_it": 1})") == "unknown key \"frobnicate_it\"");
  CHECK(refusal(R"({"attention": {"temperature": 1}})")
            .rfind("unknown key \"attention.temperature\"", 0) == 0);
  CHECK(refusal(R"({"temperature": "hot"})") == "temperature: expected a number, got \"hot\"");
  CHECK(refusal(R"({"temperature": 1e300})").rfind("temperature: expected a finite number", 0) ==
        0);
  CHECK(refusal(R"({"top_k": 1.5})") == "top_k: expected an integer, got 1.5");
  CHECK(refusal(R"({"top_k": 99999999999})") == "top_k: 99999999999 is too large");
  CHECK(refusal(R"({"max_model_len": 18446744073709551615})") ==
        "max_model_len: 18446744073709551615 is too large");
  CHECK(refusal(R"({"ignore_eos": 1})") == "ignore_eos: expected true or false, got 1");
  CHECK(refusal(R"({"stop": [1]})") == "stop: expected a string, got 1");
  CHECK(refusal(R"({"attention": "sparse"})") ==
        "attention: expected one of auto, full, moba, got \"sparse\"");
  CHECK(refusal(R"({"dtype": null})") ==
        "dtype: expected one of auto, float32, bfloat16, float16, got null");
  CHECK(refusal(R"({"kv_cache_memory": "-1"})").rfind("kv_cache_memory: expected a size", 0) == 0);
  CHECK(refusal(R"({"kv_cache_memory": -1})").rfind("kv_cache_memory: expected a size", 0) == 0);
  CHECK(refusal(R"({"sampling": {"logit_bias": {"x": 1}}})").rfind("sampling.logit_bias: ", 0) ==
        0);
  CHECK(refusal(R"({"sampling": 3})") == "unknown key \"sampling\"");
  CHECK(refusal(R"({"model": ["a"]})") == "model: expected a string, got a JSON array");
  CHECK(refusal(R"({"top_k": 1, "top_k": 2})") == "key \"top_k\" stands twice");
  CHECK(refusal(R"({"top_k": 1, "sampling": {"top_k": 2}})") == "top_k is given twice");
  CHECK(refusal("[1]") == "expected a JSON object of settings");
  CHECK(refusal("") == "not JSON at line 1");
  CHECK(refusal("{\n\"top_k\": 1,\n}") == "not JSON at line 3");
  CHECK_THROWS_AS(load_config_file("/nonexistent/config.json"), CommandError);
  CHECK_THROWS_AS(load_config_file("/"), CommandError);
}

TEST_CASE("later values win, and the command line is a usage error") {
  Settings settings;
  apply_settings({{"top_k", 5, "file", false}, {"top_k", 9, "--top-k", true}}, true, settings);
  CHECK(settings.sampling.top_k == 9);
  apply_settings({{"model", "caf\xE9", "--model", true}}, false, settings);
  CHECK(settings.engine.model == "caf\xE9");  // a path of any bytes
  CHECK_THROWS_AS(apply_settings({{"top_k", "x", "--top-k", true}}, true, settings), UsageError);
  CHECK_THROWS_AS(apply_settings({{"top_k", "x", "f: top_k", false}}, true, settings),
                  CommandError);
}

TEST_CASE("texts of the command line become values") {
  using Json = nlohmann::json;
  CHECK(value_from_texts(ValueKind::kInteger, {"3", "4"}) == Json(4));
  CHECK(value_from_texts(ValueKind::kSize, {"1K"}) == Json(1024));
  CHECK(value_from_texts(ValueKind::kStrings, {"a", "b,c"}) == Json({"a", "b,c"}));
  CHECK(value_from_texts(ValueKind::kIntegers, {"2,13", "5"}) == Json({2, 13, 5}));
  CHECK(value_from_texts(ValueKind::kLogitBias, {"7:1", "7:2", "8-inf"}) ==
        Json({{"7", 2.0}, {"8", "-inf"}}));
  CHECK(value_from_texts(ValueKind::kBool, {"false"}) == Json(false));
}

TEST_CASE("names are used once, and the help states the defaults of the library") {
  std::set<std::string> names;
  const OrderedJson json = settings_json(Settings{});
  for (const Setting& setting : all_settings()) {
    const std::string key(setting.key);
    CAPTURE(key);
    CHECK(names.insert(key).second);
    const OrderedJson& place =
        setting.scope == SettingScope::kSampling ? json.at("sampling") : json;
    REQUIRE(place.contains(key));
    const std::string help(setting.help);
    const std::size_t at = help.find("(default: ");
    REQUIRE((at != std::string::npos || key == "model"));
    if (key == "model") continue;
    // A default that is a number is the library's.
    const std::string stated = help.substr(at + 10);
    if (std::isdigit(static_cast<unsigned char>(stated[0])) != 0) {
      CHECK(place.at(key).get<double>() == std::stod(stated));
    }
  }
}

TEST_CASE("the presets load") {
  int count = 0;
  for (const auto& entry : std::filesystem::directory_iterator(repo_path("configs"))) {
    if (entry.path().extension() != ".json") continue;
    CAPTURE(entry.path().string());
    CHECK_FALSE(load_config_file(entry.path().string()).empty());
    ++count;
  }
  CHECK(count >= 3);
}

}  // namespace
}  // namespace moba::cli
