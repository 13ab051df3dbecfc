// How the next token of a sequence is chosen.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

namespace moba {

// The names and meanings are those of vLLM and the OpenAI API. Order of application: logit bias;
// repetition, then presence and frequency penalties; the tokens min_tokens forbids; temperature;
// top_k; top_p; min_p; draw. Greedy takes the largest logit after the penalties (of equal ones the
// smallest id).
struct SamplingParams {
  float temperature = 1.0F;  // >= 0; 0: greedy
  int top_k = 0;             // > 0: only the k most probable; 0 or -1: all
  float top_p = 1.0F;  // in (0, 1]: the smallest set of tokens whose probability reaches top_p
  float min_p = 0.0F;  // in [0, 1]: only tokens with at least min_p times the largest probability
  float repetition_penalty =
      1.0F;  // > 0: divides positive and multiplies negative logits of tokens in prompt or output
  float presence_penalty = 0.0F;  // in [-2, 2]: subtracted from logits of tokens in the output
  float frequency_penalty =
      0.0F;  // in [-2, 2]: subtracted once for each time the token is in the output
  std::map<std::int32_t, float> logit_bias;  // token id -> added to its logit; -inf forbids it
  // Same seed and same request: same tokens, whatever runs beside it. Absent: drawn from the
  // system's entropy.
  std::optional<std::uint64_t> seed;

  // Samples of one prompt, which is computed once; each has its own random numbers. 1 to
  // max_num_seqs.
  int n = 1;

  // Absent: up to max_model_len. 0: nothing is generated (for prompt_logprobs).
  std::optional<int> max_tokens;
  int min_tokens = 0;             // end-of-sequence and stop tokens are forbidden before
  std::vector<std::string> stop;  // ends the output before the first of these strings
  bool include_stop_str_in_output = false;
  std::vector<std::int32_t> stop_token_ids;  // end the output; not part of its text
  bool ignore_eos = false;
  bool skip_special_tokens = true;

  // Present: the log probability of each chosen token and of the n most probable ones, from the
  // unmodified logits.
  std::optional<int> logprobs;  // 0 to 100
  // Present: the same for each prompt token but the first.
  std::optional<int> prompt_logprobs;
};

}  // namespace moba
