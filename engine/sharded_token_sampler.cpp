#include "engine/sharded_token_sampler.h"

#include <algorithm>
#include <array>
#include <cstddef>
#include <string>
#include <utility>

#include "device/buffer.h"
#include "device/check.h"
#include "device/copy.h"
#include "engine/sharded_sampling.h"

namespace moba {
namespace {

class ShardedTokenSampler final : public TokenSampler {
 public:
  ShardedTokenSampler(DeviceContext& context, const TokenSamplerConfig& config,
                      const ShardPlan& shard)
      : context_(context),
        config_(config),
        sampler_(context.host_communicator(), context.pool(), shard, config.vocab_size) {
    if (context.device().type == DeviceType::kCpu) return;
    const auto bytes =
        static_cast<std::size_t>(config.max_rows * shard.vocab.size()) * sizeof(float);
    host_logits_ = Buffer::host_for(context.device(), bytes, "logits");
  }

  void launch(int slot, std::span<const SampleRow> rows, const LogitsSource& source) override {
    std::vector<StepResult::Sample>& out = results_[static_cast<std::size_t>(slot)];
    out.clear();
    out.resize(rows.size());
    for (std::size_t first = 0; first < rows.size();) {
      const std::size_t count =
          std::min(static_cast<std::size_t>(config_.max_rows), rows.size() - first);
      float* const logits =
          on_host(source(static_cast<std::int64_t>(first), static_cast<std::int64_t>(count)));
      sampler_.sample(rows.subspan(first, count), logits,
                      [&](std::size_t i, SampledToken token, std::string error) {
                        out[first + i] = {std::move(token), std::move(error)};
                      });
      first += count;
    }
    // A step without samples too: its arrays are free again.
    context_.synchronize();
  }

  void collect(int slot, std::vector<StepResult::Sample>& out) override {
    std::swap(out, results_[static_cast<std::size_t>(slot)]);
  }

  // Steps do not run ahead of each other on several ranks: there is nothing to resolve.
  void resolve(const TensorView& /*sources*/, const TensorView& /*token_ids*/) override {}

  void score(int /*slot*/, const TensorView& logits, std::span<const std::int32_t> targets,
             int num_top, std::span<TokenLogprob> out) override {
    std::vector<std::string> errors(targets.size());
    sampler_.prompt_logprobs(on_host(logits), targets, num_top,
                             [&](std::size_t i, TokenLogprob logprob, std::string error) {
                               out[i] = std::move(logprob);
                               errors[i] = std::move(error);
                             });
    // On all ranks alike.
    for (const std::string& error : errors) MOBA_CHECK(error.empty(), error);
  }

 private:
  // Where the host can read and change them; waits for the device.
  float* on_host(const TensorView& logits) {
    if (context_.device().type == DeviceType::kCpu) return logits.data<float>();
    const TensorView host(host_logits_.data(), DType::kFloat32, logits.shape());
    copy_to_host(context_, logits, host);
    context_.synchronize();
    return host.data<float>();
  }

  DeviceContext& context_;
  TokenSamplerConfig config_;
  ShardedSampler sampler_;
  Buffer host_logits_;
  std::array<std::vector<StepResult::Sample>, 2> results_;
};

}  // namespace

std::unique_ptr<TokenSampler> create_sharded_token_sampler(DeviceContext& context,
                                                           const TokenSamplerConfig& config,
                                                           const ShardPlan& shard) {
  return std::make_unique<ShardedTokenSampler>(context, config, shard);
}

}  // namespace moba
