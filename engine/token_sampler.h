// Chooses tokens from rows of logits where they lie.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "device/context.h"
#include "device/tensor.h"
#include "engine/step_runner.h"
#include "model/shard_plan.h"

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

  // Whether the rows' tokens are those of their largest logits and nothing else is wanted of them.
  // Then choose_largest() and send_largest() may stand in for launch(): what the first one issues
  // depends on the shape of the logits alone, so that it can be part of a recorded step.
  virtual bool takes_largest(std::span<const SampleRow> /*rows*/) const { return false; }
  // Of all rows of logits, at most max_rows; there may be more of them than are sent.
  virtual void choose_largest(const TensorView& /*logits*/) {}
  // What the last choose_largest() found in the first num_rows rows is what the slot's launch
  // gives.
  virtual void send_largest(int /*slot*/, std::size_t /*num_rows*/) {}

  // out[i]: of targets[i] in row i of logits, with the `num_top` most probable tokens. Waits.
  // Throws Error for logits that are not finite. Nothing may be under way in the slot.
  virtual void score(int slot, const TensorView& logits, std::span<const std::int32_t> targets,
                     int num_top, std::span<TokenLogprob> out) = 0;
};

struct TokenSamplerConfig {
  std::int64_t vocab_size = 0;
  std::int64_t max_rows = 0;      // of logits at a time
  std::int64_t max_launched = 0;  // rows of a launch
  // On GPUs: logits are this rank's piece of each row, [rows, shard.vocab.size()], and the ranks
  // choose together, over the context's communicator; rank 0 has the results, every rank can
  // resolve() them. Of one rank: the whole rows.
  ShardPlan shard = {};
};

std::unique_ptr<TokenSampler> create_token_sampler(DeviceContext& context,
                                                   const TokenSamplerConfig& config);

// Bytes that it takes on the device.
std::int64_t token_sampler_bytes(Device device, const TokenSamplerConfig& config);

}  // namespace moba
