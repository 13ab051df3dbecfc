// Chooses tokens from rows of logits where they lie.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "device/context.h"
#include "device/tensor.h"
#include "engine/step_runner.h"

namespace moba {

// Sampling is launched and collected as steps are: up to two launches may be under way, each in a
// slot of its own, 0 or 1. On the CPU Sampler over the context's threads, done when launch()
// returns; on a GPU kernels that choose the same tokens from the same logits, up to the rounding of
// sums, and launch() does not wait for them. Not thread-safe.
class TokenSampler {
 public:
  // Computes the logits of rows [first, first + count): [count, vocab_size] float32, which may be
  // changed, valid until the next call.
  using LogitsSource = std::function<TensorView(std::int64_t first, std::int64_t count)>;

  virtual ~TokenSampler() = default;

  // One token for each row, at most max_rows of whose logits are asked for at a time. What the
  // rows' sequences say of sampling is read before this returns.
  virtual void launch(int slot, std::span<const SampleRow> rows, const LogitsSource& logits) = 0;
  // Waits for the slot's launch: out[i] is of its row i. A row that has no token has an error of
  // its own.
  virtual void collect(int slot, std::vector<StepResult::Sample>& out) = 0;

  // token_ids[i] = the token of row sources[i] of the last launch, where that is not negative. Both
  // [n] int32 on the device. In the order of operations.
  virtual void resolve(const TensorView& sources, const TensorView& token_ids) = 0;

  // out[i]: of targets[i] in row i of logits, with the `num_top` most probable tokens. Waits.
  // Throws Error for logits that are not finite. Nothing may be under way in the slot.
  virtual void score(int slot, const TensorView& logits, std::span<const std::int32_t> targets,
                     int num_top, std::span<TokenLogprob> out) = 0;
};

struct TokenSamplerConfig {
  std::int64_t vocab_size = 0;
  std::int64_t max_rows = 0;      // of logits at a time
  std::int64_t max_launched = 0;  // rows of a launch
};

std::unique_ptr<TokenSampler> create_token_sampler(DeviceContext& context,
                                                   const TokenSamplerConfig& config);

// Bytes that it takes on the device.
std::int64_t token_sampler_bytes(Device device, const TokenSamplerConfig& config);

}  // namespace moba
