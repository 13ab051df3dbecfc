// Chooses the next token of a sequence from a row of logits.
#pragma once

#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "engine/logits_math.h"
#include "engine/sampling_state.h"
#include "moba/request.h"

namespace moba {

struct SampledToken {
  std::int32_t token_id = 0;
  bool has_logprob = false;
  TokenLogprob logprob;  // from the logits as they came
};

// The log probabilities of one prompt position. `num_top` most probable tokens beside the one that
// stands there.
struct LogprobWorkspace {
  std::vector<std::pair<std::int32_t, float>> top;
};
// Throws Error, naming `what`, for a row with NaN or +infinity.
void check_row(const RowMax& max, const char* what);
// Throws Error for a row, bias and penalties applied, that has no token left.
void check_any_allowed(const RowMax& max, std::int64_t vocab_size);

TokenLogprob compute_logprob(std::span<const float> logits, std::int32_t token_id, int num_top,
                             LogprobWorkspace& workspace);

// The order of sampling_params.h: bias, penalties, forbidden tokens (a mask of allowed tokens has
// its place here), temperature, top-k, top-p, min-p, draw. A choice is a function of the row, the
// state and the position only: ties go to the smaller id, sums run in the order of ids, and the
// random number is Philox's of (seed, position).
//
// Holds buffers that are reused from token to token: one sampler per thread.
class Sampler {
 public:
  // `logits` is changed in place. `position` is the number of tokens before the new one. Throws
  // Error if the row has NaN or infinity, or if no token is allowed.
  SampledToken sample(std::span<float> logits, const SamplingState& state, std::int64_t position);

  // The parts of sample() for a row that lies in pieces (engine/sharded_sampling.h).
  //
  // Bias, penalties and forbidden tokens on the logits of ids [first_id, first_id + size).
  void adjust_logits(std::span<float> logits, std::int32_t first_id, const SamplingState& state);
  // What the logit of an id of the piece that was adjusted last was before.
  float original_logit(std::span<const float> logits, std::int32_t first_id, std::int32_t id) const;
  // The draw from a row whose state.top_k largest logits (or all, if fewer) are `top`, in the order
  // of top_n(); state.top_k > 0, temperature > 0.
  std::int32_t draw_from_top(std::span<const std::pair<std::int32_t, float>> top,
                             const SamplingState& state, std::int64_t position);

 private:
  // A token still in the draw; weights are relative to the largest, which has 1.
  struct Candidate {
    std::int32_t id;
    float weight;
  };

  void set_logit(float& logit, std::int32_t id, float value);
  std::int32_t draw(std::span<const float> logits, float max, const SamplingState& state,
                    double uniform);
  double collect_candidates(std::span<const float> logits, float max, const SamplingState& state);
  double take_candidates(std::span<const std::pair<std::int32_t, float>> top, float max,
                         float scale);
  std::int32_t draw_candidate(double sum, const SamplingState& state, double uniform);
  double apply_top_p(double sum, float top_p);
  std::int32_t draw_from_all(std::span<const float> logits, float max, float scale, double uniform);

  LogprobWorkspace logprob_workspace_;
  std::vector<std::pair<std::int32_t, float>> changed_;  // (id, logit as it came), first change
                                                         // of an id first
  std::vector<std::pair<std::int32_t, float>> top_;
  std::vector<float> weights_;
  std::vector<Candidate> candidates_;  // in the order of ids
  std::vector<Candidate> scratch_;
};

}  // namespace moba
