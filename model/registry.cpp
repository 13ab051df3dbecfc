#include "model/registry.h"

#include <algorithm>
#include <array>

#include "device/check.h"
#include "model/json_file.h"
#include "model/llama.h"

namespace moba {
namespace {

constexpr std::array<ModelFamily, 4> kFamilies{{
    {.architecture = "LlamaForCausalLM",
     .model_type = "llama",
     .reads_attention_bias = true,
     .reads_mlp_bias = true,
     .default_max_position_embeddings = 2048,
     .load = load_llama},
    {.architecture = "MistralForCausalLM",
     .model_type = "mistral",
     .sliding_window = SlidingWindowRule::kAlways,
     .default_num_kv_heads = 8,
     .default_max_position_embeddings = 131072,
     .load = load_llama},
    {.architecture = "Qwen2ForCausalLM",
     .model_type = "qwen2",
     .qkv_bias = true,
     .sliding_window = SlidingWindowRule::kIfEnabled,
     .default_num_kv_heads = 32,
     .default_max_position_embeddings = 32768,
     .load = load_llama},
    {.architecture = "Qwen3ForCausalLM",
     .model_type = "qwen3",
     .reads_attention_bias = true,
     .qk_norm = true,
     .sliding_window = SlidingWindowRule::kIfEnabled,
     .default_num_kv_heads = 32,
     .default_head_dim = 128,
     .default_max_position_embeddings = 32768,
     .load = load_llama},
}};

}  // namespace

std::span<const ModelFamily> model_families() { return kFamilies; }

const ModelFamily* find_family_by_architecture(std::string_view architecture) {
  const auto* it = std::find_if(kFamilies.begin(), kFamilies.end(), [&](const ModelFamily& f) {
    return f.architecture == architecture;
  });
  return it == kFamilies.end() ? nullptr : it;
}

const ModelFamily* find_family_by_model_type(std::string_view model_type) {
  const auto* it = std::find_if(kFamilies.begin(), kFamilies.end(),
                                [&](const ModelFamily& f) { return f.model_type == model_type; });
  return it == kFamilies.end() ? nullptr : it;
}

std::string known_architectures() {
  std::string names;
  for (const ModelFamily& family : kFamilies) {
    if (!names.empty()) names += ", ";
    names += family.architecture;
  }
  return names;
}

std::unique_ptr<CausalLM> load_causal_lm(DeviceContext& context, const std::filesystem::path& dir,
                                         const ModelConfig& config, const ModelOptions& options) {
  const ModelFamily* family = find_family_by_architecture(config.architecture);
  MOBA_CHECK(family != nullptr, dir.string(), ": architecture ", in_quotes(config.architecture),
             " is not supported; known: ", known_architectures());
  return family->load(context, dir, config, options);
}

}  // namespace moba
