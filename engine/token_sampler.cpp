#include "engine/token_sampler.h"

#include <algorithm>
#include <array>
#include <cstddef>
#include <utility>

#include "device/check.h"
#include "engine/cuda/gpu_sampler.h"
#include "engine/sampler.h"

namespace moba {
namespace {

class HostSampler : public TokenSampler {
 public:
  HostSampler(DeviceContext& context, const TokenSamplerConfig& config)
      : context_(context),
        config_(config),
        samplers_(static_cast<std::size_t>(context.pool().num_threads())),
        workspaces_(samplers_.size()) {}

  void launch(int slot, std::span<const SampleRow> rows, const LogitsSource& source) override {
    std::vector<StepResult::Sample>& out = results_[static_cast<std::size_t>(slot)];
    out.clear();
    out.resize(rows.size());
    const auto num_rows = static_cast<std::int64_t>(rows.size());
    for (std::int64_t first = 0; first < num_rows; first += config_.max_rows) {
      const std::int64_t count = std::min(config_.max_rows, num_rows - first);
      float* const data = source(first, count).data<float>();
      context_.pool().parallel_for(count, [&](std::int64_t index, int thread) {
        const auto i = static_cast<std::size_t>(first + index);
        try {
          out[i].token = samplers_[static_cast<std::size_t>(thread)].sample(
              row(data, index), rows[i].sequence->sampling, rows[i].position);
        } catch (const Error& error) {
          out[i].error = error.what();
        }
      });
    }
    last_ = slot;
  }

  void collect(int slot, std::vector<StepResult::Sample>& out) override {
    std::swap(out, results_[static_cast<std::size_t>(slot)]);
  }

  void resolve(const TensorView& sources, const TensorView& token_ids) override {
    const std::vector<StepResult::Sample>& last = results_[static_cast<std::size_t>(last_)];
    for (std::int64_t i = 0; i < sources.dim(0); ++i) {
      const std::int32_t from = sources.data<std::int32_t>()[i];
      if (from < 0) continue;
      token_ids.data<std::int32_t>()[i] = last[static_cast<std::size_t>(from)].token.token_id;
    }
  }

  void score(int /*slot*/, const TensorView& logits, std::span<const std::int32_t> targets,
             int num_top, std::span<TokenLogprob> out) override {
    float* const data = logits.data<float>();
    context_.pool().parallel_for(
        static_cast<std::int64_t>(targets.size()), [&](std::int64_t index, int thread) {
          const auto i = static_cast<std::size_t>(index);
          out[i] = compute_logprob(row(data, index), targets[i], num_top,
                                   workspaces_[static_cast<std::size_t>(thread)]);
        });
  }

 private:
  std::span<float> row(float* data, std::int64_t index) const {
    return {data + index * config_.vocab_size, static_cast<std::size_t>(config_.vocab_size)};
  }

  DeviceContext& context_;
  TokenSamplerConfig config_;
  std::vector<Sampler> samplers_;             // one per thread
  std::vector<LogprobWorkspace> workspaces_;  // one per thread
  std::array<std::vector<StepResult::Sample>, 2> results_;
  int last_ = 0;
};

}  // namespace

std::unique_ptr<TokenSampler> create_token_sampler(DeviceContext& context,
                                                   const TokenSamplerConfig& config) {
  if (context.device().type == DeviceType::kCuda) return cuda::create_gpu_sampler(context, config);
  return std::make_unique<HostSampler>(context, config);
}

std::int64_t token_sampler_bytes(Device device, const TokenSamplerConfig& config) {
  return device.type == DeviceType::kCuda ? cuda::gpu_sampler_bytes(config) : 0;
}

}  // namespace moba
