// Runs steps of a model: hidden states, the logits that are wanted, and what is sampled from them.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "attention/attention_backend.h"
#include "device/context.h"
#include "device/tensor.h"
#include "engine/sampler.h"
#include "engine/step_inputs.h"
#include "engine/step_runner.h"
#include "kvcache/kv_pool.h"
#include "model/causal_lm.h"

namespace moba {

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
