// The architectures that the engine runs: one row each, in a table that is written out.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "model/causal_lm.h"

namespace moba {

// When a checkpoint's layers look at a window of the last tokens only.
enum class SlidingWindowRule : std::uint8_t {
  kNever,      // a key sliding_window means nothing
  kAlways,     // all layers, unless sliding_window is null (Mistral)
  kIfEnabled,  // with use_sliding_window: the layers from max_window_layers on (Qwen)
};

// What an architecture adds to the one transformer description of ModelConfig, and what its
// config.json means by leaving a key out (the defaults of its configuration class in transformers).
struct ModelFamily {
  std::string_view architecture;  // in config.json: architectures[0]
  std::string_view model_type;

  bool qkv_bias = false;              // q, k and v always have biases
  bool reads_attention_bias = false;  // key attention_bias: biases on q, k, v and o
  bool reads_mlp_bias = false;        // key mlp_bias
  bool qk_norm = false;
  SlidingWindowRule sliding_window = SlidingWindowRule::kNever;

  int default_num_kv_heads = 0;  // 0: as many as query heads
  int default_head_dim = 0;      // 0: hidden_size / num_attention_heads
  std::int64_t default_max_position_embeddings = 0;

  std::unique_ptr<CausalLM> (*load)(DeviceContext& context, const std::filesystem::path& dir,
                                    const ModelConfig& config, const ModelOptions& options);
};

std::span<const ModelFamily> model_families();
// Null if there is none.
const ModelFamily* find_family_by_architecture(std::string_view architecture);
const ModelFamily* find_family_by_model_type(std::string_view model_type);
// "LlamaForCausalLM, MistralForCausalLM ...": for the error about an unknown one.
std::string known_architectures();

}  // namespace moba
