// What the sampler keeps of one sequence: its checked parameters and what its tokens have been.
#pragma once

#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "moba/sampling_params.h"

namespace moba {

// Throws Error naming the parameter, its value and what it may be. vocab_size bounds token ids.
void validate(const SamplingParams& params, std::int64_t vocab_size);

// How often each token was seen, for the penalties: a dense table and the list of those seen, so
// that a token costs O(1) and a penalty pass O(distinct tokens).
class TokenCounts {
 public:
  struct Entry {
    std::int32_t token_id;
    std::int32_t output_count;  // 0: in the prompt only
  };

  // Empty until sized; the table takes 4 bytes for each token of the vocabulary.
  void resize(std::int64_t vocab_size) { index_.assign(static_cast<std::size_t>(vocab_size), -1); }
  void add_prompt_token(std::int32_t id) { entry(id); }
  void add_output_token(std::int32_t id) { ++entry(id).output_count; }
  std::span<const Entry> entries() const { return entries_; }
  // Another table's entry, of a token that has not been seen here.
  void restore(const Entry& other) { entry(other.token_id).output_count = other.output_count; }

 private:
  Entry& entry(std::int32_t id) {
    std::int32_t& index = index_[static_cast<std::size_t>(id)];
    if (index < 0) {
      index = static_cast<std::int32_t>(entries_.size());
      entries_.push_back({id, 0});
    }
    return entries_[static_cast<std::size_t>(index)];
  }

  std::vector<std::int32_t> index_;  // [vocab_size]: place in entries_, or -1
  std::vector<Entry> entries_;
};

// Plain data apart from the counts; the sampler only reads it.
struct SamplingState {
  float temperature = 1.0F;
  int top_k = 0;  // 0: all
  float top_p = 1.0F;
  float min_p = 0.0F;
  float repetition_penalty = 1.0F;
  float presence_penalty = 0.0F;
  float frequency_penalty = 0.0F;
  std::vector<std::pair<std::int32_t, float>> logit_bias;
  std::uint64_t seed = 0;
  std::uint32_t stream = 0;  // tells parallel samples of one request apart
  int num_logprobs = -1;     // -1: none asked for
  int min_tokens = 0;
  std::vector<std::int32_t> forbidden_before_min_tokens;
  TokenCounts counts;         // kept only if a penalty needs it
  int num_output_tokens = 0;  // those that a step under way is to choose included

  bool greedy() const { return temperature == 0.0F; }
  bool has_penalties() const {
    return repetition_penalty != 1.0F || presence_penalty != 0.0F || frequency_penalty != 0.0F;
  }
  // Whether the next token can be sampled before the last one is known here.
  bool can_run_ahead() const { return !has_penalties(); }
  // A token is being chosen; then, which it is.
  void begin_output_token() { ++num_output_tokens; }
  void add_output_token(std::int32_t id) {
    if (has_penalties()) counts.add_output_token(id);
  }
};

// `params` are valid. `seed` is used if they carry none; `eos_token_ids` are what ends a sequence
// unless ignored.
SamplingState make_sampling_state(const SamplingParams& params, std::int64_t vocab_size,
                                  std::span<const std::int32_t> eos_token_ids,
                                  std::span<const std::int32_t> prompt, std::uint64_t seed);

}  // namespace moba
