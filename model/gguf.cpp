#include "model/gguf.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <fstream>
#include <limits>
#include <utility>

#include "device/check.h"
#include "model/json_file.h"
#include "model/mapped_file.h"

namespace moba {
namespace {

constexpr std::int64_t kMaxInt = std::numeric_limits<std::int32_t>::max();

// Names of tensors: in GGUF and in Hugging Face's checkpoints. Of layer tensors what follows the
// layer's number and precedes ".weight" or ".bias".
struct NamePair {
  std::string_view gguf;
  std::string_view hugging_face;
};
constexpr std::array<NamePair, 3> kModelNames{{
    {"token_embd", "model.embed_tokens"},
    {"output_norm", "model.norm"},
    {"output", "lm_head"},
}};
constexpr std::array<NamePair, 11> kLayerNames{{
    {"attn_norm", "input_layernorm"},
    {"attn_q", "self_attn.q_proj"},
    {"attn_k", "self_attn.k_proj"},
    {"attn_v", "self_attn.v_proj"},
    {"attn_q_norm", "self_attn.q_norm"},
    {"attn_k_norm", "self_attn.k_norm"},
    {"attn_output", "self_attn.o_proj"},
    {"ffn_norm", "post_attention_layernorm"},
    {"ffn_gate", "mlp.gate_proj"},
    {"ffn_up", "mlp.up_proj"},
    {"ffn_down", "mlp.down_proj"},
}};
constexpr std::string_view kGgufLayer = "blk.";
constexpr std::string_view kHuggingFaceLayer = "model.layers.";
constexpr std::string_view kRopeFactors = "rope_freqs.weight";

// Architectures that the engine has, as GGUF and as config.json name them. The converter of Llama
// checkpoints writes the query and key rows of a head in pairs.
struct Architecture {
  std::string_view gguf;
  std::string_view hugging_face;
  std::string_view model_type;
  bool paired_rows;
};
constexpr std::array<Architecture, 4> kArchitectures{{
    {"llama", "LlamaForCausalLM", "llama", true},
    {"mistral", "MistralForCausalLM", "mistral", true},
    {"qwen2", "Qwen2ForCausalLM", "qwen2", false},
    {"qwen3", "Qwen3ForCausalLM", "qwen3", false},
}};

const Architecture& architecture_of(const GgufMetadata& metadata) {
  constexpr std::string_view kKey = "general.architecture";
  const std::string name = metadata.string(kKey);
  for (const Architecture& known : kArchitectures) {
    if (known.gguf == name) return known;
  }
  metadata.fail(kKey, in_quotes(name), " is not supported; known: llama, mistral, qwen2, qwen3");
}

// `name` without `prefix`, a number, a dot, and ".weight" or ".bias"; false if it is not made so.
bool split_layer_name(std::string_view name, std::string_view prefix, std::string_view& number,
                      std::string_view& middle, std::string_view& suffix) {
  if (!name.starts_with(prefix)) return false;
  name.remove_prefix(prefix.size());
  const std::size_t digits = std::min(name.find_first_not_of("0123456789"), name.size());
  if (digits == 0 || digits == name.size() || name[digits] != '.') return false;
  number = name.substr(0, digits);
  name.remove_prefix(digits + 1);
  const std::size_t dot = name.rfind('.');
  if (dot == std::string_view::npos) return false;
  middle = name.substr(0, dot);
  suffix = name.substr(dot);
  return suffix == ".weight" || suffix == ".bias";
}

template <typename Side>
std::string translate(std::string_view name, Side from, Side to, std::string_view from_layer,
                      std::string_view to_layer) {
  std::string_view number;
  std::string_view middle;
  std::string_view suffix;
  if (split_layer_name(name, from_layer, number, middle, suffix)) {
    for (const NamePair& pair : kLayerNames) {
      if (pair.*from == middle) return concat(to_layer, number, ".", pair.*to, suffix);
    }
    return {};
  }
  for (const NamePair& pair : kModelNames) {
    if (name == concat(pair.*from, ".weight")) return concat(pair.*to, ".weight");
  }
  return {};
}

// All elements of an array that must be equal (a number for every layer), or the one number.
std::int64_t one_integer(const GgufMetadata& metadata, const std::string& key, std::int64_t max) {
  const std::vector<std::int64_t> all = metadata.integers(key, 1, max);
  if (all.empty()) metadata.fail(key, "is an empty array");
  for (const std::int64_t value : all) {
    if (value != all.front()) {
      metadata.fail(key, "differs between layers (", all.front(), " and ", value,
                    "), which is not supported");
    }
  }
  return all.front();
}

// Elements of a head: of its keys, as RoPE and attention see it.
std::int64_t head_size(const GgufMetadata& metadata, const std::string& arch) {
  constexpr std::int64_t kMaxHead = 4096;
  const std::string key_length = arch + ".attention.key_length";
  if (metadata.has(key_length)) return metadata.integer(key_length, 2, kMaxHead);
  const std::int64_t hidden = metadata.integer(arch + ".embedding_length", 1, kMaxInt);
  const std::int64_t heads = one_integer(metadata, arch + ".attention.head_count", kMaxInt);
  if (hidden % heads != 0) {
    metadata.fail(arch + ".attention.head_count", "is ", heads,
                  ", which does not divide embedding_length ", hidden,
                  ", and there is no attention.key_length");
  }
  return hidden / heads;
}

void read_rope(const GgufMetadata& metadata, const std::string& arch, nlohmann::json& config) {
  const auto key = [&](const char* name) { return arch + ".rope." + name; };
  config["rope_theta"] = metadata.number_or(key("freq_base"), 10000.0);
  const std::int64_t rotated = metadata.integer_or(
      key("dimension_count"), config["head_dim"].get<std::int64_t>(), 1, kMaxInt);
  if (rotated != config["head_dim"].get<std::int64_t>()) {
    metadata.fail(key("dimension_count"), "is ", rotated, " of heads of ",
                  config["head_dim"].get<std::int64_t>(),
                  ": rotary embedding of a part of a head is not supported");
  }
  std::string type = metadata.string_or(key("scaling.type"), "none");
  std::string factor_key = key("scaling.factor");
  if (!metadata.has(key("scaling.type")) && metadata.has(key("scale_linear"))) {
    type = "linear";
    factor_key = key("scale_linear");
  }
  if (type == "none" || type.empty()) return;
  if (type != "linear" && type != "yarn") {
    metadata.fail(key("scaling.type"), in_quotes(type),
                  " is not supported; known: none, linear, yarn");
  }
  nlohmann::json rope{{"rope_type", type}, {"factor", metadata.number(factor_key)}};
  if (type == "yarn") {
    const double factor = rope["factor"].get<double>();
    rope["original_max_position_embeddings"] =
        metadata.integer_or(key("scaling.original_context_length"),
                            config["max_position_embeddings"].get<std::int64_t>(), 1, kMaxInt);
    if (metadata.has(key("scaling.attn_factor"))) {
      rope["attention_factor"] = metadata.number(key("scaling.attn_factor")) *
                                 (factor > 1.0 ? 0.1 * std::log(factor) + 1.0 : 1.0);
    }
    for (const char* name : {"beta_fast", "beta_slow"}) {
      const std::string beta = key("scaling.yarn_") + name;
      if (metadata.has(beta)) rope[name] = metadata.number(beta);
    }
  }
  config["rope_scaling"] = std::move(rope);
}

// The dtype of most of the weights' bytes, or float32 where those are of a block format.
std::string_view main_dtype(const Gguf& file) {
  std::array<std::size_t, 32> bytes{};
  for (const CheckpointTensor& tensor : file.entries()) {
    if (tensor.element_type)
      bytes[static_cast<std::size_t>(*tensor.element_type)] += tensor.num_bytes;
  }
  const auto most = std::max_element(bytes.begin(), bytes.end()) - bytes.begin();
  const auto dtype = static_cast<DType>(most);
  const bool plain = dtype == DType::kBFloat16 || dtype == DType::kFloat16;
  return dtype_name(plain ? dtype : DType::kFloat32);
}

void read_end_tokens(const GgufMetadata& metadata, nlohmann::json& config) {
  nlohmann::json ends = nlohmann::json::array();
  for (const char* name : {"eos", "eot", "eom"}) {
    const std::string key = concat("tokenizer.ggml.", name, "_token_id");
    if (!metadata.has(key)) continue;
    const std::int64_t id = metadata.integer(key, 0, kMaxInt);
    if (std::find(ends.begin(), ends.end(), id) == ends.end()) ends.push_back(id);
  }
  if (!ends.empty()) config["eos_token_id"] = std::move(ends);
  constexpr std::string_view kBos = "tokenizer.ggml.bos_token_id";
  if (metadata.has(kBos)) config["bos_token_id"] = metadata.integer(kBos, 0, kMaxInt);
}

void read_moba(const GgufMetadata& metadata, nlohmann::json& config) {
  if (metadata.has(kGgufMobaChunkSize)) {
    config["moba_chunk_size"] = metadata.integer(kGgufMobaChunkSize, 1, kMaxInt);
  }
  if (metadata.has(kGgufMobaTopk))
    config["moba_topk"] = metadata.integer(kGgufMobaTopk, 1, kMaxInt);
  if (metadata.has(kGgufMobaFullLayers)) {
    config["moba_full_attention_layers"] = metadata.integers(kGgufMobaFullLayers, 0, kMaxInt);
  }
}

}  // namespace

bool is_gguf_file(const std::filesystem::path& path) {
  std::error_code ignored;
  if (!std::filesystem::is_regular_file(path, ignored))
    return path.extension() == ".gguf" && !std::filesystem::is_directory(path, ignored);
  if (path.extension() == ".gguf") return true;
  std::array<char, 4> magic{};
  std::ifstream file(path, std::ios::binary);
  return file.read(magic.data(), magic.size()) && std::string_view(magic.data(), 4) == "GGUF";
}

struct Gguf::State {
  std::filesystem::path path;
  MappedFile file;
  GgufHeader header;
  std::vector<CheckpointTensor> entries;
  std::size_t num_bytes = 0;
};

Gguf::Gguf(const std::filesystem::path& path) : state_(std::make_unique<State>()) {
  State& state = *state_;
  state.path = path;
  state.file = MappedFile(path);
  state.header = read_gguf_header({state.file.data(), state.file.size()}, path.string());
  const GgufMetadata& metadata = state.header.metadata;
  const std::int64_t parts = metadata.integer_or("split.count", 1, 0, kMaxInt);
  if (parts > 1) {
    metadata.fail("split.count", "is ", parts, ": files of several parts are not supported; join ",
                  "them first (llama-gguf-split --merge)");
  }
  // Files that hold something else than a model (a vocabulary, an adapter) have tensors too.
  const std::string arch = metadata.string_or("general.architecture", "");
  const auto* known = std::find_if(kArchitectures.begin(), kArchitectures.end(),
                                   [&](const Architecture& a) { return a.gguf == arch; });
  const bool paired = known != kArchitectures.end() && known->paired_rows;
  for (const GgufTensor& tensor : state.header.tensors) {
    CheckpointTensor entry;
    entry.name = name_from_gguf(tensor.name);
    if (entry.name.empty()) entry.name = tensor.name;
    entry.dtype = tensor.type->name;
    entry.shape = tensor.shape;
    entry.num_bytes = tensor.end - tensor.begin;
    entry.data = state.file.data() + tensor.begin;
    entry.element_type = tensor.type->dtype;
    if (entry.element_type && !is_quantized(*entry.element_type)) {
      entry.tensor = TensorView(const_cast<std::byte*>(entry.data), *entry.element_type,
                                Shape::from(entry.shape));
    }
    const bool turned = entry.name.find(".self_attn.q_proj.") != std::string::npos ||
                        entry.name.find(".self_attn.k_proj.") != std::string::npos;
    if (paired && turned) {
      entry.paired_rows = head_size(metadata, arch);
      MOBA_CHECK(entry.paired_rows % 2 == 0 && entry.shape.front() % entry.paired_rows == 0,
                 path.string(), ": tensor ", in_quotes(tensor.name), " has ", entry.shape.front(),
                 " rows, which are no whole heads of ", entry.paired_rows);
    }
    entry.file = path;
    state.num_bytes += entry.num_bytes;
    state.entries.push_back(std::move(entry));
  }
  std::sort(state.entries.begin(), state.entries.end(),
            [](const CheckpointTensor& a, const CheckpointTensor& b) { return a.name < b.name; });
  for (std::size_t i = 1; i < state.entries.size(); ++i) {
    MOBA_CHECK(state.entries[i - 1].name != state.entries[i].name, path.string(), ": tensor ",
               in_quotes(state.entries[i].name), " is there twice, under its names in two formats");
  }
}

Gguf::~Gguf() = default;

const CheckpointTensor* Gguf::find(std::string_view name) const {
  const auto& all = state_->entries;
  const auto it = std::lower_bound(
      all.begin(), all.end(), name,
      [](const CheckpointTensor& entry, std::string_view key) { return entry.name < key; });
  return it != all.end() && it->name == name ? &*it : nullptr;
}

const std::vector<CheckpointTensor>& Gguf::entries() const { return state_->entries; }
std::size_t Gguf::num_bytes() const { return state_->num_bytes; }
const std::filesystem::path& Gguf::path() const { return state_->path; }
void Gguf::prefetch() const { state_->file.prefetch(); }
const GgufHeader& Gguf::header() const { return state_->header; }

std::string name_from_gguf(std::string_view name) {
  return translate(name, &NamePair::gguf, &NamePair::hugging_face, kGgufLayer, kHuggingFaceLayer);
}

std::string name_to_gguf(std::string_view name) {
  return translate(name, &NamePair::hugging_face, &NamePair::gguf, kHuggingFaceLayer, kGgufLayer);
}

nlohmann::json config_from_gguf(const Gguf& file) {
  const GgufMetadata& metadata = file.metadata();
  const Architecture& architecture = architecture_of(metadata);
  const std::string arch(architecture.gguf);
  const auto key = [&](const char* name) { return concat(arch, ".", name); };
  if (metadata.integer_or(key("expert_count"), 0, 0, kMaxInt) > 0) {
    metadata.fail(key("expert_count"), "is set: models with experts are not supported");
  }
  const CheckpointTensor* embedding = file.find("model.embed_tokens.weight");
  MOBA_CHECK(embedding != nullptr && embedding->shape.size() == 2, file.path().string(),
             ": tensor 'token_embd.weight' is missing or no matrix");

  nlohmann::json config;
  config["architectures"] = {architecture.hugging_face};
  config["model_type"] = architecture.model_type;
  config["vocab_size"] = embedding->shape.front();
  config["hidden_size"] = metadata.integer(key("embedding_length"), 1, kMaxInt);
  config["intermediate_size"] = one_integer(metadata, key("feed_forward_length"), kMaxInt);
  config["num_hidden_layers"] = metadata.integer(key("block_count"), 1, kMaxInt);
  const std::int64_t heads = one_integer(metadata, key("attention.head_count"), kMaxInt);
  config["num_attention_heads"] = heads;
  config["num_key_value_heads"] =
      metadata.has(key("attention.head_count_kv"))
          ? one_integer(metadata, key("attention.head_count_kv"), kMaxInt)
          : heads;
  const std::int64_t head = head_size(metadata, arch);
  config["head_dim"] = head;
  const std::int64_t value_size =
      metadata.integer_or(key("attention.value_length"), head, 1, kMaxInt);
  if (value_size != head) {
    metadata.fail(key("attention.value_length"), "is ", value_size, ", but keys have ", head,
                  " elements a head, which is not supported");
  }
  config["rms_norm_eps"] = metadata.number(key("attention.layer_norm_rms_epsilon"));
  config["max_position_embeddings"] = metadata.integer(key("context_length"), 1, kMaxInt);
  config["tie_word_embeddings"] = file.find("lm_head.weight") == nullptr;
  config["torch_dtype"] = main_dtype(file);
  if (file.find("model.layers.0.self_attn.o_proj.bias") != nullptr) config["attention_bias"] = true;
  if (file.find("model.layers.0.mlp.down_proj.bias") != nullptr) config["mlp_bias"] = true;
  // transformers' defaults for an absent key are not what its absence means here.
  const std::int64_t window = metadata.integer_or(key("attention.sliding_window"), 0, 0, kMaxInt);
  config["sliding_window"] = window > 0 ? nlohmann::json(window) : nlohmann::json();
  if (window > 0) config["use_sliding_window"] = true;
  if (window > 0) config["max_window_layers"] = 0;
  read_rope(metadata, arch, config);
  read_end_tokens(metadata, config);
  read_moba(metadata, config);
  return config;
}

std::vector<float> rope_frequency_factors(const Gguf& file) {
  const CheckpointTensor* tensor = file.find(kRopeFactors);
  if (tensor == nullptr) return {};
  MOBA_CHECK(tensor->element_type == DType::kFloat32 && tensor->shape.size() == 1,
             file.path().string(), ": tensor ", in_quotes(kRopeFactors),
             " is not a vector of float32");
  std::vector<float> factors(static_cast<std::size_t>(tensor->shape.front()));
  std::memcpy(factors.data(), tensor->data, factors.size() * sizeof(float));
  for (const float factor : factors) {
    MOBA_CHECK(factor > 0 && std::isfinite(factor), file.path().string(), ": tensor ",
               in_quotes(kRopeFactors), " has the value ", factor, ", must be above 0");
  }
  return factors;
}

}  // namespace moba
