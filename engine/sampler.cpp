#include "engine/sampler.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>

#include "device/check.h"
#include "engine/logits_math.h"
#include "engine/philox.h"

namespace moba {
namespace {

// Largest first, of equal ones the smaller id: the order in which top-k and top-p count.
struct BeforeByWeight {
  template <typename C>
  bool operator()(const C& a, const C& b) const {
    return a.weight > b.weight || (a.weight == b.weight && a.id < b.id);
  }
};

// 1 / temperature, finite so that a difference of zero stays zero.
float inverse_temperature(float temperature) {
  return std::min(1.0F / temperature, std::numeric_limits<float>::max());
}

double log_normaliser(std::span<const float> logits) {
  const RowMax max = row_max(logits);
  check_row(max, "log probabilities");
  return log_sum_exp(logits, max.value);
}

float logprob(float logit, double normaliser) {
  return static_cast<float>(static_cast<double>(logit) - normaliser);
}

void append_top(std::span<const float> logits, double normaliser, int num_top,
                LogprobWorkspace& workspace, TokenLogprob& result) {
  if (num_top <= 0) return;
  top_n(logits, num_top, workspace.top);
  result.top.reserve(workspace.top.size());
  for (const auto& [id, logit] : workspace.top) {
    result.top.emplace_back(id, logprob(logit, normaliser));
  }
}

}  // namespace

void check_row(const RowMax& max, const char* what) {
  MOBA_CHECK(!max.has_nan && max.value < std::numeric_limits<float>::infinity(),
             "the model's logits are not finite (", what, ")");
}

void check_any_allowed(const RowMax& max, std::int64_t vocab_size) {
  MOBA_CHECK(max.value > -std::numeric_limits<float>::infinity(),
             "no token is allowed: every one of ", vocab_size, " is forbidden or biased away");
}

TokenLogprob compute_logprob(std::span<const float> logits, std::int32_t token_id, int num_top,
                             LogprobWorkspace& workspace) {
  const double normaliser = log_normaliser(logits);
  TokenLogprob result;
  result.token_id = token_id;
  result.logprob = logprob(logits[static_cast<std::size_t>(token_id)], normaliser);
  append_top(logits, normaliser, num_top, workspace, result);
  return result;
}

void Sampler::set_logit(float& logit, std::int32_t id, float value) {
  changed_.emplace_back(id, logit);
  logit = value;
}

float Sampler::original_logit(std::span<const float> logits, std::int32_t first_id,
                              std::int32_t id) const {
  const auto it = std::find_if(changed_.begin(), changed_.end(),
                               [id](const auto& change) { return change.first == id; });
  return it != changed_.end() ? it->second : logits[static_cast<std::size_t>(id - first_id)];
}

void Sampler::adjust_logits(std::span<float> logits, std::int32_t first_id,
                            const SamplingState& state) {
  // Null for an id of another piece.
  const auto find = [&](std::int32_t id) -> float* {
    const auto index = static_cast<std::size_t>(static_cast<std::uint32_t>(id - first_id));
    return id >= first_id && index < logits.size() ? &logits[index] : nullptr;
  };
  changed_.clear();
  for (const auto& [id, bias] : state.logit_bias) {
    if (float* const logit = find(id)) set_logit(*logit, id, *logit + bias);
  }
  if (state.has_penalties()) {
    for (const TokenCounts::Entry& entry : state.counts.entries()) {
      float* const place = find(entry.token_id);
      if (place == nullptr) continue;
      float logit = *place;
      logit = logit > 0 ? logit / state.repetition_penalty : logit * state.repetition_penalty;
      if (entry.output_count > 0) {
        logit -= state.presence_penalty +
                 state.frequency_penalty * static_cast<float>(entry.output_count);
      }
      set_logit(*place, entry.token_id, logit);
    }
  }
  if (state.num_output_tokens < state.min_tokens) {
    for (const std::int32_t id : state.forbidden_before_min_tokens) {
      if (float* const logit = find(id)) {
        set_logit(*logit, id, -std::numeric_limits<float>::infinity());
      }
    }
  }
}

SampledToken Sampler::sample(std::span<float> logits, const SamplingState& state,
                             std::int64_t position) {
  SampledToken result;
  result.has_logprob = state.num_logprobs >= 0;
  double normaliser = 0;
  if (result.has_logprob) {
    normaliser = log_normaliser(logits);
    append_top(logits, normaliser, state.num_logprobs, logprob_workspace_, result.logprob);
  }

  adjust_logits(logits, 0, state);
  const RowMax max = row_max(logits);
  check_row(max, "sampling");
  check_any_allowed(max, static_cast<std::int64_t>(logits.size()));

  if (state.greedy()) {
    result.token_id = max.index;
  } else {
    const double uniform =
        philox_uniform(state.seed, state.stream, static_cast<std::uint64_t>(position));
    result.token_id = draw(logits, max.value, state, uniform);
  }
  if (result.has_logprob) {
    result.logprob.token_id = result.token_id;
    result.logprob.logprob = logprob(original_logit(logits, 0, result.token_id), normaliser);
  }
  return result;
}

std::int32_t Sampler::draw(std::span<const float> logits, float max, const SamplingState& state,
                           double uniform) {
  if (state.top_k == 0 && state.top_p >= 1.0F && state.min_p <= 0.0F) {
    return draw_from_all(logits, max, inverse_temperature(state.temperature), uniform);
  }
  return draw_candidate(collect_candidates(logits, max, state), state, uniform);
}

std::int32_t Sampler::draw_from_top(std::span<const std::pair<std::int32_t, float>> top,
                                    const SamplingState& state, std::int64_t position) {
  const double uniform =
      philox_uniform(state.seed, state.stream, static_cast<std::uint64_t>(position));
  const double sum =
      take_candidates(top, top.front().second, inverse_temperature(state.temperature));
  return draw_candidate(sum, state, uniform);
}

// From candidates_, whose weights have that sum.
std::int32_t Sampler::draw_candidate(double sum, const SamplingState& state, double uniform) {
  if (state.top_p < 1.0F) sum = apply_top_p(sum, state.top_p);
  if (state.min_p > 0.0F) {
    sum = 0;
    std::size_t kept = 0;
    for (const Candidate& candidate : candidates_) {
      if (candidate.weight < state.min_p) continue;
      candidates_[kept++] = candidate;
      sum += static_cast<double>(candidate.weight);
    }
    candidates_.resize(kept);
  }
  const double target = uniform * sum;
  double below = 0;
  for (const Candidate& candidate : candidates_) {
    below += static_cast<double>(candidate.weight);
    if (target < below) return candidate.id;
  }
  // Rounding of the sum left the target above it: the last token that can be drawn.
  for (auto it = candidates_.rbegin(); it != candidates_.rend(); ++it) {
    if (it->weight > 0) return it->id;
  }
  return candidates_.back().id;
}

// Fills candidates_ after temperature and top-k; returns the sum of their weights.
double Sampler::collect_candidates(std::span<const float> logits, float max,
                                   const SamplingState& state) {
  const float scale = inverse_temperature(state.temperature);
  candidates_.clear();
  if (state.top_k > 0) {
    top_n(logits, state.top_k, top_);
    return take_candidates(top_, max, scale);
  }
  weights_.resize(logits.size());
  const double sum = exp_weights(logits, max, scale, weights_);
  // Tokens that can be left out at once: below min-p (if nothing before it needs them), or so light
  // that all of them together weigh less than what top-p leaves out.
  float least = 0;
  if (state.top_p < 1.0F) {
    least = static_cast<float>((1.0 - static_cast<double>(state.top_p)) * sum * 0.999 /
                               static_cast<double>(logits.size()));
  } else {
    least = state.min_p;
  }
  for (std::size_t i = 0; i < weights_.size(); ++i) {
    if (weights_[i] >= least) candidates_.push_back({static_cast<std::int32_t>(i), weights_[i]});
  }
  return sum;
}

double Sampler::take_candidates(std::span<const std::pair<std::int32_t, float>> top, float max,
                                float scale) {
  candidates_.clear();
  for (const auto& [id, logit] : top) {
    candidates_.push_back({id, exp_nonpositive((logit - max) * scale)});
  }
  std::sort(candidates_.begin(), candidates_.end(),
            [](const Candidate& a, const Candidate& b) { return a.id < b.id; });
  double sum = 0;
  for (const Candidate& candidate : candidates_) sum += static_cast<double>(candidate.weight);
  return sum;
}

// Keeps the smallest set of candidates_, heaviest first, whose weight reaches top_p of `sum`.
// Returns the weight kept.
double Sampler::apply_top_p(double sum, float top_p) {
  // A selection that narrows down on the candidate where the running weight reaches the goal:
  // linear in their number, where sorting is not.
  scratch_.assign(candidates_.begin(), candidates_.end());
  const double goal = static_cast<double>(top_p) * sum;
  std::size_t begin = 0;
  std::size_t end = scratch_.size();
  double before = 0;  // weight of those in front of `begin`
  while (end - begin > 1) {
    const std::size_t middle = begin + (end - begin) / 2;
    const auto first = scratch_.begin();
    std::nth_element(first + static_cast<std::ptrdiff_t>(begin),
                     first + static_cast<std::ptrdiff_t>(middle),
                     first + static_cast<std::ptrdiff_t>(end), BeforeByWeight{});
    double half = 0;
    for (std::size_t i = begin; i < middle; ++i) half += static_cast<double>(scratch_[i].weight);
    if (before + half >= goal) {
      end = middle;
    } else {
      before += half;
      begin = middle;
    }
  }
  const Candidate last = scratch_[begin];
  double kept_sum = 0;
  std::size_t kept = 0;
  for (const Candidate& candidate : candidates_) {
    if (BeforeByWeight{}(last, candidate)) continue;
    candidates_[kept++] = candidate;
    kept_sum += static_cast<double>(candidate.weight);
  }
  candidates_.resize(kept);
  return kept_sum;
}

std::int32_t Sampler::draw_from_all(std::span<const float> logits, float max, float scale,
                                    double uniform) {
  weights_.resize(logits.size());
  const double target = uniform * exp_weights(logits, max, scale, weights_);
  double below = 0;
  std::size_t last = 0;
  for (std::size_t i = 0; i < weights_.size(); ++i) {
    if (weights_[i] <= 0) continue;
    below += static_cast<double>(weights_[i]);
    last = i;
    if (target < below) break;
  }
  return static_cast<std::int32_t>(last);
}

}  // namespace moba
