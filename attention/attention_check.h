// Checks what comes into attention, on any device.
#pragma once

#include <cstdint>

#include "attention/attention_backend.h"

namespace moba {

// Throws Error, naming the value, for a configuration that no backend runs: sizes must be positive,
// heads divisible by KV heads, head_dim a multiple of 8 up to 256, moba_block_size a multiple of
// block_size, the dtype float32, bfloat16 or float16.
void check_config(const AttentionConfig& config);

// Throws Error, naming the sequence and the number, unless the metadata is consistent and within
// the configuration's limits. Returns the largest page id that a sequence uses, -1 if none does.
std::int32_t check_metadata(const AttentionConfig& config, const AttentionMetadata& metadata);

// Throws Error unless layer, tensors and cache have the shapes and dtypes of the configuration and
// of a batch of num_tokens tokens whose largest page id is max_page.
void check_run(const AttentionConfig& config, int layer, std::int64_t num_tokens,
               std::int32_t max_page, const TensorView& q, const PagedKvView& cache,
               const TensorView& out);

}  // namespace moba
