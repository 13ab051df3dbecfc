// What a checkpoint says of its model, in the engine's words.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "device/dtype.h"

namespace moba {

enum class RopeType : std::uint8_t { kDefault, kLinear, kDynamic, kLlama3, kYarn };

// Rotary position embedding; the parameters that a type does not use keep their defaults.
struct RopeConfig {
  RopeType type = RopeType::kDefault;
  double theta = 10000.0;
  double factor = 1.0;
  std::int64_t original_max_position = 0;  // dynamic (max_position_embeddings), llama3, yarn
  double low_freq_factor = 1.0;            // llama3
  double high_freq_factor = 4.0;           // llama3
  double beta_fast = 32.0;                 // yarn
  double beta_slow = 1.0;                  // yarn
  std::optional<double>
      attention_factor;  // yarn; else derived from factor (and mscale, mscale_all_dim)
  std::optional<double> mscale;
  std::optional<double> mscale_all_dim;
  bool truncate = true;  // yarn: correction range rounded to whole dimensions
  // Empty, or [head_dim / 2]: what each frequency is divided by, on top of the type (how GGUF files
  // have Llama 3's scaling).
  std::vector<float> frequency_factors;
};

enum class AttentionKind : std::uint8_t { kFull, kMoba };

// The checkpoint's own MoBA settings (keys moba_chunk_size, moba_topk, moba_full_attention_layers,
// or "moba_attention" in layer_types).
struct MobaConfig {
  int block_size = 0;  // tokens; 0: the checkpoint says nothing of MoBA
  int topk = 0;        // blocks, the query's own included
};

// One decoder-only transformer of the Llama kind. Sizes are elements.
struct ModelConfig {
  std::string architecture;  // "LlamaForCausalLM"
  std::string model_type;    // "llama"
  std::int64_t vocab_size = 0;
  int hidden_size = 0;
  int intermediate_size = 0;
  int num_layers = 0;
  int num_q_heads = 0;
  int num_kv_heads = 0;
  int head_dim = 0;
  float rms_norm_eps = 1e-6F;
  bool tie_word_embeddings = false;
  bool qkv_bias = false;  // Qwen2; Llama with attention_bias
  bool o_bias = false;    // Llama with attention_bias
  bool mlp_bias = false;
  bool qk_norm = false;  // Qwen3: RMSNorm on every head's q and k before RoPE
  std::int64_t max_position_embeddings = 0;
  RopeConfig rope;
  DType dtype = DType::kFloat32;  // dtype or torch_dtype: what the weights were saved as
  bool quantized = false;         // some weights are of a block format
  // Some layers were made to see only so many of the last tokens, the query's own included. The
  // engine runs them as full attention, which is the same only for sequences up to that length: do
  // not run longer ones (load_causal_lm refuses a longer max_model_len).
  std::optional<std::int64_t> sliding_window;
  MobaConfig moba;
  std::vector<AttentionKind> layer_kinds;  // [num_layers]

  std::optional<std::int32_t> bos_token_id;
  std::vector<std::int32_t> eos_token_ids;
};

class JsonObject;

// What a config.json says, in the spellings of transformers 4 and 5. A key that is absent or null
// means what it means there. Throws Error with one line naming the file and the key: an
// architecture that is not in model/registry.cpp, a value of the wrong type or out of range, keys
// that contradict each other, and what the engine does not compute (quantized weights, other
// activations or RoPE types).
ModelConfig read_model_config(const JsonObject& config);

// The same from config.json of a checkpoint directory, or from the metadata of a GGUF file.
ModelConfig load_model_config(const std::filesystem::path& path);

// generation_config.json: defaults for sampling that the checkpoint ships; absent file: all empty.
struct GenerationConfig {
  std::optional<bool> do_sample;
  std::optional<float> temperature;
  std::optional<float> top_p;
  std::optional<int> top_k;
  std::optional<float> repetition_penalty;
  std::vector<std::int32_t> eos_token_ids;
};
// Of a GGUF file: all empty.
GenerationConfig load_generation_config(const std::filesystem::path& path);

}  // namespace moba
