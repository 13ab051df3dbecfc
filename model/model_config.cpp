#include "model/model_config.h"

#include <algorithm>
#include <limits>
#include <string_view>

#include "device/check.h"
#include "model/gguf.h"
#include "model/json_file.h"
#include "model/registry.h"

namespace moba {
namespace {

// Bounds far above any model: their products cannot overflow.
constexpr std::int64_t kMaxVocab = std::int64_t{1} << 24;
constexpr std::int64_t kMaxHidden = std::int64_t{1} << 20;
constexpr std::int64_t kMaxIntermediate = std::int64_t{1} << 22;
constexpr std::int64_t kMaxLayers = std::int64_t{1} << 14;
constexpr std::int64_t kMaxHeads = std::int64_t{1} << 14;
constexpr std::int64_t kMaxHeadDim = std::int64_t{1} << 12;
constexpr std::int64_t kMaxInt = std::numeric_limits<std::int32_t>::max();

constexpr std::int64_t kDefaultSlidingWindow = 4096;  // Mistral, Qwen
constexpr std::int64_t kDefaultMaxWindowLayers = 28;  // Qwen
constexpr double kDefaultRopeTheta = 10000.0;
constexpr double kDefaultRmsNormEps = 1e-6;

const ModelFamily& read_family(const JsonObject& config) {
  const std::vector<std::string> names = config.strings("architectures");
  if (names.empty()) {
    // As transformers, which chooses the class by model_type alone.
    const std::string& type = config.string("model_type");
    const ModelFamily* family = find_family_by_model_type(type);
    if (family == nullptr) {
      config.fail("model_type", in_quotes(type), " is not supported (and there is no ",
                  "architectures); known architectures: ", known_architectures());
    }
    return *family;
  }
  const ModelFamily* family = find_family_by_architecture(names.front());
  if (family == nullptr) {
    config.fail("architectures", "names ", in_quotes(names.front()),
                ", which is not supported; known: ", known_architectures());
  }
  if (config.has("model_type") && config.string("model_type") != family->model_type) {
    config.fail("model_type", in_quotes(config.string("model_type")), " contradicts architecture ",
                family->architecture);
  }
  return *family;
}

// What the engine would otherwise compute wrongly without a word.
void refuse_unsupported(const JsonObject& config) {
  if (config.has("quantization_config")) {
    const JsonObject quantization = config.object("quantization_config");
    config.fail("quantization_config", "is set",
                quantization.has("quant_method")
                    ? concat(" (", in_quotes(quantization.string("quant_method")), ")")
                    : "",
                ": quantized checkpoints are not supported");
  }
  if (config.has("hidden_act") && config.string("hidden_act") != "silu") {
    config.fail("hidden_act", in_quotes(config.string("hidden_act")),
                " is not supported; known: silu");
  }
}

void read_sizes(const JsonObject& config, const ModelFamily& family, ModelConfig& out) {
  out.vocab_size = config.integer("vocab_size", 1, kMaxVocab);
  out.hidden_size = static_cast<int>(config.integer("hidden_size", 1, kMaxHidden));
  out.intermediate_size =
      static_cast<int>(config.integer("intermediate_size", 1, kMaxIntermediate));
  out.num_layers = static_cast<int>(config.integer("num_hidden_layers", 1, kMaxLayers));
  out.num_q_heads = static_cast<int>(config.integer("num_attention_heads", 1, kMaxHeads));

  const int kv_heads =
      family.default_num_kv_heads > 0 ? family.default_num_kv_heads : out.num_q_heads;
  out.num_kv_heads =
      static_cast<int>(config.integer_or("num_key_value_heads", kv_heads, 1, kMaxHeads));
  if (out.num_q_heads % out.num_kv_heads != 0) {
    config.fail("num_attention_heads", out.num_q_heads, " is not divisible by num_key_value_heads ",
                out.num_kv_heads);
  }

  if (config.has("head_dim")) {
    out.head_dim = static_cast<int>(config.integer("head_dim", 1, kMaxHeadDim));
  } else if (family.default_head_dim > 0) {
    out.head_dim = family.default_head_dim;
  } else {
    if (out.hidden_size % out.num_q_heads != 0) {
      config.fail("hidden_size", out.hidden_size, " is not divisible by num_attention_heads ",
                  out.num_q_heads, ", and there is no head_dim");
    }
    out.head_dim = out.hidden_size / out.num_q_heads;
    if (out.head_dim > kMaxHeadDim) {
      config.fail("head_dim", "is ", out.head_dim, " (hidden_size / num_attention_heads), at most ",
                  kMaxHeadDim, " is allowed");
    }
  }
  if (out.head_dim % 2 != 0) {
    config.fail("head_dim", out.head_dim, " is odd: rotary embedding needs pairs");
  }

  const double eps = config.number_or("rms_norm_eps", kDefaultRmsNormEps);
  if (eps < 0 || eps > 1) config.fail("rms_norm_eps", "is ", eps, ", must be from 0 to 1");
  out.rms_norm_eps = static_cast<float>(eps);
  out.max_position_embeddings = config.integer_or(
      "max_position_embeddings", family.default_max_position_embeddings, 1, kMaxInt);
  out.tie_word_embeddings = config.boolean_or("tie_word_embeddings", false);

  const bool attention_bias =
      family.reads_attention_bias && config.boolean_or("attention_bias", false);
  out.qkv_bias = family.qkv_bias || attention_bias;
  out.o_bias = attention_bias;
  out.mlp_bias = family.reads_mlp_bias && config.boolean_or("mlp_bias", false);
  out.qk_norm = family.qk_norm;
}

DType read_dtype(const JsonObject& config) {
  // transformers 5 writes dtype, 4 torch_dtype.
  const char* key = config.has("dtype") ? "dtype" : "torch_dtype";
  if (!config.has(key)) return DType::kFloat32;
  const std::string& name = config.string(key);
  for (const DType dtype : {DType::kFloat32, DType::kBFloat16, DType::kFloat16}) {
    if (name == dtype_name(dtype)) return dtype;
  }
  config.fail(key, in_quotes(name), " is not supported; known: float32, bfloat16, float16");
}

RopeType read_rope_type(const JsonObject& rope) {
  const char* key = rope.has("rope_type") ? "rope_type" : "type";
  if (!rope.has(key)) return RopeType::kDefault;
  const std::string& name = rope.string(key);
  if (name == "default") return RopeType::kDefault;
  if (name == "linear") return RopeType::kLinear;
  if (name == "dynamic") return RopeType::kDynamic;
  if (name == "llama3") return RopeType::kLlama3;
  if (name == "yarn") return RopeType::kYarn;
  rope.fail(key, in_quotes(name),
            " is not supported; known: default, linear, dynamic, llama3, yarn");
}

double positive(const JsonObject& object, const char* key, double value) {
  if (!(value > 0)) object.fail(key, "is ", value, ", must be above 0");
  return value;
}

double read_theta(const JsonObject& object) {
  const double theta = object.number("rope_theta");
  if (!(theta > 1) || theta > 1e30) object.fail("rope_theta", "is ", theta, ", must be above 1");
  return theta;
}

void read_rope_scaling(const JsonObject& config, const JsonObject& rope, ModelConfig& out) {
  RopeConfig& to = out.rope;
  to.type = read_rope_type(rope);
  if (to.type == RopeType::kDefault) return;

  // The pretraining length: a key of its own goes before one beside the factor.
  const bool has_original = rope.has("original_max_position_embeddings");
  to.original_max_position = out.max_position_embeddings;
  if (to.type == RopeType::kLlama3 || to.type == RopeType::kYarn) {
    if (config.has("original_max_position_embeddings")) {
      to.original_max_position = config.integer("original_max_position_embeddings", 1, kMaxInt);
    } else if (has_original) {
      to.original_max_position = rope.integer("original_max_position_embeddings", 1, kMaxInt);
    }
  }
  if (to.type == RopeType::kYarn && !rope.has("factor")) {
    to.factor = static_cast<double>(out.max_position_embeddings) /
                static_cast<double>(to.original_max_position);
  } else {
    to.factor = rope.number("factor");
  }
  if (!(to.factor >= 1)) rope.fail("factor", "is ", to.factor, ", must be at least 1");

  if (to.type == RopeType::kLlama3) {
    to.low_freq_factor = positive(rope, "low_freq_factor", rope.number("low_freq_factor"));
    to.high_freq_factor = positive(rope, "high_freq_factor", rope.number("high_freq_factor"));
    if (to.high_freq_factor <= to.low_freq_factor) {
      rope.fail("high_freq_factor", "is ", to.high_freq_factor, ", must be above low_freq_factor ",
                to.low_freq_factor);
    }
  }
  if (to.type == RopeType::kYarn) {
    // transformers takes 0 for absent.
    const auto non_zero = [&](const char* key) { return rope.has(key) && rope.number(key) != 0; };
    if (non_zero("beta_fast")) to.beta_fast = positive(rope, "beta_fast", rope.number("beta_fast"));
    if (non_zero("beta_slow")) to.beta_slow = positive(rope, "beta_slow", rope.number("beta_slow"));
    if (rope.has("attention_factor")) {
      to.attention_factor = positive(rope, "attention_factor", rope.number("attention_factor"));
    }
    if (non_zero("mscale")) to.mscale = positive(rope, "mscale", rope.number("mscale"));
    if (non_zero("mscale_all_dim")) {
      to.mscale_all_dim = positive(rope, "mscale_all_dim", rope.number("mscale_all_dim"));
    }
    to.truncate = rope.boolean_or("truncate", true);
  }
}

// transformers 4 writes rope_theta and rope_scaling, 5 rope_parameters with rope_theta in it.
void read_rope(const JsonObject& config, ModelConfig& out) {
  const char* key = config.has("rope_scaling") ? "rope_scaling" : "rope_parameters";
  out.rope.theta = config.has("rope_theta") ? read_theta(config) : kDefaultRopeTheta;
  const auto refuse_partial = [](const JsonObject& object) {
    if (object.number_or("partial_rotary_factor", 1.0) != 1.0) {
      object.fail("partial_rotary_factor", "other than 1 is not supported");
    }
  };
  refuse_partial(config);
  if (!config.has(key)) return;
  const JsonObject rope = config.object(key);
  for (const char* layer_type : {"full_attention", "sliding_attention"}) {
    if (rope.has(layer_type)) rope.fail(layer_type, "is not supported: one RoPE for all layers");
  }
  refuse_partial(rope);
  if (rope.has("rope_theta")) out.rope.theta = read_theta(rope);
  read_rope_scaling(config, rope, out);
}

// Layers that see a window only: `sliding[i]`; sets out.sliding_window if there are any.
void read_sliding_window(const JsonObject& config, const ModelFamily& family,
                         const std::vector<std::string>& layer_types, ModelConfig& out) {
  std::int64_t window = 0;  // none
  const bool null_window = !config.has("sliding_window") && config.contains("sliding_window");
  if (family.sliding_window != SlidingWindowRule::kNever && !null_window) {
    window = config.integer_or("sliding_window", kDefaultSlidingWindow, 1, kMaxInt);
  }
  if (family.sliding_window == SlidingWindowRule::kIfEnabled) {
    if (!config.boolean_or("use_sliding_window", false)) window = 0;
    const std::int64_t first =
        config.integer_or("max_window_layers", kDefaultMaxWindowLayers, 0, kMaxInt);
    if (layer_types.empty() && first >= out.num_layers) window = 0;
  }
  if (!layer_types.empty() && family.sliding_window != SlidingWindowRule::kAlways) {
    const bool any =
        std::find(layer_types.begin(), layer_types.end(), "sliding_attention") != layer_types.end();
    if (any && window == 0) {
      config.fail("layer_types", "has sliding_attention, but there is no sliding_window in force");
    }
    if (!any) window = 0;
  }
  if (window > 0) out.sliding_window = window;
}

void read_layer_kinds(const JsonObject& config, const ModelFamily& family, ModelConfig& out) {
  const std::vector<std::string> types = config.strings("layer_types");
  if (!types.empty() && static_cast<int>(types.size()) != out.num_layers) {
    config.fail("layer_types", "has ", types.size(), " entries for ", out.num_layers, " layers");
  }
  read_sliding_window(config, family, types, out);

  const bool has_size = config.has("moba_chunk_size");
  if (has_size != config.has("moba_topk")) {
    config.fail(has_size ? "moba_chunk_size" : "moba_topk", "is set without ",
                has_size ? "moba_topk" : "moba_chunk_size");
  }
  if (has_size) {
    out.moba.block_size = static_cast<int>(config.integer("moba_chunk_size", 1, kMaxInt));
    out.moba.topk = static_cast<int>(config.integer("moba_topk", 1, kMaxInt));
  }
  const std::vector<std::int64_t> full =
      config.integers("moba_full_attention_layers", 0, out.num_layers - 1);
  if (!full.empty() && !has_size) {
    config.fail("moba_full_attention_layers", "is set without moba_chunk_size and moba_topk");
  }

  out.layer_kinds.assign(static_cast<std::size_t>(out.num_layers), AttentionKind::kFull);
  bool named = false;  // some layer_types entry is moba_attention: then layer_types decides
  for (std::size_t i = 0; i < types.size(); ++i) {
    if (types[i] == "moba_attention") {
      named = true;
      out.layer_kinds[i] = AttentionKind::kMoba;
    } else if (types[i] != "full_attention" && types[i] != "sliding_attention") {
      config.fail("layer_types", "has ", in_quotes(types[i]),
                  "; known: full_attention, sliding_attention, moba_attention");
    }
  }
  if (named && !has_size) {
    config.fail("layer_types", "has moba_attention, but there is no moba_chunk_size and moba_topk");
  }
  if (!named && has_size) {
    std::fill(out.layer_kinds.begin(), out.layer_kinds.end(), AttentionKind::kMoba);
  }
  for (const std::int64_t layer : full) {
    AttentionKind& kind = out.layer_kinds[static_cast<std::size_t>(layer)];
    if (named && kind == AttentionKind::kMoba) {
      config.fail("moba_full_attention_layers", "names layer ", layer,
                  ", which layer_types calls moba_attention");
    }
    kind = AttentionKind::kFull;
  }
}

std::vector<std::int32_t> read_token_ids(const JsonObject& config, const char* key) {
  std::vector<std::int32_t> ids;
  for (const std::int64_t id : config.integer_or_integers(key, 0, kMaxInt)) {
    ids.push_back(static_cast<std::int32_t>(id));
  }
  return ids;
}

}  // namespace

ModelConfig read_model_config(const JsonObject& config) {
  const ModelFamily& family = read_family(config);

  ModelConfig out;
  out.architecture = family.architecture;
  out.model_type = family.model_type;
  refuse_unsupported(config);
  read_sizes(config, family, out);
  out.dtype = read_dtype(config);
  read_rope(config, out);
  read_layer_kinds(config, family, out);
  const std::vector<std::int32_t> bos = read_token_ids(config, "bos_token_id");
  if (!bos.empty()) out.bos_token_id = bos.front();
  out.eos_token_ids = read_token_ids(config, "eos_token_id");
  return out;
}

ModelConfig load_model_config(const std::filesystem::path& path) {
  if (is_gguf_file(path)) {
    const Gguf file(path);
    const nlohmann::json json = config_from_gguf(file);
    ModelConfig out = read_model_config(JsonObject(path.string(), json));
    out.rope.frequency_factors = rope_frequency_factors(file);
    MOBA_CHECK(out.rope.frequency_factors.empty() ||
                   2 * out.rope.frequency_factors.size() == static_cast<std::size_t>(out.head_dim),
               path.string(), ": tensor 'rope_freqs.weight' has ",
               out.rope.frequency_factors.size(), " elements for heads of ", out.head_dim);
    out.quantized = std::any_of(file.entries().begin(), file.entries().end(),
                                [](const CheckpointTensor& tensor) {
                                  return tensor.element_type && is_quantized(*tensor.element_type);
                                });
    return out;
  }
  const std::filesystem::path file = path / "config.json";
  const nlohmann::json json = load_json_object(file);
  return read_model_config(JsonObject(file.string(), json));
}

GenerationConfig load_generation_config(const std::filesystem::path& checkpoint) {
  const std::filesystem::path path = checkpoint / "generation_config.json";
  GenerationConfig out;
  std::error_code ignored;
  if (!std::filesystem::exists(path, ignored)) return out;
  const nlohmann::json json = load_json_object(path);
  const JsonObject config(path.string(), json);

  if (config.has("do_sample")) out.do_sample = config.boolean_or("do_sample", false);
  if (config.has("temperature")) {
    const double temperature = config.number("temperature");
    if (temperature < 0) config.fail("temperature", "is ", temperature, ", must not be negative");
    out.temperature = static_cast<float>(temperature);
  }
  if (config.has("top_p")) {
    const double top_p = config.number("top_p");
    if (top_p < 0 || top_p > 1) config.fail("top_p", "is ", top_p, ", must be from 0 to 1");
    out.top_p = static_cast<float>(top_p);
  }
  if (config.has("top_k")) out.top_k = static_cast<int>(config.integer("top_k", 0, kMaxInt));
  if (config.has("repetition_penalty")) {
    out.repetition_penalty = static_cast<float>(
        positive(config, "repetition_penalty", config.number("repetition_penalty")));
  }
  out.eos_token_ids = read_token_ids(config, "eos_token_id");
  return out;
}

}  // namespace moba
