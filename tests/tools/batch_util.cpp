#include "tests/tools/batch_util.h"

#include <cstring>
#include <filesystem>
#include <random>
#include <sstream>

#include "tests/catch.h"

namespace moba::test {
namespace {

constexpr int kVocab = 8192;
constexpr int kHidden = 32;
constexpr int kHeadDim = 16;
constexpr int kHeads = 2;
constexpr int kIntermediate = 64;
constexpr int kLayers = 2;

const char* const kConfig = R"({
  "architectures": ["LlamaForCausalLM"], "model_type": "llama", "torch_dtype": "float32",
  "hidden_act": "silu", "vocab_size": 8192, "hidden_size": 32, "intermediate_size": 64,
  "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16,
  "rms_norm_eps": 1e-05, "rope_theta": 10000.0, "max_position_embeddings": 4096,
  "tie_word_embeddings": true, "bos_token_id": 1, "eos_token_id": 2,
  "moba_chunk_size": 64, "moba_topk": 3, "moba_full_attention_layers": [1]
})";

// Tensors of one file, in the safetensors format.
class TensorFile {
 public:
  void add(const std::string& name, const std::vector<int>& shape) {
    std::size_t count = 1;
    for (const int n : shape) count *= static_cast<std::size_t>(n);
    const std::size_t begin = data_.size();
    const bool norm = shape.size() == 1;
    std::normal_distribution<float> normal(0.0F, 0.3F);
    for (std::size_t i = 0; i < count; ++i) {
      const float value = norm ? 1.0F : normal(random_);
      char bytes[sizeof(value)];
      std::memcpy(bytes, &value, sizeof(value));
      data_.append(bytes, sizeof(value));
    }
    header_[name] = {{"dtype", "F32"}, {"shape", shape}, {"data_offsets", {begin, data_.size()}}};
  }
  std::string bytes() const {
    const std::string header = header_.dump();
    std::string file;
    for (int shift = 0; shift < 64; shift += 8) {
      file += static_cast<char>(std::uint64_t{header.size()} >> shift);
    }
    return file + header + data_;
  }

 private:
  std::mt19937 random_{7};
  Json header_ = Json::object();
  std::string data_;
};

}  // namespace

std::string write_tiny_model(const TempDir& dir) {
  TensorFile tensors;
  tensors.add("model.embed_tokens.weight", {kVocab, kHidden});
  tensors.add("model.norm.weight", {kHidden});
  for (int i = 0; i < kLayers; ++i) {
    const std::string layer = "model.layers." + std::to_string(i) + ".";
    tensors.add(layer + "input_layernorm.weight", {kHidden});
    tensors.add(layer + "post_attention_layernorm.weight", {kHidden});
    tensors.add(layer + "self_attn.q_proj.weight", {kHeads * kHeadDim, kHidden});
    tensors.add(layer + "self_attn.k_proj.weight", {kHeadDim, kHidden});
    tensors.add(layer + "self_attn.v_proj.weight", {kHeadDim, kHidden});
    tensors.add(layer + "self_attn.o_proj.weight", {kHidden, kHeads * kHeadDim});
    tensors.add(layer + "mlp.gate_proj.weight", {kIntermediate, kHidden});
    tensors.add(layer + "mlp.up_proj.weight", {kIntermediate, kHidden});
    tensors.add(layer + "mlp.down_proj.weight", {kHidden, kIntermediate});
  }
  dir.write("tiny/config.json", kConfig);
  dir.write("tiny/model.safetensors", tensors.bytes());
  for (const char* name : {"tokenizer.model", "tokenizer_config.json", "generation_config.json"}) {
    dir.write(std::string("tiny/") + name, read_file(embedded_model() + "/" + name));
  }
  return (dir.path() / "tiny").string();
}

std::string completion_line(const std::string& custom_id, const std::string& prompt, int max_tokens,
                            const Json& more) {
  Json body{{"prompt", prompt},
            {"max_tokens", max_tokens},
            {"temperature", 0},
            {"ignore_eos", true},
            {"return_token_ids", true}};
  body.update(more);
  return Json{{"custom_id", custom_id},
              {"method", "POST"},
              {"url", "/v1/completions"},
              {"body", body}}
             .dump() +
         "\n";
}

std::vector<Json> read_jsonl(const std::string& path) {
  const std::string text = read_file(path);
  CAPTURE(path, text.size());
  if (!text.empty()) CHECK(text.back() == '\n');
  std::vector<Json> records;
  std::istringstream stream(text);
  for (std::string line; std::getline(stream, line);) records.push_back(Json::parse(line));
  return records;
}

std::map<std::string, Json> by_custom_id(const std::vector<Json>& records) {
  std::map<std::string, Json> result;
  for (const Json& record : records) {
    const auto id = record.at("custom_id").get<std::string>();
    CAPTURE(id);
    CHECK(result.emplace(id, record).second);
  }
  return result;
}

Json output_ids(const Json& record) {
  return record.at("response").at("body").at("choices").at(0).at("token_ids");
}

std::vector<std::string> batch(const std::string& model, const std::string& input,
                               const std::string& output, const std::vector<std::string>& more) {
  std::vector<std::string> arguments{"batch", "-m", model, input, "-o", output};
  arguments.insert(arguments.end(), more.begin(), more.end());
  return arguments;
}

}  // namespace moba::test
