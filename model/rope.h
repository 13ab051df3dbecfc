// Frequencies of rotary position embedding.
#pragma once

#include <cstdint>
#include <vector>

#include "model/model_config.h"

namespace moba {

struct RopeFrequencies {
  std::vector<float> inv_freq;     // [head_dim / 2] radians per position
  float attention_scaling = 1.0F;  // factor on every cosine and sine (yarn)
};

// As transformers computes them (modeling_rope_utils.py), step by step in float32 where it does:
// models were trained with that rounding, and at position 100,000 it is worth 0.01 radian.
// max_model_len is used by dynamic RoPE only: transformers derives its frequencies from the longest
// position of each call; here it is the model's maximum, for all sequences, so that a result does
// not depend on how a prompt was cut into chunks. head_dim is even.
RopeFrequencies compute_rope_frequencies(const RopeConfig& config, int head_dim,
                                         std::int64_t max_model_len);

}  // namespace moba
