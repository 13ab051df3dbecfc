#include "engine/sharded_token_sampler.h"

#include <algorithm>
#include <array>
#include <cstddef>
#include <string>
#include <utility>

#include "device/check.h"
#include "engine/sharded_sampling.h"

namespace moba {
namespace {

class ShardedTokenSampler final : public TokenSampler {
 public:
  ShardedTokenSampler(DeviceContext& context, const TokenSamplerConfig& config,
                      const ShardPlan& shard)
      : config_(config),
        sampler_(context.host_communicator(), context.pool(), shard, config.vocab_size) {}

  void launch(int slot, std::span<const SampleRow> rows, const LogitsSource& source) override {
    std::vector<StepResult::Sample>& out = results_[static_cast<std::size_t>(slot)];
    out.clear();
    out.resize(rows.size());
    for (std::size_t first = 0; first < rows.size();) {
      const std::size_t count =
          std::min(static_cast<std::size_t>(config_.max_rows), rows.size() - first);
      float* const logits =
          source(static_cast<std::int64_t>(first), static_cast<std::int64_t>(count)).data<float>();
      sampler_.sample(rows.subspan(first, count), logits,
                      [&](std::size_t i, SampledToken token, std::string error) {
                        out[first + i] = {std::move(token), std::move(error)};
                      });
      first += count;
    }
  }

  void collect(int slot, std::vector<StepResult::Sample>& out) override {
    std::swap(out, results_[static_cast<std::size_t>(slot)]);
  }

  // Steps do not run ahead of each other on several ranks: there is nothing to resolve.
  void resolve(const TensorView& /*sources*/, const TensorView& /*token_ids*/) override {}

  void score(int /*slot*/, const TensorView& logits, std::span<const std::int32_t> targets,
             int num_top, std::span<TokenLogprob> out) override {
    std::vector<std::string> errors(targets.size());
    sampler_.prompt_logprobs(logits.data<float>(), targets, num_top,
                             [&](std::size_t i, TokenLogprob logprob, std::string error) {
                               out[i] = std::move(logprob);
                               errors[i] = std::move(error);
                             });
    // On all ranks alike.
    for (const std::string& error : errors) MOBA_CHECK(error.empty(), error);
  }

 private:
  TokenSamplerConfig config_;
  ShardedSampler sampler_;
  std::array<std::vector<StepResult::Sample>, 2> results_;
};

}  // namespace

std::unique_ptr<TokenSampler> create_sharded_token_sampler(DeviceContext& context,
                                                           const TokenSamplerConfig& config,
                                                           const ShardPlan& shard) {
  return std::make_unique<ShardedTokenSampler>(context, config, shard);
}

}  // namespace moba
