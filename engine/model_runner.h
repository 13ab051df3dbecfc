// Runs steps of a model: hidden states, the logits that are wanted, and what is sampled from them.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <vector>

#include "attention/attention_backend.h"
#include "device/context.h"
#include "device/tensor.h"
#include "engine/decode_graphs.h"
#include "engine/step_inputs.h"
#include "engine/step_runner.h"
#include "engine/token_sampler.h"
#include "kvcache/kv_pool.h"
#include "moba/config.h"
#include "model/causal_lm.h"

namespace moba {

// One rank's model, cache and attention. The ranks of a group run the same batches at the same
// time; rank 0 has the results. Logits are computed for a bounded number of rows at a time,
// whatever the batch wants of them. On a GPU launch() issues a step and does not wait, but for the
// log probabilities of prompts; decode steps run as graphs, with the choice of greedy tokens in
// them. Not thread-safe.
class ModelRunner : public StepRunner {
 public:
  // Takes its parts; the context outlives it. `scheduler` bounds a batch. `decode_graphs`: whether
  // there are any.
  ModelRunner(DeviceContext& context, std::unique_ptr<CausalLM> model,
              std::unique_ptr<AttentionBackend> attention, std::unique_ptr<KvPool> cache,
              const SchedulerOptions& scheduler, bool decode_graphs = true);
  // Waits for the steps under way.
  ~ModelRunner() override;

  StepResult& run(const Batch& batch) override;
  bool is_asynchronous() const override;
  void launch(const Batch& batch) override;
  StepResult& collect() override;

  // Bytes on the device that the constructor takes beside its parts.
  static std::int64_t workspace_bytes(const ModelConfig& config, const KvPoolConfig& pool,
                                      const SchedulerOptions& scheduler, Device device);

 private:
  // A step between launch() and collect(). Its slot of the sampler has the same index.
  struct Flight {
    StepResult result;
  };
  // The arrays of a decode batch's metadata, filled up with padding.
  struct PaddedMetadata {
    std::vector<std::int32_t> cu_seqlens_q;
    std::vector<std::int32_t> seq_lens;
    std::vector<std::int32_t> block_tables;
    std::vector<std::int32_t> moba_topk;
  };

  // The number of sequences that the batch runs with as a graph; 0: it does not.
  int graph_size(const Batch& batch) const;
  AttentionMetadata pad(const Batch& batch, int size);
  void launch_graph(const Batch& batch, int size, int slot);
  void launch_forward(const Batch& batch, int slot);
  void compute_prompt_logprobs(const Batch& batch, const TensorView& hidden, int slot);
  // Hidden states of sample rows [first, first + count): a view if they are neighbours.
  TensorView sample_hidden(const Batch& batch, const TensorView& hidden,
                           const TensorView& sample_rows, std::int64_t first, std::int64_t count);

  DeviceContext& context_;
  std::unique_ptr<CausalLM> model_;
  std::unique_ptr<AttentionBackend> attention_;
  std::unique_ptr<KvPool> cache_;
  std::int64_t logit_rows_;
  Tensor logits_;    // [logit_rows, this rank's piece of the vocabulary] float32
  Tensor gathered_;  // [logit_rows, hidden_size] compute dtype
  StepInputs inputs_;
  std::unique_ptr<TokenSampler> sampler_;
  DecodeGraphs graphs_;
  PaddedMetadata padded_;
  std::array<Flight, 2> flights_;
  std::uint64_t num_launched_ = 0;
  std::uint64_t num_collected_ = 0;
};

}  // namespace moba
