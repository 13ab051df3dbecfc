#include "model/model_config.h"

#include <string>
#include <vector>

#include "model/json_file.h"
#include "tests/catch.h"
#include "tests/model/temp_files.h"

using moba::AttentionKind;
using moba::DType;
using moba::ModelConfig;
using moba::RopeType;
using moba::test::error_of;
using moba::test::is_line_with;
using moba::test::TempDir;
using nlohmann::json;

namespace {

json llama() {
  return json::parse(R"({"architectures":["LlamaForCausalLM"],"model_type":"llama",
    "hidden_size":64,"intermediate_size":96,"num_hidden_layers":4,"num_attention_heads":4,
    "num_key_value_heads":2,"vocab_size":100,"max_position_embeddings":2048})");
}

json with(json config, const std::string& patch) {
  config.update(json::parse(patch));
  return config;
}

json family(const std::string& architecture, const std::string& type) {
  json config = llama();
  config["architectures"] = {architecture};
  config["model_type"] = type;
  return config;
}

ModelConfig load(const json& config) {
  const TempDir dir;
  dir.write("config.json", config.dump());
  return moba::load_model_config(dir.path());
}

// The error of a Llama config with some keys changed; always one line naming the file.
std::string error_with(const std::string& patch) {
  std::string message = error_of([&] { load(with(llama(), patch)); });
  INFO(patch << ": " << message);
  CHECK(is_line_with(message, {"config.json"}));
  return message;
}

constexpr AttentionKind kFull = AttentionKind::kFull;
constexpr AttentionKind kMoba = AttentionKind::kMoba;
using Kinds = std::vector<AttentionKind>;

}  // namespace

TEST_CASE("config: a plain Llama and what absent keys mean") {
  const ModelConfig config = load(llama());
  CHECK(config.architecture == "LlamaForCausalLM");
  CHECK(config.model_type == "llama");
  CHECK(config.vocab_size == 100);
  CHECK(config.hidden_size == 64);
  CHECK(config.intermediate_size == 96);
  CHECK(config.num_layers == 4);
  CHECK(config.num_q_heads == 4);
  CHECK(config.num_kv_heads == 2);
  CHECK(config.head_dim == 16);
  CHECK(config.rms_norm_eps == 1e-6F);
  CHECK_FALSE(config.tie_word_embeddings);
  CHECK_FALSE(config.qkv_bias);
  CHECK_FALSE(config.o_bias);
  CHECK_FALSE(config.mlp_bias);
  CHECK_FALSE(config.qk_norm);
  CHECK(config.rope.type == RopeType::kDefault);
  CHECK(config.rope.theta == 10000.0);
  CHECK(config.dtype == DType::kFloat32);
  CHECK(config.moba.block_size == 0);
  CHECK(config.layer_kinds == Kinds(4, kFull));
  CHECK_FALSE(config.sliding_window.has_value());
  CHECK_FALSE(config.bos_token_id.has_value());
  CHECK(config.eos_token_ids.empty());

  json bare = llama();
  bare.erase("num_key_value_heads");
  bare.erase("max_position_embeddings");
  bare.erase("architectures");
  bare["rope_scaling"] = nullptr;
  bare["head_dim"] = nullptr;
  const ModelConfig defaults = load(bare);
  CHECK(defaults.num_kv_heads == 4);
  CHECK(defaults.max_position_embeddings == 2048);
  CHECK(defaults.architecture == "LlamaForCausalLM");
}

TEST_CASE("config: the embedded model") {
  const ModelConfig config =
      moba::load_model_config(std::string(MOBA_SOURCE_DIR) + "/configs/models/moba-books-19m");
  CHECK(config.head_dim == 64);
  CHECK(config.tie_word_embeddings);
  CHECK(config.rope.theta == 1e6);
  CHECK(config.dtype == DType::kBFloat16);
  CHECK(config.moba.block_size == 64);
  CHECK(config.moba.topk == 8);
  CHECK(config.layer_kinds ==
        Kinds{kMoba, kMoba, kMoba, kMoba, kMoba, kMoba, kMoba, kMoba, kFull, kFull});
  CHECK(config.bos_token_id == 1);
  CHECK(config.eos_token_ids == std::vector<std::int32_t>{2});
}

TEST_CASE("config: what the families add") {
  const ModelConfig biased = load(with(
      llama(), R"({"attention_bias":true,"mlp_bias":true,"head_dim":32,"eos_token_id":[7,8]})"));
  CHECK(biased.qkv_bias);
  CHECK(biased.o_bias);
  CHECK(biased.mlp_bias);
  CHECK(biased.head_dim == 32);
  CHECK(biased.eos_token_ids == std::vector<std::int32_t>{7, 8});

  const ModelConfig mistral = load(family("MistralForCausalLM", "mistral"));
  CHECK(mistral.sliding_window == 4096);  // transformers' default
  CHECK_FALSE(load(with(family("MistralForCausalLM", "mistral"), R"({"sliding_window":null})"))
                  .sliding_window.has_value());

  const ModelConfig qwen2 = load(family("Qwen2ForCausalLM", "qwen2"));
  CHECK(qwen2.qkv_bias);
  CHECK_FALSE(qwen2.o_bias);
  CHECK_FALSE(qwen2.qk_norm);
  CHECK_FALSE(qwen2.sliding_window.has_value());

  const ModelConfig qwen3 = load(family("Qwen3ForCausalLM", "qwen3"));
  CHECK(qwen3.qk_norm);
  CHECK_FALSE(qwen3.qkv_bias);
  CHECK(qwen3.head_dim == 128);
}

TEST_CASE("config: a sliding window counts where transformers uses it") {
  const json qwen = with(family("Qwen2ForCausalLM", "qwen2"), R"({"sliding_window":512})");
  CHECK_FALSE(load(qwen).sliding_window.has_value());
  CHECK_FALSE(load(with(qwen, R"({"use_sliding_window":true})")).sliding_window.has_value());
  CHECK(load(with(qwen, R"({"use_sliding_window":true,"max_window_layers":2})")).sliding_window ==
        512);
  const std::string types =
      R"("layer_types":["full_attention","sliding_attention","full_attention","full_attention"])";
  CHECK(load(with(qwen, R"({"use_sliding_window":true,)" + types + "}")).sliding_window == 512);
  CHECK(is_line_with(error_of([&] { load(with(qwen, "{" + types + "}")); }),
                     {"layer_types", "sliding_window"}));
  CHECK_FALSE(load(with(llama(), R"({"sliding_window":512})")).sliding_window.has_value());
}

TEST_CASE("config: MoBA keys") {
  const ModelConfig all = load(with(llama(), R"({"moba_chunk_size":512,"moba_topk":3})"));
  CHECK(all.moba.block_size == 512);
  CHECK(all.moba.topk == 3);
  CHECK(all.layer_kinds == Kinds(4, kMoba));

  CHECK(load(with(llama(),
                  R"({"moba_chunk_size":64,"moba_topk":1,"moba_full_attention_layers":[0,3]})"))
            .layer_kinds == Kinds{kFull, kMoba, kMoba, kFull});
  CHECK(load(with(llama(), R"({"moba_chunk_size":64,"moba_topk":1,"layer_types":
        ["moba_attention","full_attention","moba_attention","full_attention"]})"))
            .layer_kinds == Kinds{kMoba, kFull, kMoba, kFull});
  // transformers 5 writes full attention everywhere; the MoBA keys still decide.
  CHECK(load(with(llama(), R"({"moba_chunk_size":64,"moba_topk":1,"layer_types":
        ["full_attention","full_attention","full_attention","full_attention"]})"))
            .layer_kinds == Kinds(4, kMoba));
  CHECK(load(with(llama(), R"({"moba_chunk_size":null,"moba_topk":null})")).moba.topk == 0);

  const std::string sizes = R"("moba_chunk_size":64,"moba_topk":2)";
  CHECK(is_line_with(error_with(R"({"moba_chunk_size":64})"), {"moba_chunk_size", "moba_topk"}));
  CHECK(is_line_with(error_with(R"({"moba_topk":4})"), {"moba_topk", "moba_chunk_size"}));
  CHECK(is_line_with(error_with(R"({"moba_chunk_size":64,"moba_topk":0})"), {"moba_topk", "0"}));
  CHECK(is_line_with(error_with(R"({"moba_chunk_size":0,"moba_topk":1})"), {"moba_chunk_size"}));
  CHECK(is_line_with(error_with(R"({"moba_chunk_size":-64,"moba_topk":1})"), {"moba_chunk_size"}));
  CHECK(is_line_with(error_with("{" + sizes + R"(,"moba_full_attention_layers":[4]})"),
                     {"moba_full_attention_layers", "4"}));
  CHECK(is_line_with(error_with("{" + sizes + R"(,"moba_full_attention_layers":[-1]})"),
                     {"moba_full_attention_layers", "-1"}));
  CHECK(is_line_with(error_with("{" + sizes + R"(,"moba_full_attention_layers":3})"),
                     {"moba_full_attention_layers"}));
  CHECK(is_line_with(error_with(R"({"moba_full_attention_layers":[1]})"), {"moba_chunk_size"}));
  CHECK(is_line_with(error_with(R"({"layer_types":["full_attention"]})"),
                     {"layer_types", "1", "4 layers"}));
  CHECK(
      is_line_with(error_with(R"({"layer_types":["moba_attention","full_attention","full_attention",
                 "full_attention"]})"),
                   {"layer_types", "moba_chunk_size"}));
  CHECK(is_line_with(error_with(R"({"layer_types":["a","full_attention","full_attention",
                 "full_attention"]})"),
                     {"layer_types", "'a'"}));
  CHECK(is_line_with(error_with("{" + sizes + R"(,"moba_full_attention_layers":[0],"layer_types":
        ["moba_attention","full_attention","full_attention","full_attention"]})"),
                     {"moba_full_attention_layers", "layer 0"}));
}

TEST_CASE("config: RoPE in the spellings of transformers 4 and 5") {
  const auto rope = [](const std::string& patch) { return load(with(llama(), patch)).rope; };
  CHECK(rope(R"({"rope_theta":5e5})").theta == 5e5);
  CHECK(rope(R"({"rope_parameters":{"rope_type":"default","rope_theta":1000000}})").theta == 1e6);
  CHECK(rope(R"({"rope_theta":7.0,"rope_parameters":{"rope_theta":8.0}})").theta == 8.0);
  const auto linear = rope(R"({"rope_scaling":{"type":"linear","factor":2}})");
  CHECK(linear.type == RopeType::kLinear);
  CHECK(linear.factor == 2.0);
  CHECK(rope(R"({"rope_scaling":{"rope_type":"dynamic","factor":2.0}})").original_max_position ==
        2048);
  const auto llama3 = rope(R"({"rope_parameters":{"rope_type":"llama3","rope_theta":5e5,"factor":8,
      "low_freq_factor":1,"high_freq_factor":4.0,"original_max_position_embeddings":1024}})");
  CHECK(llama3.type == RopeType::kLlama3);
  CHECK(llama3.theta == 5e5);
  CHECK(llama3.original_max_position == 1024);
  const auto yarn = rope(R"({"original_max_position_embeddings":512,"rope_scaling":
      {"type":"yarn","beta_fast":16,"mscale":0.5,"truncate":false}})");
  CHECK(yarn.type == RopeType::kYarn);
  CHECK(yarn.factor == 4.0);  // 2048 / 512
  CHECK(yarn.beta_fast == 16.0);
  CHECK(yarn.beta_slow == 1.0);
  CHECK(yarn.mscale == 0.5);
  CHECK_FALSE(yarn.truncate);

  CHECK(is_line_with(error_with(R"({"rope_scaling":{"type":"longrope","factor":2}})"),
                     {"rope_scaling.type", "'longrope'", "llama3"}));
  CHECK(is_line_with(error_with(R"({"rope_scaling":{"type":"linear"}})"),
                     {"no rope_scaling.factor"}));
  CHECK(is_line_with(error_with(R"({"rope_scaling":{"type":"linear","factor":"2"}})"),
                     {"rope_scaling.factor", "number"}));
  CHECK(is_line_with(error_with(R"({"rope_scaling":{"type":"linear","factor":0}})"),
                     {"rope_scaling.factor"}));
  CHECK(is_line_with(error_with(R"({"rope_scaling":{"type":"dynamic","factor":-3}})"),
                     {"rope_scaling.factor"}));
  CHECK(is_line_with(error_with(R"({"rope_scaling":"linear"})"), {"rope_scaling", "object"}));
  CHECK(is_line_with(error_with(R"({"rope_scaling":{"type":7}})"), {"rope_scaling.type"}));
  CHECK(is_line_with(error_with(R"({"rope_scaling":{"type":"llama3","factor":8}})"),
                     {"low_freq_factor"}));
  CHECK(is_line_with(error_with(R"({"rope_scaling":{"type":"llama3","factor":8,"low_freq_factor":4,
                     "high_freq_factor":4}})"),
                     {"high_freq_factor"}));
  CHECK(is_line_with(error_with(R"({"rope_scaling":{"type":"yarn","factor":2,"beta_slow":-1}})"),
                     {"beta_slow"}));
  CHECK(is_line_with(error_with(R"({"rope_scaling":{"type":"yarn","factor":2,
                     "original_max_position_embeddings":0}})"),
                     {"original_max_position_embeddings"}));
  CHECK(is_line_with(error_with(R"({"rope_theta":0})"), {"rope_theta"}));
  CHECK(is_line_with(error_with(R"({"rope_theta":-10000.0})"), {"rope_theta"}));
  CHECK(is_line_with(error_with(R"({"rope_theta":1e300})"), {"rope_theta"}));
  CHECK(is_line_with(error_with(R"({"rope_parameters":{"full_attention":{"rope_type":"linear"}}})"),
                     {"full_attention"}));
  CHECK(is_line_with(error_with(R"({"partial_rotary_factor":0.5})"), {"partial_rotary_factor"}));
}

TEST_CASE("config: dtype") {
  CHECK(load(with(llama(), R"({"torch_dtype":"float16"})")).dtype == DType::kFloat16);
  CHECK(load(with(llama(), R"({"dtype":"bfloat16"})")).dtype == DType::kBFloat16);
  CHECK(is_line_with(error_with(R"({"torch_dtype":"float64"})"), {"torch_dtype", "'float64'"}));
  CHECK(is_line_with(error_with(R"({"dtype":16})"), {"dtype", "string"}));
}

TEST_CASE("config: architectures that are not known are refused by name") {
  CHECK(is_line_with(error_with(R"({"architectures":["GPT2LMHeadModel"]})"),
                     {"'GPT2LMHeadModel'", "LlamaForCausalLM", "MistralForCausalLM",
                      "Qwen2ForCausalLM", "Qwen3ForCausalLM"}));
  CHECK(is_line_with(error_with(R"({"architectures":[],"model_type":"gpt2"})"),
                     {"'gpt2'", "LlamaForCausalLM"}));
  CHECK(is_line_with(error_with(R"({"architectures":null,"model_type":null})"), {"model_type"}));
  CHECK(is_line_with(error_with(R"({"architectures":"LlamaForCausalLM"})"), {"architectures"}));
  CHECK(is_line_with(error_with(R"({"architectures":[1]})"), {"architectures"}));
  CHECK(is_line_with(error_with(R"({"model_type":"mistral"})"), {"model_type", "'mistral'"}));
  CHECK(is_line_with(error_with(R"({"architectures":["a\nb"]})"), {"'a?b'"}));
}

TEST_CASE("config: sizes that cannot be are refused by key") {
  for (const char* key :
       {"vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers",
        "num_attention_heads", "num_key_value_heads", "max_position_embeddings", "head_dim"}) {
    for (const char* value :
         {"0", "-1", "4.0", "2.5", "\"4\"", "[4]", "true", "1e3", "9223372036854775807",
          "9223372036854775808", "18446744073709551616", "1e400"}) {
      const TempDir dir;
      // As text: the JSON library would not write some of these.
      std::string text = with(llama(), std::string("{\"") + key + "\":\"@\"}").dump();
      text.replace(text.find("\"@\""), 3, value);
      dir.write("config.json", text);
      const std::string message = error_of([&] { moba::load_model_config(dir.path()); });
      INFO(key << " = " << value << ": " << message);
      // A number too large for any type is no JSON to the parser.
      CHECK((is_line_with(message, {"config.json", key}) ||
             is_line_with(message, {"config.json", "not JSON"})));
    }
  }
  for (const char* key : {"vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers",
                          "num_attention_heads"}) {
    json config = llama();
    config.erase(key);
    CHECK(is_line_with(error_of([&] { load(config); }), {"config.json", key}));
  }
  CHECK(is_line_with(error_with(R"({"num_key_value_heads":3})"),
                     {"num_attention_heads 4", "num_key_value_heads 3"}));
  CHECK(is_line_with(error_with(R"({"num_key_value_heads":8})"), {"num_key_value_heads 8"}));
  CHECK(is_line_with(error_with(R"({"hidden_size":66})"), {"hidden_size 66"}));
  CHECK(is_line_with(error_with(R"({"head_dim":15})"), {"head_dim 15", "odd"}));
  CHECK(is_line_with(error_with(R"({"hidden_size":1048576,"num_attention_heads":1,
                     "num_key_value_heads":1})"),
                     {"head_dim"}));
  CHECK(is_line_with(error_with(R"({"rms_norm_eps":-1e-6})"), {"rms_norm_eps"}));
  CHECK(is_line_with(error_with(R"({"rms_norm_eps":"1e-6"})"), {"rms_norm_eps"}));
}

TEST_CASE("config: what would be computed wrongly is refused") {
  CHECK(is_line_with(error_with(R"({"quantization_config":{"quant_method":"awq"}})"),
                     {"quantization_config", "'awq'"}));
  CHECK(is_line_with(error_with(R"({"quantization_config":{}})"), {"quantization_config"}));
  CHECK(is_line_with(error_with(R"({"hidden_act":"gelu"})"), {"hidden_act", "'gelu'", "silu"}));
  CHECK(is_line_with(error_with(R"({"tie_word_embeddings":"yes"})"), {"tie_word_embeddings"}));
  CHECK(is_line_with(error_with(R"({"attention_bias":1})"), {"attention_bias"}));
  CHECK(is_line_with(error_with(R"({"eos_token_id":-1})"), {"eos_token_id", "-1"}));
  CHECK(is_line_with(error_with(R"({"eos_token_id":[2,"x"]})"), {"eos_token_id"}));
  CHECK(is_line_with(error_with(R"({"bos_token_id":1.5})"), {"bos_token_id"}));
}

TEST_CASE("config: files that are no config") {
  const TempDir dir;
  const auto error = [&] { return error_of([&] { moba::load_model_config(dir.path()); }); };
  CHECK(is_line_with(error(), {"config.json", "No such file"}));
  for (const auto& [text, part] : std::vector<std::pair<std::string, std::string>>{
           {"", "empty"},
           {"{", "not JSON"},
           {"[]", "object"},
           {"null", "object"},
           {"{\"a\":1,}", "not JSON"},
           {"{\"a\":NaN}", "not JSON"},
           {std::string("{}\0{", 4), "zero byte"},
           {R"({"hidden_size":1,"hidden_size":2})", "'hidden_size' given twice"},
           {std::string(1'000'000, '['), "nested deeper"},
           {"{\"a\":" + std::string(100, '['), "nested deeper"},
           {std::string(33 << 20, ' '), "allowed"}}) {
    dir.write("config.json", text);
    INFO(text.substr(0, 40));
    CHECK(is_line_with(error(), {"config.json", part}));
  }
}

TEST_CASE("generation config") {
  const TempDir dir;
  CHECK_FALSE(moba::load_generation_config(dir.path()).do_sample.has_value());
  dir.write("generation_config.json",
            R"({"do_sample":true,"temperature":0.6,"top_p":0.9,"top_k":20,
                "repetition_penalty":1.05,"eos_token_id":[1,2],"pad_token_id":-1,"x":null})");
  const moba::GenerationConfig config = moba::load_generation_config(dir.path());
  CHECK(config.do_sample == true);
  CHECK(config.temperature == 0.6F);
  CHECK(config.top_p == 0.9F);
  CHECK(config.top_k == 20);
  CHECK(config.repetition_penalty == 1.05F);
  CHECK(config.eos_token_ids == std::vector<std::int32_t>{1, 2});
  for (const auto& [text, key] : std::vector<std::pair<std::string, std::string>>{
           {R"({"temperature":-1})", "temperature"},
           {R"({"temperature":"hot"})", "temperature"},
           {R"({"top_p":1.5})", "top_p"},
           {R"({"top_k":-2})", "top_k"},
           {R"({"top_k":1.5})", "top_k"},
           {R"({"repetition_penalty":0})", "repetition_penalty"},
           {R"({"do_sample":1})", "do_sample"},
           {R"({"eos_token_id":"</s>"})", "eos_token_id"},
           {"{", "not JSON"}}) {
    dir.write("generation_config.json", text);
    CHECK(is_line_with(error_of([&] { moba::load_generation_config(dir.path()); }),
                       {"generation_config.json", key}));
  }
}
