// How much memory goes to the KV cache and how long a sequence may be. Pure.
#pragma once

#include <cstdint>
#include <string>

#include "model/model_config.h"

namespace moba {

struct MemoryPlanInput {
  std::int64_t weight_bytes = 0;
  std::int64_t workspace_bytes = 0;  // activations, attention, sampling
  std::int64_t available_bytes = 0;  // of memory, before any of these are taken
  std::int64_t page_bytes = 0;       // one page over all layers, centroids included
  int block_size = 0;                // tokens per page

  std::int64_t cache_bytes = 0;  // asked for; 0: what one sequence of max_model_len needs, or
                                 // max_num_seqs of kTypicalLen if that is more, but at most 80%
                                 // of what is free beside weights and workspace
  bool takes_all = false;  // with cache_bytes 0: all that is free (a GPU's memory is for that)
  std::int64_t max_model_len = 0;      // asked for; 0: default_model_len, or what fits if less
  std::int64_t default_model_len = 0;  // the checkpoint's max_position_embeddings
  std::int64_t longest_model_len = 0;  // what its position embedding can reach
  int max_num_seqs = 1;
};

// A cache whose size nobody gave has room for sequences of that length side by side.
inline constexpr std::int64_t kTypicalLen = 4096;

struct MemoryPlan {
  std::int64_t num_pages = 0;
  std::int64_t kv_cache_bytes = 0;
  std::int64_t max_model_len = 0;  // one sequence of that length always fits into the pages
};

// Throws StatusError: kInvalidArgument for options out of range, kResourceExhausted for what does
// not fit, both with the numbers.
MemoryPlan plan_memory(const MemoryPlanInput& input);

// Longest sequence that the checkpoint's position embedding is made for: max_position_embeddings,
// stretched by RoPE scaling where the scaling's base is that length.
std::int64_t longest_model_len(const ModelConfig& config);

std::string format_bytes(std::int64_t bytes);  // "1.25 GiB", "37.8 MiB", "512 B"

}  // namespace moba
