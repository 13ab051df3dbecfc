// Runs steps of a model: hidden states, the logits that are wanted, and what is sampled from them.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "attention/attention_backend.h"
#include "device/context.h"
#include "device/tensor.h"
#include "engine/batch_builder.h"
#include "engine/sampler.h"
#include "engine/step_inputs.h"
#include "kvcache/kv_pool.h"
#include "moba/request.h"
#include "model/causal_lm.h"

namespace moba {

// What a step gives, in the order of the batch's rows.
struct StepResult {
  struct Sample {
    SampledToken token;
    std::string error;  // not empty: this sequence cannot go on, the others can
  };
  std::vector<Sample> samples;                             // of batch.sample_rows
  std::vector<std::vector<TokenLogprob>> prompt_logprobs;  // of batch.prompt_logprob_rows
  std::vector<std::string> prompt_logprob_errors;          // likewise; empty: fine
};

// What the engine needs of a model; tests put something small in its place.
class StepRunner {
 public:
  virtual ~StepRunner() = default;
  // The result is valid until the next call; the caller may move from it. Throws Error if the step
  // failed as a whole.
  virtual StepResult& run(const Batch& batch) = 0;
};

// One rank's model, cache and attention. Logits are computed for a bounded number of rows at a
// time, whatever the batch wants of them. Not thread-safe.
class ModelRunner : public StepRunner {
 public:
  // Takes its parts; the context outlives it. The limits bound a batch.
  ModelRunner(DeviceContext& context, std::unique_ptr<CausalLM> model,
              std::unique_ptr<AttentionBackend> attention, std::unique_ptr<KvPool> cache,
              std::int64_t max_num_batched_tokens, std::int64_t max_num_seqs);

  StepResult& run(const Batch& batch) override;

  // Bytes of logits and gathered rows for a vocabulary: what the constructor takes.
  static std::int64_t logits_bytes(const ModelConfig& config, DType dtype,
                                   std::int64_t max_num_batched_tokens);

 private:
  void sample(const Batch& batch, const TensorView& hidden);
  void compute_prompt_logprobs(const Batch& batch, const TensorView& hidden);
  // Rows of logits where the host can read (and change) them; waits for the device.
  float* on_host(const TensorView& logits);
  // Hidden states of sample rows [first, first + count): a view if they are neighbours.
  TensorView sample_hidden(const Batch& batch, const TensorView& hidden, std::int64_t first,
                           std::int64_t count);

  DeviceContext& context_;
  std::unique_ptr<CausalLM> model_;
  std::unique_ptr<AttentionBackend> attention_;
  std::unique_ptr<KvPool> cache_;
  std::int64_t logit_rows_;
  Tensor logits_;       // [logit_rows, vocab_size] float32
  Tensor gathered_;     // [logit_rows, hidden_size] compute dtype
  Buffer host_logits_;  // like logits_; empty on the CPU
  StepInputs inputs_;
  std::vector<Sampler> samplers_;                     // one per thread
  std::vector<LogprobWorkspace> logprob_workspaces_;  // one per thread
  StepResult result_;
};

}  // namespace moba
