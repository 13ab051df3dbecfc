// What is asked of an engine, and what comes back.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "moba/config.h"
#include "moba/sampling_params.h"
#include "moba/status.h"

namespace moba {

// Attention of one request where it differs from the engine's. The block size cannot differ.
struct AttentionOverride {
  std::optional<AttentionMode> mode;
  std::optional<int> moba_topk;
  std::optional<std::string> full_attention_layers;
  std::optional<DecodeAttention> decode;
};

struct Request {
  // The prompt: token ids as they are, or, if empty, text (encoded with the tokenizer's own BOS
  // handling).
  std::vector<std::int32_t> prompt_ids;
  std::string prompt;
  // Text such as "</s>" in the prompt becomes that token.
  bool parse_special_tokens = false;
  SamplingParams sampling;
  AttentionOverride attention;
  // Requests share computed pages of equal beginnings only with those of an equal salt.
  std::string cache_salt;
  // Requests of a smaller number go first; in the order of arrival among equals.
  int priority = 0;
  // A request that has not ended by then ends as cancelled, with stop_reason "deadline"; counted
  // from submit(). Absent: no limit.
  std::optional<double> timeout_seconds;
};

struct TokenLogprob {
  std::int32_t token_id = 0;
  float logprob = 0;
  std::vector<std::pair<std::int32_t, float>> top;  // most probable first
};

struct RequestOutput;

enum class FinishReason { kNone, kStop, kLength, kCancelled };

// One more token of a running request. References live until the callback returns.
struct TokenEvent {
  std::int32_t token_id = 0;
  // Text that became complete with this token; never half a character, never part of a stop string.
  // May be empty.
  const std::string& text;
  const TokenLogprob* logprob = nullptr;  // if asked for
  int sample = 0;                         // of n
};

struct Callbacks {
  // All are called on the engine's thread, which computes nothing meanwhile: they should be quick,
  // and must not wait for a request. One that throws fails its request.
  //
  // Called in order for each token. Returning false cancels the request.
  std::function<bool(const TokenEvent&)> on_token;
  // Called after each step of the prompt: tokens computed so far, tokens in all. Returning false
  // cancels the request.
  std::function<bool(std::int64_t computed, std::int64_t total)> on_prompt;
  // Called once, after all the others, when the request has ended, however, with what wait() on its
  // handle is about to give. It may come before submit() has returned, and does not come for a
  // request that submit() refuses. What it throws is lost.
  std::function<void(const Result<RequestOutput>& result)> on_finish;
};

struct RequestMetrics {
  std::int64_t num_prompt_tokens = 0;
  std::int64_t num_cached_tokens = 0;      // of the prompt, found in the prefix cache
  std::int64_t num_output_tokens = 0;      // of all samples
  double prompt_seconds = 0;               // from the first step to the first token's logits
  double time_to_first_token_seconds = 0;  // from the call, tokenising and waiting included
  double decode_seconds = 0;               // from the first token to the last
  std::int64_t moba_blocks_attended = 0;   // sums over MoBA layers, query tokens and heads
  std::int64_t moba_blocks_available = 0;
};

// What samples 1, 2 ... of a request with n > 1 came to.
struct SampleOutput {
  std::vector<std::int32_t> token_ids;
  std::string text;
  FinishReason finish_reason = FinishReason::kNone;
  std::string stop_reason;
  std::vector<TokenLogprob> logprobs;
};

// The fields of a sample are those of the first.
struct RequestOutput {
  std::vector<std::int32_t> prompt_ids;
  std::vector<std::int32_t> token_ids;  // the stop token, if one ended it, included
  std::string text;
  FinishReason finish_reason = FinishReason::kNone;
  std::string stop_reason;  // the stop string, or the stop token's name, that ended it; "deadline"
  std::vector<TokenLogprob> logprobs;
  std::vector<TokenLogprob> prompt_logprobs;  // of prompt tokens 1, 2, ...
  std::vector<SampleOutput> more_samples;     // n - 1 of them
  RequestMetrics metrics;
};

}  // namespace moba
