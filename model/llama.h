// The decoder-only transformer of Llama and its relatives.
#pragma once

#include <filesystem>
#include <memory>

#include "model/causal_lm.h"

namespace moba {

// See load_causal_lm. Biases, QK-norm, head_dim and tied embeddings are as `config` says, so that
// one description serves Llama, Mistral, Qwen2 and Qwen3.
std::unique_ptr<CausalLM> load_llama(DeviceContext& context, const std::filesystem::path& dir,
                                     const ModelConfig& config, const ModelOptions& options);

}  // namespace moba
