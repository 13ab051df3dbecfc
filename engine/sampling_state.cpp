#include "engine/sampling_state.h"

#include <cmath>
#include <cstddef>
#include <limits>
#include <optional>

#include "device/check.h"

namespace moba {
namespace {

constexpr int kMaxLogprobs = 100;

// The comparisons are written so that NaN fails them.
void check_range(const char* name, float value, float low, float high) {
  MOBA_CHECK(value >= low && value <= high, name, " is ", value, "; it must be in [", low, ", ",
             high, "]");
}

void check_token_id(const char* name, std::int32_t id, std::int64_t vocab_size) {
  MOBA_CHECK(id >= 0 && id < vocab_size, name, " names token ", id,
             ", outside the vocabulary 0 .. ", vocab_size - 1);
}

void check_logprobs(const char* name, const std::optional<int>& value) {
  if (!value) return;
  MOBA_CHECK(*value >= 0 && *value <= kMaxLogprobs, name, " is ", *value, "; it must be in [0, ",
             kMaxLogprobs, "]");
}

}  // namespace

void validate(const SamplingParams& params, std::int64_t vocab_size) {
  MOBA_CHECK(params.temperature >= 0.0F && std::isfinite(params.temperature), "temperature is ",
             params.temperature, "; it must be a finite number >= 0");
  MOBA_CHECK(params.top_k >= -1, "top_k is ", params.top_k,
             "; it must be positive, or 0 or -1 for all tokens");
  MOBA_CHECK(params.top_p > 0.0F && params.top_p <= 1.0F, "top_p is ", params.top_p,
             "; it must be in (0, 1]");
  check_range("min_p", params.min_p, 0.0F, 1.0F);
  MOBA_CHECK(params.repetition_penalty > 0.0F && std::isfinite(params.repetition_penalty),
             "repetition_penalty is ", params.repetition_penalty,
             "; it must be a finite number > 0");
  check_range("presence_penalty", params.presence_penalty, -2.0F, 2.0F);
  check_range("frequency_penalty", params.frequency_penalty, -2.0F, 2.0F);
  for (const auto& [id, bias] : params.logit_bias) {
    check_token_id("logit_bias", id, vocab_size);
    MOBA_CHECK(bias < std::numeric_limits<float>::infinity(), "logit_bias of token ", id, " is ",
               bias, "; it must be a finite number, or -inf to forbid the token");
  }
  MOBA_CHECK(params.n >= 1, "n is ", params.n, "; it must be >= 1");
  MOBA_CHECK(!params.max_tokens || *params.max_tokens >= 0, "max_tokens is ",
             params.max_tokens.value_or(0), "; it must be >= 0");
  MOBA_CHECK(params.min_tokens >= 0, "min_tokens is ", params.min_tokens, "; it must be >= 0");
  MOBA_CHECK(!params.max_tokens || params.min_tokens <= *params.max_tokens, "min_tokens ",
             params.min_tokens, " is more than max_tokens ", params.max_tokens.value_or(0));
  for (std::size_t i = 0; i < params.stop.size(); ++i) {
    MOBA_CHECK(!params.stop[i].empty(), "stop: string ", i, " is empty");
  }
  for (const std::int32_t id : params.stop_token_ids) {
    check_token_id("stop_token_ids", id, vocab_size);
  }
  check_logprobs("logprobs", params.logprobs);
  check_logprobs("prompt_logprobs", params.prompt_logprobs);
}

SamplingState make_sampling_state(const SamplingParams& params, std::int64_t vocab_size,
                                  std::span<const std::int32_t> eos_token_ids,
                                  std::span<const std::int32_t> prompt, std::uint64_t seed) {
  SamplingState state;
  state.temperature = params.temperature;
  state.top_k = params.top_k > 0 && params.top_k < vocab_size ? params.top_k : 0;
  state.top_p = params.top_p;
  state.min_p = params.min_p;
  state.repetition_penalty = params.repetition_penalty;
  state.presence_penalty = params.presence_penalty;
  state.frequency_penalty = params.frequency_penalty;
  state.logit_bias.assign(params.logit_bias.begin(), params.logit_bias.end());
  state.seed = params.seed.value_or(seed);
  state.num_logprobs = params.logprobs.value_or(-1);
  state.min_tokens = params.min_tokens;
  if (params.min_tokens > 0) {
    state.forbidden_before_min_tokens = params.stop_token_ids;
    if (!params.ignore_eos) {
      for (const std::int32_t id : eos_token_ids) {
        if (id >= 0 && id < vocab_size) state.forbidden_before_min_tokens.push_back(id);
      }
    }
  }
  if (state.has_penalties()) {
    state.counts.resize(vocab_size);
    if (state.repetition_penalty != 1.0F) {
      for (const std::int32_t id : prompt) state.counts.add_prompt_token(id);
    }
  }
  return state;
}

}  // namespace moba
